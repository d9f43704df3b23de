//! Streams between simulated servers: pipes in memory, which a test can cut.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use coppice_schema::ids::ServerId;
use futures::future::{BoxFuture, FutureExt};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::hypervisor::ByteStream;
use crate::peers::{PeerError, Peers, Purpose, Serves};

/// Bytes that wait in a pipe before its writer does.
const PIPE: usize = 64 << 10;

/// The wires between simulated servers. Clones are the same ones.
#[derive(Clone, Default)]
pub struct SimWires(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    serving: BTreeMap<(ServerId, Purpose), Arc<dyn Serves>>,
    /// From, to.
    cut: BTreeSet<(ServerId, ServerId)>,
    /// Servers that reach nobody, and how often each came to be one: their streams broke then.
    apart: BTreeSet<ServerId>,
    breaks: BTreeMap<ServerId, u64>,
    served: Vec<BoxFuture<'static, ()>>,
}

/// One server's end of the wires.
#[derive(Clone)]
pub struct SimPeers {
    me: ServerId,
    wires: SimWires,
}

impl SimWires {
    /// The end of server `me`.
    #[must_use]
    pub fn peers(&self, me: ServerId) -> SimPeers {
        SimPeers {
            me,
            wires: self.clone(),
        }
    }

    /// `serves` takes what others open to `server` for `purpose`.
    pub fn serve(&self, server: ServerId, purpose: Purpose, serves: Arc<dyn Serves>) {
        self.lock().serving.insert((server, purpose), serves);
    }

    /// Nothing new gets from one to the other any more, or does again.
    pub fn cut(&self, from: ServerId, to: ServerId, cut: bool) {
        let mut wires = self.lock();
        if cut {
            wires.cut.insert((from, to));
        } else {
            wires.cut.remove(&(from, to));
        }
    }

    /// A server is away, with its power or without: its streams break, whoever opened them, and there are no new ones until
    /// it is back.
    pub fn part(&self, server: ServerId, away: bool) {
        let mut wires = self.lock();
        if away {
            wires.apart.insert(server);
            *wires.breaks.entry(server).or_default() += 1;
        } else {
            wires.apart.remove(&server);
        }
    }

    /// How often streams between two servers have broken.
    fn broke(&self, one: ServerId, other: ServerId) -> [u64; 2] {
        let wires = self.lock();
        [one, other].map(|end| wires.breaks.get(&end).copied().unwrap_or(0))
    }

    /// The serving ends of streams that were opened since the last call: whoever runs the simulation polls them.
    #[must_use]
    pub fn served(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.lock().served)
    }

    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers for SimPeers {
    fn connect(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        async move {
            let wires = self.wires.lock();
            let apart = [self.me, server]
                .iter()
                .any(|end| wires.apart.contains(end));
            if apart || wires.cut.contains(&(self.me, server)) {
                return Err(PeerError::Unreachable {
                    server,
                    why: "the wire is cut".to_owned(),
                });
            }
            let serves = wires.serving.get(&(server, purpose)).cloned();
            let Some(serves) = serves else {
                return Err(PeerError::Refused {
                    server,
                    purpose,
                    why: "nothing takes such streams".to_owned(),
                });
            };
            let (mine, theirs) = tokio::io::duplex(PIPE);
            let mut served = serves.serve(self.me, Box::pin(theirs.compat()));
            drop(wires);
            let (all, me) = (self.wires.clone(), self.me);
            let whole = all.broke(me, server);
            let unbroken = poll_fn(move |context| {
                if all.broke(me, server) != whole {
                    return Poll::Ready(());
                }
                served.poll_unpin(context)
            });
            self.wires.lock().served.push(unbroken.boxed());
            Ok(Box::pin(mine.compat()) as ByteStream)
        }
        .boxed()
    }
}
