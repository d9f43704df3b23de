//! openraft's own suite for storage, on the real store and on its twin.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::directory::Directory;
use crate::log::Log;
use crate::machine::Machine;
use crate::memory::{MemoryDisk, MemoryLog};
use crate::snapshots::SnapshotFiles;
use crate::types::Real;

struct OnDisk;

impl StoreBuilder<Real, Log<Real>, Machine<Real>, tempfile::TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, Log<Real>, Machine<Real>), StorageError<Real>> {
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::claim(dir.path()).unwrap());
        let log = Log::open(&directory, |why| panic!("the log failed: {why}")).unwrap();
        let (files, none) = SnapshotFiles::open(&directory, None).unwrap();
        Ok((dir, log, Machine::new(Arc::new(files), none)))
    }
}

struct InMemory;

impl StoreBuilder<Real, MemoryLog<Real>, Machine<Real>> for InMemory {
    async fn build(&self) -> Result<((), MemoryLog<Real>, Machine<Real>), StorageError<Real>> {
        let disk = MemoryDisk::new(7, Duration::from_millis(1));
        let machine = Machine::new(Arc::new(disk.snapshots()), None);
        Ok(((), disk.log(), machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_on_disk_passes() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_memory_passes() {
    Suite::test_all(InMemory).await.unwrap();
}
