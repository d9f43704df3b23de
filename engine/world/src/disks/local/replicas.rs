//! The store's part in copies of desktops.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_golden::replica::{Arrival, Chunks, Fingerprint};
use coppice_schema::Digest;
use coppice_schema::ids::Member;
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Timestamp};

use super::{LocalDisks, blocking, failed, spec, store_error};
use crate::disks::{DiskError, NewOverlay};
use crate::hypervisor::Mark;
use crate::replicas::wire::Offer;
use crate::replicas::{Replica, ReplicaError};

/// A copy that comes.
pub(crate) struct Arriving {
    disks: LocalDisks,
    arrival: Arc<Arrival>,
    member: Member,
    /// What is here of an earlier copy.
    former: Arc<Mutex<Option<Chunks>>>,
}

impl LocalDisks {
    async fn with_replicas<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Self) -> Result<T, ReplicaError> + Send + 'static,
    ) -> Result<T, ReplicaError> {
        let this = self.clone();
        // What the disk says and what is said of a copy are told apart.
        blocking(&what, move || Ok(work(&this))).await?
    }

    pub(crate) async fn replicas(&self) -> Result<Vec<Replica>, ReplicaError> {
        self.with_replicas("list copies".to_owned(), |this| {
            let found = this.store.replicas(this.grid);
            let found = found.map_err(|e| this.replica_error(&"copies", e))?;
            let each = |replica: coppice_golden::Replica| Replica {
                mark: Mark {
                    grid: replica.mark.grid,
                    epoch: replica.mark.epoch,
                    member: replica.mark.member,
                    image: replica.mark.image,
                    stamp: replica.mark.stamp,
                },
                taken: replica.taken,
                allocated: replica.allocated,
            };
            Ok(found.into_iter().map(each).collect())
        })
        .await
    }

    pub(crate) async fn restore_replica(
        &self,
        from: Member,
        overlay: NewOverlay,
    ) -> Result<PathBuf, ReplicaError> {
        self.with_replicas(format!("restore the copy of {from}"), move |this| {
            let written = this.store.restore_replica(&from, &spec(overlay));
            let written = written.map_err(|e| this.replica_error(&from, e))?;
            Ok(written.path)
        })
        .await
    }

    pub(crate) async fn remove_replica(&self, member: Member) -> Result<(), ReplicaError> {
        self.with_replicas(format!("remove the copy of {member}"), move |this| {
            let removed = this.store.remove_replica(this.grid, &member);
            removed
                .map(drop)
                .map_err(|e| this.replica_error(&member, e))
        })
        .await
    }

    /// Makes room for what is offered, if its image is here and right.
    pub(crate) async fn begin_replica(
        &self,
        mark: Mark,
        offer: Offer,
    ) -> Result<Arriving, ReplicaError> {
        let member = mark.member.clone();
        self.with_replicas(format!("take a copy of {member}"), move |this| {
            if mark.grid != this.grid {
                let what = format!("a copy of {member} of grid {}", mark.grid);
                return Err(DiskError::NotOurs(what).into());
            }
            let images = this.store.images().map_err(store_error)?;
            let image = images.iter().find(|image| image.root == mark.image);
            let image = image.map(|image| this.look(image).state);
            if image != Some(CopyState::Verified) {
                let what = format!("whole image {}", mark.image.short());
                return Err(DiskError::Absent(what).into());
            }
            let size = offer.size;
            let mark = spec(NewOverlay { mark, size });
            let arrival = this.store.begin_replica(mark, offer.data);
            let arrival = arrival.map_err(|e| this.replica_error(&member, e))?;
            let former = arrival
                .former()
                .map_err(|e| this.replica_error(&member, e))?;
            Ok(Arriving {
                disks: this.clone(),
                former: Arc::new(Mutex::new(former)),
                arrival: Arc::new(arrival),
                member,
            })
        })
        .await
    }

    /// An empty file for the `data` bytes that an overlay here holds.
    pub(crate) async fn begin_outgoing(
        &self,
        member: Member,
        image: Digest,
        size: Size,
        data: Size,
    ) -> Result<PathBuf, ReplicaError> {
        self.with_replicas(format!("copy the disk of {member}"), move |this| {
            let path = this.store.begin_outgoing(&member, image, size, data);
            path.map_err(|e| this.replica_error(&member, e))
        })
        .await
    }

    fn replica_error(
        &self,
        of: &dyn std::fmt::Display,
        error: coppice_golden::ReplicaError,
    ) -> ReplicaError {
        use coppice_golden::ReplicaError as Golden;
        use coppice_golden::StoreError;
        let what = format!("keep a copy of {of}");
        match error {
            Golden::Absent(member) => ReplicaError::Absent(member),
            Golden::NoSpace { needed, free, .. } => DiskError::Full { what, needed, free }.into(),
            Golden::NotOurs { member, what } => {
                DiskError::NotOurs(format!("the copy of {member} ({what})")).into()
            }
            Golden::Overlay(error) => self.overlay_error(error).into(),
            Golden::Store(StoreError::Disk(e)) if e.is_full() => self.full(what, Size(0)).into(),
            Golden::Store(error) => store_error(error).into(),
            Golden::Superseded(ref member) | Golden::Unfit { ref member, .. } => {
                ReplicaError::Broken {
                    member: member.clone(),
                    cause: error.to_string(),
                }
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves what was read as it is.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arriving {
    /// What the file of a copy of a disk of that size may be long: its data, once, and its tables.
    pub(crate) fn longest(size: Size) -> u64 {
        // A table for every 8,192 clusters, reference counts for every 32,768, and some of both that are not needed.
        size.0.saturating_add(size.0 / 256).saturating_add(16 << 20)
    }

    pub(crate) async fn write(&self, offset: u64, bytes: Vec<u8>) -> Result<(), ReplicaError> {
        let (arrival, member) = (Arc::clone(&self.arrival), self.member.clone());
        let write = move |this: &LocalDisks| {
            let written = arrival.write(offset, &bytes);
            written.map_err(|e| this.replica_error(&member, e))
        };
        self.disks
            .with_replicas("write a copy".to_owned(), write)
            .await
    }

    /// Fingerprints of some more chunks that are here; empty: there are no more.
    pub(crate) async fn former(&self, count: usize) -> Result<Vec<Fingerprint>, ReplicaError> {
        let former = Arc::clone(&self.former);
        let what = format!("read the copy of {}", self.member);
        let read = move |_: &LocalDisks| {
            let mut former = locked(&former);
            let more = former.as_mut().map(|chunks| chunks.more(count));
            let more = more.unwrap_or_else(|| Ok(Vec::new()));
            Ok(more.map_err(|e| failed("read a copy".to_owned(), &e))?)
        };
        self.disks.with_replicas(what, read).await
    }

    /// Writes chunks that are here where they belong; their bytes.
    pub(crate) async fn write_again(
        &self,
        chunks: Vec<(u64, Fingerprint)>,
    ) -> Result<Vec<(u64, Vec<u8>)>, ReplicaError> {
        let (former, arrival) = (Arc::clone(&self.former), Arc::clone(&self.arrival));
        let member = self.member.clone();
        let write = move |this: &LocalDisks| {
            let former = locked(&former);
            let mut written = Vec::with_capacity(chunks.len());
            for (place, fingerprint) in chunks {
                let found = former.as_ref().map(|chunks| chunks.get(fingerprint));
                let found = found.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
                let bytes = found.map_err(|e| failed("read a copy".to_owned(), &e))?;
                let wrote = arrival.write(place, &bytes);
                wrote.map_err(|e| this.replica_error(&member, e))?;
                written.push((place, bytes));
            }
            Ok(written)
        };
        self.disks
            .with_replicas("write a copy".to_owned(), write)
            .await
    }

    pub(crate) async fn finish(&self, length: u64, taken: Timestamp) -> Result<(), ReplicaError> {
        let (arrival, member) = (Arc::clone(&self.arrival), self.member.clone());
        let finish = move |this: &LocalDisks| {
            let finished = arrival.finish(length, taken);
            finished.map_err(|e| this.replica_error(&member, e))
        };
        self.disks
            .with_replicas("keep a copy".to_owned(), finish)
            .await
    }
}
