use std::fs;
use std::sync::Mutex;

use coppice_schema::ids::{Epoch, Stamp};

use super::*;

const GRID: GridId = GridId([7; 16]);

struct Place {
    dir: tempfile::TempDir,
    disks: LocalDisks,
}

async fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let disks = LocalDisks::open(dir.path().join("store"), GRID)
        .await
        .unwrap();
    Place { dir, disks }
}

impl Place {
    /// The next start of the daemon.
    async fn restarted(self) -> Self {
        let Self { dir, disks } = self;
        drop(disks);
        let disks = LocalDisks::open(dir.path().join("store"), GRID)
            .await
            .unwrap();
        Self { dir, disks }
    }

    /// A raw disk of 1 MiB with a little in it.
    async fn image(&self) -> Imported {
        self.image_telling(Arc::new(|_| {})).await
    }

    async fn image_telling(&self, told: Arc<dyn Fn(Progress) + Send + Sync>) -> Imported {
        let path = self.dir.path().join("image.raw");
        let mut bytes = vec![0u8; 1 << 20];
        bytes[70_000..70_100].fill(9);
        // The signature of a boot sector: what makes a file without any other format a disk.
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&path, bytes).unwrap();
        self.disks.import_image(path, told).await.unwrap()
    }

    fn overlay(&self, member: &str, image: Digest, grid: GridId) -> NewOverlay {
        NewOverlay {
            mark: Mark {
                grid,
                epoch: Epoch {
                    number: 1,
                    recovery: 0,
                },
                member: member.parse().unwrap(),
                image,
                stamp: Stamp {
                    epoch: 1,
                    term: 1,
                    index: 5,
                    ordinal: 0,
                },
            },
            size: Size::mib(2),
        }
    }

    async fn state(&self, root: Digest) -> CopyState {
        let images = self.disks.images().await.unwrap();
        images.iter().find(|i| i.root == root).unwrap().state
    }
}

#[tokio::test]
async fn an_imported_image_is_verified_and_says_how_far_it_is() {
    let place = place().await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    place.image().await;
    let path = place.dir.path().join("image.raw");
    let imported = place
        .disks
        .import_image(path, Arc::new(move |p| seen.lock().unwrap().push(p.step)))
        .await
        .unwrap();
    assert_eq!(imported.size, Size::mib(1));
    assert_eq!(place.state(imported.root).await, CopyState::Verified);
    let steps = steps.lock().unwrap();
    assert!(
        steps.contains(&"hashing") && steps.contains(&"verifying"),
        "{steps:?}"
    );
}

#[tokio::test]
async fn an_image_that_was_written_to_is_bad_until_it_is_verified() {
    let place = place().await;
    let root = place.image().await.root;
    let file = place.disks.store.image_path(root);
    let whole = fs::read(&file).unwrap();
    let mut spoilt = whole.clone();
    spoilt[70_050] = 1;
    // An image is read-only; whoever changes it anyway goes around that.
    fs::remove_file(&file).unwrap();
    fs::write(&file, spoilt).unwrap();
    assert_eq!(place.state(root).await, CopyState::Bad);
    assert_eq!(place.disks.verify_image(root).await, Ok(CopyState::Bad));
    fs::write(&file, whole).unwrap();
    assert_eq!(
        place.disks.verify_image(root).await,
        Ok(CopyState::Verified)
    );
    assert_eq!(place.state(root).await, CopyState::Verified);
}

#[tokio::test]
async fn a_rotten_image_stays_bad_after_a_restart_until_its_source_comes_again() {
    let place = place().await;
    let root = place.image().await.root;
    rot(&place.disks.store.image_path(root));
    assert_eq!(
        place.state(root).await,
        CopyState::Verified,
        "nobody looked"
    );
    assert_eq!(place.disks.verify_image(root).await, Ok(CopyState::Bad));
    let place = place.restarted().await;
    assert_eq!(place.state(root).await, CopyState::Bad);
    assert_eq!(place.image().await.root, root);
    assert_eq!(place.state(root).await, CopyState::Verified);
    // Nor does it matter whether somebody had found it.
    rot(&place.disks.store.image_path(root));
    let place = place.restarted().await;
    place.image().await;
    assert_eq!(
        place.disks.verify_image(root).await,
        Ok(CopyState::Verified)
    );
    assert_eq!(place.state(root).await, CopyState::Verified);
}

