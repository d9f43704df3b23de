//! Import and verify: what goes in comes out, and what was changed is found.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use coppice_golden::store::Look;
use coppice_golden::{
    CHUNK, Cancel, ImportError, Options, Phase, Progress, Store, StoreError, VerifyError,
};
use coppice_schema::Digest;
use proptest::prelude::*;

use crate::scratch::{KIB, MIB, Scratch, noise, options, read};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_goes_in_comes_out(
        sectors in 1u64..5000,
        parts in prop::collection::vec((0u64..5000, 1usize..200_000, any::<u64>(), any::<bool>()), 0..6),
    ) {
        let scratch = Scratch::new();
        let size = sectors * 512;
        let parts: Vec<(u64, Vec<u8>)> = parts
            .into_iter()
            .map(|(sector, len, seed, zero)| {
                let offset = sector * 512 % size;
                let len = len.min(usize::try_from(size - offset).unwrap());
                (offset, if zero { vec![0; len] } else { noise(seed, len) })
            })
            .collect();
        let path = scratch.file("random.raw", size, &parts);
        let imported = scratch.import(&path).unwrap();
        let stored = scratch.store.image_path(imported.root);
        let before = read(&path);
        prop_assert!(read(&stored) == before, "stored bytes differ");
        prop_assert_eq!(imported.source, Digest::of(&before));
        prop_assert_eq!(imported.size.0, size);
        prop_assert_eq!(scratch.verify(imported.root).unwrap().data, imported.data);
        let taken = File::open(&stored).unwrap().metadata().unwrap().blocks() * 512;
        prop_assert!(taken <= imported.data.0.next_multiple_of(CHUNK), "zeros were stored: {taken} > {}", imported.data);
    }

    #[test]
    fn the_root_does_not_depend_on_the_layout(seed in any::<u64>(), at in 0u64..20, zeros in 0u64..20) {
        let scratch = Scratch::new();
        let size = 20 * CHUNK + 512;
        let bytes = noise(seed, 70_000);
        let written = scratch.file("written.raw", size, &[
            (zeros * CHUNK, vec![0; 65_536.min(usize::try_from(size - zeros * CHUNK).unwrap())]),
            ((at * CHUNK).min(size - 70_000), bytes.clone()),
        ]);
        let sparse = scratch.file("sparse.raw", size, &[((at * CHUNK).min(size - 70_000), bytes)]);
        let full = scratch.path("full.raw");
        std::fs::write(&full, read(&sparse)).unwrap();
        let roots = [&written, &sparse, &full].map(|path| {
            // Separate stores: two servers agree.
            let other = Scratch::new();
            other.import(path).unwrap().root
        });
        prop_assert_eq!(roots, [roots[0]; 3]);
    }
}

#[test]
fn zeros_at_an_end_within_a_block_take_no_room() {
    let scratch = Scratch::new();
    let path = scratch.file(
        "short.raw",
        333 * 512,
        &[(53_888, vec![0; 114_689]), (108_032, noise(1, 10_756))],
    );
    let stored = scratch
        .store
        .image_path(scratch.import(&path).unwrap().root);
    let taken = File::open(&stored).unwrap().metadata().unwrap().blocks() * 512;
    assert_eq!(taken, CHUNK);
}

#[test]
fn importing_twice_is_a_no_op_that_says_so() {
    let scratch = Scratch::new();
    let first = scratch.image();
    assert!(!first.already);
    let path = scratch.store.image_path(first.root);
    let inode = path.metadata().unwrap().ino();
    let second = scratch.image();
    assert!(second.already);
    assert_eq!((second.root, second.source), (first.root, first.source));
    assert_eq!(
        path.metadata().unwrap().ino(),
        inode,
        "the file was replaced"
    );

    // Other bytes, the same content: nothing is stored, but the second source is known from then on.
    let other = scratch.path("small.qcow2");
    crate::scratch::qemu_img(&[
        "convert",
        "-O",
        "qcow2",
        "--",
        path.to_str().unwrap(),
        other.to_str().unwrap(),
    ]);
    let third = scratch.import(&other).unwrap();
    assert!(third.already);
    assert_eq!(third.root, first.root);
    assert_ne!(third.source, first.source);
    assert_eq!(
        scratch.store.image_of_source(third.source).unwrap(),
        Some(first.root)
    );
    assert_eq!(
        scratch.store.image_of_source(first.source).unwrap(),
        Some(first.root)
    );
    assert!(scratch.names("incoming").is_empty());
}

