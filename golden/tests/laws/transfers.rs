//! Images from store to store.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coppice_golden::store::Look;
use coppice_golden::transfer::{Means, ReceiveError};
use coppice_golden::{CHUNK, Cancel, Imported, Options, Store, VerifyError};
use coppice_schema::Digest;
use coppice_schema::units::Size;
use proptest::prelude::*;

use crate::pipes::{Harm, Source, get, get_with, getting, means};
use crate::scratch::{KIB, MIB, noise, options, read};

struct Place {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("copies-")
            .tempdir()
            .unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        Self { dir, store }
    }

    fn import(&self, size: u64, parts: &[(u64, Vec<u8>)]) -> Imported {
        let path = self.dir.path().join("source.raw");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        let options: Options = options();
        self.store
            .import(&path, &options, &mut |_| {}, &Cancel::new())
            .unwrap()
    }

    /// Its daemon ends, and begins again.
    fn restart(self) -> Self {
        let Self { dir, store } = self;
        let store = Arc::into_inner(store).expect("nobody else has it");
        drop(store);
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        Self { dir, store }
    }

    fn verify(&self, root: Digest) -> Result<(), VerifyError> {
        let verified = self.store.verify(root, &mut |_| {}, &Cancel::new());
        verified.map(drop)
    }

    fn spoil(&self, root: Digest, place: u64) {
        let path = self.store.image_path(root);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"rot", place * CHUNK + 7).unwrap();
        file.sync_all().unwrap();
    }

    fn halves(&self) -> usize {
        let entries = std::fs::read_dir(self.store.path().join("incoming")).unwrap();
        entries
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("copy-")
            })
            .count()
    }
}

/// 3 MiB and a bit: some of it packs, some does not, some is a hole, and its last chunk is short.
fn parts() -> Vec<(u64, Vec<u8>)> {
    vec![
        (0, noise(1, 700_000)),
        (MIB, b"abcdefgh".repeat(60_000)),
        (3 * MIB, noise(2, 5000)),
    ]
}

const SIZE: u64 = 3 * MIB + 6 * KIB;

fn same(a: &Place, b: &Place, root: Digest) {
    assert_eq!(
        read(&a.store.image_path(root)),
        read(&b.store.image_path(root))
    );
    b.verify(root).unwrap();
    let image = b
        .store
        .images()
        .unwrap()
        .into_iter()
        .find(|i| i.root == root);
    assert_eq!(image.unwrap().look, Look::Unchanged);
    assert_eq!(b.halves(), 0, "nothing half is left");
}

#[test]
fn an_image_comes_whole_sparse_and_protected() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    let source = Source::new(&a.store);
    let copied = get(&b.store, root, std::slice::from_ref(&source)).unwrap();
    assert_eq!((copied.size, copied.cloned), (Size(SIZE), Size(0)));
    assert!(
        copied.wire < copied.data,
        "what packs well is packed: {copied:?}"
    );
    same(&a, &b, root);
    let meta = std::fs::metadata(b.store.image_path(root)).unwrap();
    assert!(meta.blocks() * 512 < 2 * MIB, "holes stay holes");
    assert_eq!(meta.mode() & 0o222, 0);
    let again = get(&b.store, root, std::slice::from_ref(&source)).unwrap();
    assert_eq!(again.wire, Size(0), "what is here is not fetched");
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
}

#[test]
fn of_a_new_version_only_what_changed_moves() {
    let (a, b) = (Place::new(), Place::new());
    // 64 MiB, so that a manifest is larger than the change.
    let old = noise(3, 64 << 20);
    let before = a.import(64 * MIB, &[(0, old.clone())]).root;
    get(&b.store, before, &[Source::new(&a.store)]).unwrap();
    let mut changes = vec![(0, old)];
    for n in 0..4 {
        changes.push((n * 13 * CHUNK, noise(10 + n, 65_536)));
    }
    let after = a.import(65 * MIB, &changes).root;
    let copied = get(&b.store, after, &[Source::new(&a.store)]).unwrap();
    let changed = 4 * CHUNK;
    assert!(copied.wire.0 < changed + changed / 20, "{copied:?}");
    assert_eq!(copied.cloned.0, 64 * MIB - changed);
    same(&a, &b, after);
    same(&a, &b, before);
}

#[test]
fn what_moved_inside_is_found() {
    let (a, b) = (Place::new(), Place::new());
    let (x, y) = (noise(5, 1 << 20), noise(6, 1 << 20));
    let before = a.import(2 * MIB, &[(0, x.clone()), (MIB, y.clone())]).root;
    let after = a.import(4 * MIB, &[(MIB, x), (3 * MIB, y)]).root;
    get(&b.store, before, &[Source::new(&a.store)]).unwrap();
    let copied = get(&b.store, after, &[Source::new(&a.store)]).unwrap();
    assert_eq!(copied.cloned, Size(2 * MIB));
    same(&a, &b, after);
}