/// Changes a byte as a disk does it: size, time and inode stay.
fn rot(image: &Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let meta = fs::metadata(image).unwrap();
    fs::set_permissions(image, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(image).unwrap();
    file.write_all_at(&[1], 70_050).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    file.sync_all().unwrap();
    fs::set_permissions(image, meta.permissions()).unwrap();
}

#[tokio::test]
async fn an_image_is_on_its_way_until_it_was_read_back() {
    let place = place().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let disks = place.disks.clone();
    let states = Arc::clone(&seen);
    let told = move |progress: Progress| {
        if progress.step == "verifying" {
            let looking = tokio::runtime::Handle::current().block_on(disks.images());
            let state = looking.unwrap().iter().map(|image| image.state).next();
            states.lock().unwrap().push(state);
        }
    };
    place.image_telling(Arc::new(told)).await;
    let seen = seen.lock().unwrap();
    assert!(
        !seen.is_empty() && seen.iter().all(|state| *state == Some(CopyState::Copying)),
        "{seen:?}"
    );
}

#[tokio::test]
async fn overlays_are_made_listed_and_removed_by_their_mark() {
    let place = place().await;
    let root = place.image().await.root;
    let new = place.overlay("lab-001@1", root, GRID);
    let paths = place.disks.make_overlays(vec![new.clone()]).await.unwrap();
    assert_eq!(
        place.disks.make_overlays(vec![new.clone()]).await.unwrap(),
        paths
    );
    fs::write(paths[0].with_file_name("lab-002@1.qcow2"), "mine").unwrap();

    let mut listed = place.disks.overlays().await.unwrap();
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].mark, Some(new.mark.clone()));
    assert!(listed[0].sound);
    assert_eq!(listed[0].size, new.size);
    assert_eq!(listed[1].mark, None);

    let in_use = place.disks.drop_image(root).await.unwrap_err();
    assert!(matches!(in_use, DiskError::InUse { .. }), "{in_use}");
    let foreign = "lab-002@1".parse().unwrap();
    let refused = place.disks.remove_overlay(&foreign).await.unwrap_err();
    assert!(matches!(refused, DiskError::NotOurs(_)), "{refused}");
    place.disks.remove_overlay(&new.mark.member).await.unwrap();
    place.disks.remove_overlay(&new.mark.member).await.unwrap();
    assert_eq!(place.disks.overlays().await.unwrap().len(), 1);
    place.disks.drop_image(root).await.unwrap();
    assert_eq!(place.disks.images().await.unwrap(), []);
}

#[tokio::test]
async fn another_grids_overlay_is_never_removed() {
    let place = place().await;
    let root = place.image().await.root;
    let theirs = place.overlay("lab-001@1", root, GridId([8; 16]));
    place
        .disks
        .make_overlays(vec![theirs.clone()])
        .await
        .unwrap();
    let refused = place
        .disks
        .remove_overlay(&theirs.mark.member)
        .await
        .unwrap_err();
    assert!(matches!(refused, DiskError::NotOurs(_)), "{refused}");
    let ours = place.overlay("lab-001@1", root, GRID);
    let taken = place.disks.make_overlays(vec![ours]).await.unwrap_err();
    assert!(matches!(taken, DiskError::NotOurs(_)), "{taken}");
}

#[tokio::test]
async fn what_is_absent_or_no_image_is_told() {
    let place = place().await;
    let absent = Digest::of(b"nothing");
    let told = place.disks.verify_image(absent).await.unwrap_err();
    assert!(matches!(told, DiskError::Absent(_)), "{told}");
    let overlay = place.overlay("lab-001@1", absent, GRID);
    let told = place.disks.make_overlays(vec![overlay]).await.unwrap_err();
    assert!(matches!(told, DiskError::Absent(_)), "{told}");
    let empty = place.dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let told = place
        .disks
        .import_image(empty, Arc::new(|_| {}))
        .await
        .unwrap_err();
    assert!(matches!(told, DiskError::BadSource { .. }), "{told}");
    let again = LocalDisks::open(place.dir.path().join("store"), GRID).await;
    assert!(again.is_err_and(|e| e.to_string().contains("in use")));
}

#[tokio::test]
async fn an_image_without_its_data_or_manifest_is_bad() {
    for part in ["raw", "manifest"] {
        let place = place().await;
        let root = place.image().await.root;
        let file = place.disks.store.image_path(root).with_extension(part);
        fs::remove_file(file).unwrap();
        assert_eq!(place.state(root).await, CopyState::Bad, "without {part}");
    }
}

#[tokio::test]
async fn a_disk_without_room_is_told_as_such() {
    let place = place().await;
    let (needed, free) = (Size::gib(2), Size::gib(1));
    let path = PathBuf::from("/images");
    let cause = ImportError::NoSpace { path, needed, free };
    let told = place.disks.import_error(Path::new("/up/tiny.raw"), cause);
    let what = "import tiny.raw".to_owned();
    assert_eq!(told, DiskError::Full { what, needed, free });
}

/// Whoever asked went away while the source was read: nothing comes of it.
#[test]
fn work_that_nobody_waits_for_stops() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.raw");
    let mut bytes = vec![3u8; 1 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, bytes).unwrap();
    let store = dir.path().join("store");
    let disks = runtime.block_on(LocalDisks::open(store, GRID)).unwrap();
    let (began, beginning) = std::sync::mpsc::channel();
    let (go_on, left) = std::sync::mpsc::channel::<()>();
    let left = Mutex::new(left);
    let progress = move |_| {
        // Held where it first tells how far it is, until nobody waits any more.
        if began.send(()).is_ok() {
            left.lock().unwrap().recv().ok();
        }
    };
    let asked = disks.clone();
    let import = async move { asked.import_image(path, Arc::new(progress)).await };
    let import = runtime.spawn(import);
    beginning.recv().unwrap();
    import.abort();
    assert!(runtime.block_on(import).unwrap_err().is_cancelled());
    drop(beginning);
    drop(go_on);
    // Its end is waited for here.
    drop(runtime);
    assert_eq!(disks.store.images().unwrap(), []);
}
