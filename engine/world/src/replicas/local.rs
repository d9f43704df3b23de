//! Copies on a real server: a hypervisor of libvirt, and a store on this machine's disk.

mod send;
mod take;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::ids::Member;
use coppice_schema::units::Timestamp;
use futures::future::{BoxFuture, FutureExt};

use super::{Original, Replica, ReplicaError, Replicas, Sent};
use crate::disks::{LocalDisks, NewOverlay};
use crate::hypervisor::{ByteStream, Mark};
use crate::libvirt::Libvirt;
use crate::moves::Road;

/// How long nothing may move.
const STALL: Duration = Duration::from_secs(60);

/// Copies of desktops that run on `libvirt`, whose overlays are on `disks`, and copies of others' on `disks`.
pub struct LocalReplicas {
    libvirt: Arc<Libvirt>,
    disks: LocalDisks,
}

impl LocalReplicas {
    /// Copies between those and other servers.
    #[must_use]
    pub fn new(libvirt: Arc<Libvirt>, disks: LocalDisks) -> Self {
        Self { libvirt, disks }
    }
}

impl Replicas for LocalReplicas {
    fn send<'a>(
        &'a self,
        original: &'a Original,
        taken: Timestamp,
        road: &'a dyn Road,
    ) -> BoxFuture<'a, Result<Sent, ReplicaError>> {
        self.send_copy(original, taken, road).boxed()
    }

    fn take<'a>(
        &'a self,
        mark: &'a Mark,
        stream: ByteStream,
    ) -> BoxFuture<'a, Result<(), ReplicaError>> {
        self.take_copy(mark, stream).boxed()
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<Replica>, ReplicaError>> {
        self.disks.replicas().boxed()
    }

    fn restore<'a>(
        &'a self,
        from: &'a Member,
        overlay: NewOverlay,
    ) -> BoxFuture<'a, Result<PathBuf, ReplicaError>> {
        self.disks.restore_replica(from.clone(), overlay).boxed()
    }

    fn remove<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), ReplicaError>> {
        self.disks.remove_replica(member.clone()).boxed()
    }
}

/// What was to happen on a stream, or an error when it did not for too long.
async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STALL, step).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing has moved for {} s", STALL.as_secs()),
        )),
    }
}

fn broken(member: &Member, cause: impl ToString) -> ReplicaError {
    ReplicaError::Broken {
        member: member.clone(),
        cause: cause.to_string(),
    }
}
