//! The port to the other servers of the grid: streams of bytes, each for one purpose.

use coppice_schema::ids::ServerId;
use futures::future::BoxFuture;

use crate::hypervisor::ByteStream;

/// The other servers.
///
/// Guarantees of every adapter: both ends are members of the grid and have proven to each other which; nobody between
/// them reads or changes a byte; the stream ends at once when either is removed from the grid. A stream may break at
/// any byte: whoever uses one says what is left after that.
pub trait Peers: Send + Sync {
    /// A new stream to `server` for `purpose`.
    fn connect(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>>;
}

/// A server that reaches no other.
pub struct Alone;

impl Peers for Alone {
    fn connect(
        &self,
        server: ServerId,
        _: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        Box::pin(async move { Err(PeerError::Stranger(server)) })
    }
}

/// What takes streams that others open.
pub trait Serves: Send + Sync {
    /// Serves one stream, which `from` opened, to its end.
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()>;
}

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Purpose {
    /// Images on their way from disk to disk.
    Images,
    /// A desktop on its way, and copies of desktops.
    Desktops,
    /// Certificates, and the authority's key on its way to a server that votes.
    Keys,
    /// Consoles and screenshots of desktops that are on the other server.
    Consoles,
}

/// Why there is no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No such member, as far as is known here.
    #[error("server {0} is no member of this grid")]
    Stranger(ServerId),
    /// It does not answer.
    #[error("server {server} does not answer: {why}")]
    Unreachable {
        /// Which.
        server: ServerId,
        /// Why, in the system's words.
        why: String,
    },
    /// It answered, and has nothing for this purpose.
    #[error("server {server} does not serve {purpose:?}: {why}")]
    Refused {
        /// Which.
        server: ServerId,
        /// What for.
        purpose: Purpose,
        /// Why, in its words.
        why: String,
    },
}
