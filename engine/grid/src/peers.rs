//! Streams to the other servers, over the same port and with the same certificates as agreement.

use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{PeerError, Peers, Purpose};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::link::LinkError;
use crate::types::GridTypes;
use crate::wire::{Rejection, Wire};

/// The other servers of the grid.
pub struct OverWire<C: GridTypes>(Wire<C>);

impl<C: GridTypes> OverWire<C> {
    pub(crate) fn new(wire: Wire<C>) -> Self {
        Self(wire)
    }
}

impl<C: GridTypes> Peers for OverWire<C> {
    fn connect(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        async move {
            let opened = self.0.stream(server, purpose).await;
            opened.map_err(|error| match error {
                LinkError::Distrusted(Rejection::Stranger(_)) => PeerError::Stranger(server),
                LinkError::Rejected(why @ Rejection::NothingServes(_)) => PeerError::Refused {
                    server,
                    purpose,
                    why: why.to_string(),
                },
                LinkError::Unreachable(_)
                | LinkError::Rejected(_)
                | LinkError::Distrusted(_)
                | LinkError::TooLarge { .. }
                | LinkError::Lost(_) => PeerError::Unreachable {
                    server,
                    why: error.to_string(),
                },
            })
        }
        .boxed()
    }
}