#[test]
fn images_are_protected_against_writing() {
    let scratch = Scratch::new();
    let image = scratch.image();
    assert_eq!(
        scratch
            .store
            .image_path(image.root)
            .metadata()
            .unwrap()
            .mode()
            & 0o777,
        0o444
    );
}

#[test]
fn an_expected_digest_is_compared() {
    let scratch = Scratch::new();
    let path = scratch.file("small.raw", MIB, &[(0, noise(1, 5000))]);
    let right = Digest::of(&read(&path));
    let wrong = Digest::of(b"something else");
    let import = |expect| {
        let options = Options {
            expect: Some(expect),
            ..options()
        };
        scratch
            .store
            .import(&path, &options, &mut |_| {}, &Cancel::new())
    };
    let error = import(wrong).unwrap_err();
    assert!(
        matches!(error, ImportError::Unexpected { found, expected, .. } if found == right && expected == wrong)
    );
    assert!(scratch.names("images").is_empty());
    assert_eq!(import(right).unwrap().source, right);
}

/// Changes bytes of a stored image behind the store's back.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&File)) {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    change(&file);
    file.sync_all().unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn every_wrong_chunk_is_found_and_listed() {
    let scratch = Scratch::new();
    let image = scratch.image();
    scratch.verify(image.root).unwrap();
    let path = scratch.store.image_path(image.root);
    tamper(&path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 4000).unwrap(); // one bit of chunk 0
        file.write_all_at(&[1], 10 * CHUNK + 7).unwrap(); // something in a hole
        file.write_all_at(&vec![0; 65_536], 5 * CHUNK).unwrap(); // a chunk lost
    });
    let VerifyError::Bad { bad, .. } = scratch.verify(image.root).unwrap_err() else {
        panic!("another error")
    };
    let found: Vec<_> = bad
        .iter()
        .map(|chunk| (chunk.index, chunk.expected.is_some(), chunk.found.is_some()))
        .collect();
    assert_eq!(
        found,
        [(0, true, true), (5, true, false), (10, false, true)]
    );
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Changed);
}

#[test]
fn a_chunk_that_became_a_hole_and_a_wrong_length_are_found() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let path = scratch.store.image_path(image.root);
    tamper(&path, |file| {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, 5 * CHUNK, CHUNK).unwrap();
    });
    let error = scratch.verify(image.root).unwrap_err();
    assert!(
        matches!(&error, VerifyError::Bad { bad, .. } if bad.len() == 1 && bad[0].index == 5),
        "{error}"
    );
    tamper(&path, |file| file.set_len(MIB - 512).unwrap());
    assert!(matches!(
        scratch.verify(image.root).unwrap_err(),
        VerifyError::Length { .. }
    ));
}

#[test]
fn a_tampered_image_is_replaced_by_the_next_import_of_its_source() {
    let scratch = Scratch::new();
    let image = scratch.image();
    tamper(&scratch.store.image_path(image.root), |file| {
        file.write_all_at(b"x", 0).unwrap()
    });
    assert!(scratch.verify(image.root).is_err());
    let again = scratch.image();
    assert!(!again.already);
    assert_eq!(again.root, image.root);
    scratch.verify(image.root).unwrap();
}

#[test]
fn an_image_that_rotted_is_known_to_be_bad_and_replaced_by_its_source() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let path = scratch.store.image_path(image.root);
    let glance = || scratch.store.images().unwrap()[0].look;
    // A disk that rots tells nobody: neither time, nor size, nor inode change.
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut byte = [0];
    tamper(&path, |file| {
        file.read_exact_at(&mut byte, 4000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 4000).unwrap();
        file.set_modified(before).unwrap();
    });
    assert_eq!(glance(), Look::Unchanged);
    assert!(scratch.verify(image.root).is_err());
    assert_eq!(glance(), Look::Changed);
    let restarted = scratch.restart();
    let glance = || restarted.store.images().unwrap()[0].look;
    assert_eq!(glance(), Look::Changed);
    // One that is whole again, by whatever hands, is trusted again.
    tamper(&path, |file| file.write_all_at(&byte, 4000).unwrap());
    restarted.verify(image.root).unwrap();
    assert_eq!(glance(), Look::Unchanged);
    tamper(&path, |file| file.write_all_at(b"x", 0).unwrap());
    assert!(restarted.verify(image.root).is_err());
    assert!(!restarted.image().already);
    restarted.verify(image.root).unwrap();
}

#[test]
fn an_image_whose_manifest_is_damaged_is_made_again() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let manifest = scratch
        .store
        .image_path(image.root)
        .with_extension("manifest");
    std::fs::write(&manifest, b"rot").unwrap();
    assert!(!scratch.image().already);
    scratch.verify(image.root).unwrap();
}