#[test]
fn what_is_wrong_in_the_earlier_version_is_fetched() {
    let (a, b) = (Place::new(), Place::new());
    let old = noise(5, 1 << 20);
    let before = a.import(MIB, &[(0, old.clone())]).root;
    get(&b.store, before, &[Source::new(&a.store)]).unwrap();
    b.spoil(before, 3);
    let after = a.import(2 * MIB, &[(0, old)]).root;
    let copied = get(&b.store, after, &[Source::new(&a.store)]).unwrap();
    assert_eq!(copied.cloned, Size(MIB - CHUNK));
    same(&a, &b, after);
}

#[test]
fn a_chunk_that_is_bad_at_one_holder_comes_from_another() {
    let (a, b, c) = (Place::new(), Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    a.spoil(root, 2);
    let (first, second) = (Source::new(&a.store), Source::new(&b.store));
    get(&c.store, root, &[first, second.clone()]).unwrap();
    same(&b, &c, root);
    let sent = second.sent.load(Ordering::Relaxed);
    assert!(sent < 2 * CHUNK, "only that chunk: {sent}");
    let images = a.store.images().unwrap();
    assert_eq!(
        images[0].look,
        Look::Changed,
        "whoever gives it away knows it too"
    );
}

#[test]
fn a_bad_image_is_repaired_in_its_place() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    let file = std::fs::metadata(b.store.image_path(root)).unwrap().ino();
    b.spoil(root, 2);
    // In a hole, too.
    b.spoil(root, 13);
    b.verify(root).unwrap_err();
    let source = Source::new(&a.store);
    get(&b.store, root, std::slice::from_ref(&source)).unwrap();
    same(&a, &b, root);
    assert_eq!(
        std::fs::metadata(b.store.image_path(root)).unwrap().ino(),
        file
    );
    assert!(source.sent.load(Ordering::Relaxed) < 2 * CHUNK);
    let mode = std::fs::metadata(b.store.image_path(root)).unwrap().mode();
    assert_eq!(mode & 0o222, 0);
}

#[test]
fn one_that_is_cut_short_is_replaced() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    let path = b.store.image_path(root);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(MIB)
        .unwrap();
    get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    same(&a, &b, root);
}

#[test]
fn nobody_who_has_it_is_an_error_that_says_so() {
    let (a, b) = (Place::new(), Place::new());
    let nothing = Digest([9; 32]);
    let error = get(&b.store, nothing, &[Source::new(&a.store)]).unwrap_err();
    assert!(error.to_string().contains("has nothing of it"), "{error}");
    let error = get(&b.store, nothing, &[]).unwrap_err();
    assert!(error.to_string().contains("told of no server"), "{error}");
    assert_eq!(b.halves(), 0);
}

#[test]
fn a_half_image_is_continued_after_a_restart() {
    let (a, mut b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    let cut = Harm {
        cut: Some(500_000),
        ..Harm::default()
    };
    let source = Source::new(&a.store).harmed([cut]);
    let error = get_once(&b, root, &source).unwrap_err();
    let ReceiveError::Incomplete { missing, .. } = error else {
        panic!("{error}")
    };
    assert!(missing.0 > 0);
    b = b.restart();
    let half = b.store.half_images().unwrap()[0];
    assert!(half.here.0 > 400_000 && !half.moving, "{half:?}");
    assert!(
        b.store.images().unwrap().is_empty(),
        "nobody takes it for an image"
    );
    let copied = get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    assert_eq!(copied.resumed, half.here);
    same(&a, &b, root);
}

/// From one source that is asked once.
fn get_once(b: &Place, root: Digest, source: &Source) -> Result<(), ReceiveError> {
    let rest = Harm {
        cut: Some(0),
        ..Harm::default()
    };
    let source = source.clone().harmed([rest, rest]);
    get(&b.store, root, &[source]).map(drop)
}

#[test]
fn a_source_that_falls_silent_is_left() {
    let (a, b, c) = (Place::new(), Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    get(&b.store, root, &[Source::new(&a.store)]).unwrap();
    let frozen = Harm {
        freeze: Some(300_000),
        ..Harm::default()
    };
    let sources = [
        Source::new(&a.store).harmed([frozen]),
        Source::new(&b.store),
    ];
    get(&c.store, root, &sources).unwrap();
    same(&a, &c, root);
}

#[test]
fn a_chain_passes_on_what_arrives() {
    let places: Vec<Place> = (0..5).map(|_| Place::new()).collect();
    let root = places[0].import(SIZE, &parts()).root;
    let first = Source::new(&places[0].store);
    let mut sources = vec![first.clone()];
    let mut threads = Vec::new();
    for place in &places[1..] {
        let nearest: Vec<Source> = sources.iter().rev().cloned().collect();
        threads.push(getting(&place.store, root, nearest));
        sources.push(Source::new(&place.store));
    }
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    for place in &places[1..] {
        same(&places[0], place, root);
    }
    let asked = first.asked.load(Ordering::Relaxed);
    assert_eq!(asked, 1, "the first one was asked by its neighbour alone");
}

#[test]
fn a_server_that_dies_in_a_chain_stops_nobody_behind_it() {
    let places: Vec<Place> = (0..4).map(|_| Place::new()).collect();
    let root = places[0].import(SIZE, &parts()).root;
    let first = Source::new(&places[0].store);
    // The second gives its neighbour a third of it, and is gone.
    let dies = Harm {
        cut: Some(250_000),
        ..Harm::default()
    };
    let gone = Harm {
        cut: Some(0),
        ..Harm::default()
    };
    let second = Source::new(&places[1].store).harmed([dies].into_iter().chain([gone; 100]));
    let one = getting(&places[1].store, root, vec![first.clone()]);
    let two = getting(&places[2].store, root, vec![second.clone(), first.clone()]);
    let third = Source::new(&places[2].store);
    let three = getting(&places[3].store, root, vec![third, second, first]);
    for thread in [one, two, three] {
        thread.join().unwrap().unwrap();
    }
    for place in &places[1..] {
        same(&places[0], place, root);
    }
}

#[test]
fn one_image_is_received_once_at_a_time() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    let frozen = Harm {
        freeze: Some(300_000),
        ..Harm::default()
    };
    let source = Source::new(&a.store).harmed([frozen]);
    let first = getting(&b.store, root, vec![source.clone()]);
    while source.sent.load(Ordering::Relaxed) < 300_000 {
        std::thread::yield_now();
    }
    let second = get(&b.store, root, &[Source::new(&a.store)]);
    assert!(matches!(second, Err(ReceiveError::Busy(_))), "{second:?}");
    first.join().unwrap().unwrap();
}

#[test]
fn one_that_is_not_wanted_any_more_stops_and_keeps_what_came() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    let frozen = Harm {
        freeze: Some(400_000),
        ..Harm::default()
    };
    let source = Source::new(&a.store).harmed([frozen; 9]);
    let cancel = Cancel::new();
    let (ask, sent) = (cancel.clone(), Arc::clone(&source.sent));
    let patient = Means {
        patience: Duration::from_secs(3600),
        ..means()
    };
    let asker = std::thread::spawn(move || {
        while sent.load(Ordering::Relaxed) < 400_000 {
            std::thread::yield_now();
        }
        ask.cancel();
    });
    let ended = get_with(&b.store, root, &[source], &patient, &cancel);
    asker.join().unwrap();
    assert!(matches!(ended, Err(ReceiveError::Cancelled)), "{ended:?}");
    let half = b.store.half_images().unwrap()[0];
    assert!(half.here.0 > 300_000, "{half:?}");
    assert!(
        b.store.drop_image(root).unwrap(),
        "what nobody wants can go"
    );
    assert_eq!(b.halves(), 0);
}

#[test]
fn a_disk_without_room_is_an_error_that_says_how_much() {
    let (a, b) = (Place::new(), Place::new());
    let root = a.import(SIZE, &parts()).root;
    let greedy = Means {
        keep_free: Size(u64::MAX / 2),
        ..means()
    };
    let sources = [Source::new(&a.store)];
    let error = get_with(&b.store, root, &sources, &greedy, &Cancel::new()).unwrap_err();
    assert!(matches!(error, ReceiveError::NoSpace { .. }), "{error}");
    get(&b.store, root, &sources).unwrap();
    same(&a, &b, root);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However often it breaks, at whatever bytes, and whatever byte of it is changed on its way: what is there at the
    /// end is the image.
    #[test]
    fn it_comes_whole_however_it_is_disturbed(
        harms in prop::collection::vec(
            (prop::option::of(0u64..900_000), prop::option::of(0u64..900_000)), 1..5),
        seed in 0u64..1000,
        chunks in 1usize..20,
        restart in any::<bool>(),
    ) {
        let (a, mut b) = (Place::new(), Place::new());
        let size = (chunks as u64 + 3) * CHUNK - 512;
        let root = a.import(size, &[(CHUNK, noise(seed, chunks * 60_000))]).root;
        let harms = harms.into_iter().map(|(cut, change)| Harm { cut, change, freeze: None });
        let source = Source::new(&a.store).harmed(harms);
        let mut tries = 0;
        while let Err(error) = get(&b.store, root, std::slice::from_ref(&source)) {
            let lacks = matches!(error, ReceiveError::Incomplete { .. });
            prop_assert!(lacks, "{error}");
            tries += 1;
            prop_assert!(tries < 20, "{error}");
            if restart {
                b = b.restart();
            }
        }
        same(&a, &b, root);
    }
}

#[test]
fn a_scrub_reads_all_of_it_and_remembers_when() {
    let a = Place::new();
    let root = a.import(SIZE, &parts()).root;
    let known = || a.store.images().unwrap()[0].read;
    assert_eq!(known(), 0, "an import is read back by whoever asked for it");
    a.store.scrub(root, Size(1 << 40), &Cancel::new()).unwrap();
    assert!(known() > 1_700_000_000);
    a.spoil(root, 2);
    let found = a.store.scrub(root, Size(1 << 40), &Cancel::new());
    assert!(matches!(found, Err(VerifyError::Bad { .. })), "{found:?}");
    assert_eq!(known(), 0);
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = a.store.scrub(root, Size(1), &cancel);
    assert!(
        matches!(stopped, Err(VerifyError::Cancelled)),
        "{stopped:?}"
    );
}