#[test]
fn an_image_without_its_data_is_told_from_one_that_never_was() {
    let scratch = Scratch::new();
    let image = scratch.image();
    std::fs::remove_file(scratch.store.image_path(image.root)).unwrap();
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Missing);
    assert!(matches!(
        scratch.verify(image.root),
        Err(VerifyError::Store(StoreError::NoImage(_)))
    ));
    let nobody = Digest::of(b"nobody");
    assert!(
        matches!(scratch.verify(nobody), Err(VerifyError::Store(StoreError::NoImage(root))) if root == nobody)
    );
    assert!(scratch.store.drop_image(image.root).unwrap());
    assert!(!scratch.store.drop_image(image.root).unwrap());
    assert!(scratch.names("images").is_empty());
}

#[test]
fn progress_has_every_phase_in_order_and_ends_each() {
    let scratch = Scratch::new();
    let path = scratch.file(
        "big.raw",
        64 * MIB,
        &[(0, noise(3, 9_000_000)), (50 * MIB, noise(4, 100 * 1024))],
    );
    let mut seen: Vec<Progress> = Vec::new();
    let image = scratch
        .store
        .import(&path, &options(), &mut |p| seen.push(p), &Cancel::new())
        .unwrap();
    scratch
        .store
        .verify(image.root, &mut |p| seen.push(p), &Cancel::new())
        .unwrap();
    let mut phases: Vec<Phase> = seen.iter().map(|p| p.phase).collect();
    phases.dedup();
    use Phase::{Converting, Hashing, Indexing, Rehashing, Verifying};
    assert_eq!(
        phases,
        [Hashing, Converting, Rehashing, Indexing, Verifying]
    );
    for phase in phases {
        let of_phase: Vec<&Progress> = seen.iter().filter(|p| p.phase == phase).collect();
        assert!(of_phase.is_sorted_by_key(|p| p.done), "{phase:?} went back");
        assert!(
            of_phase.iter().all(|p| p.done <= p.total),
            "{phase:?} went beyond its end"
        );
        assert_eq!(of_phase[0].done.0, 0);
        let last = of_phase.last().unwrap();
        assert_eq!(last.done, last.total);
        assert!(last.total.0 > 0);
    }
}

#[test]
fn a_store_is_for_one_process_and_nobody_elses_directory() {
    let scratch = Scratch::new();
    assert!(matches!(
        Store::open(scratch.store.path()),
        Err(StoreError::InUse(_))
    ));

    let other = scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("import-precious"), b"not yours").unwrap();
    assert!(matches!(Store::open(&other), Err(StoreError::NotAStore(_))));
    assert_eq!(
        std::fs::read(other.join("import-precious")).unwrap(),
        b"not yours"
    );
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let path = scratch.store.path().to_owned();
    let half = path.join("incoming/import-1-1.raw");
    std::fs::write(&half, b"half").unwrap();
    let mut bytes = Vec::new();
    ciborium::into_writer(
        &std::collections::BTreeMap::from([("format", 2), ("news", 1)]),
        &mut bytes,
    )
    .unwrap();
    std::fs::write(path.join("store"), bytes).unwrap();
    let Scratch { dir, store } = scratch;
    drop(store);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 2, .. }));
    assert!(error.to_string().contains("format 2"), "{error}");
    assert!(half.exists(), "a store that was refused was changed");
    drop(dir);
}

#[test]
fn a_last_chunk_that_is_short_is_read_and_compared() {
    let scratch = Scratch::new();
    let size = 2 * CHUNK + 3 * KIB;
    let path = scratch.file("odd.raw", size, &[(2 * CHUNK + 100, noise(9, 2000))]);
    let image = scratch.import(&path).unwrap();
    assert_eq!(image.data.0, 3 * KIB);
    tamper(&scratch.store.image_path(image.root), |file| {
        file.write_all_at(&[0xff], size - 1).unwrap()
    });
    let error = scratch.verify(image.root).unwrap_err();
    assert!(
        matches!(&error, VerifyError::Bad { bad, .. } if bad[0].index == 2),
        "{error}"
    );
}

#[test]
fn a_store_is_shared_by_threads_that_import_the_same_at_the_same_time() {
    let scratch = Scratch::new();
    let path = scratch.file("small.raw", MIB, &[(0, noise(1, 5000))]);
    let imported: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| scratch.import(&path).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(
        imported.iter().filter(|imported| !imported.already).count(),
        1,
        "stored more than once"
    );
    assert!(scratch.names("incoming").is_empty());
    scratch.verify(imported[0].root).unwrap();
}
