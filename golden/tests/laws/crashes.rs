//! What an end at any point leaves, and what the next start makes of it.

use coppice_golden::store::Look;

use crate::scratch::{GRID, MIB, Scratch, member};

#[test]
fn a_half_conversion_is_removed() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let half = scratch.store.path().join("incoming/import-4711-0.raw");
    std::fs::write(&half, b"half a disk").unwrap();
    let scratch = scratch.restart();
    assert_eq!(scratch.store.cleaned(), std::slice::from_ref(&half));
    assert!(!half.exists());
    scratch.verify(image.root).unwrap();
    assert!(scratch.restart().store.cleaned().is_empty());
}

#[test]
fn a_manifest_whose_image_was_never_named_is_no_image() {
    let scratch = Scratch::new();
    let image = scratch.image();
    // After the manifest's name, before the image's.
    std::fs::rename(
        scratch.store.image_path(image.root),
        scratch.store.path().join("incoming/import-1-1.raw"),
    )
    .unwrap();
    std::fs::remove_file(
        scratch
            .store
            .path()
            .join(format!("images/{}.record", image.root)),
    )
    .unwrap();
    let scratch = scratch.restart();
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Missing);
    assert!(scratch.names("incoming").is_empty());
    let again = scratch.image();
    assert!(!again.already);
    scratch.verify(again.root).unwrap();
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Unchanged);
}

#[test]
fn an_image_without_its_record_is_imported_again() {
    let scratch = Scratch::new();
    let image = scratch.image();
    // After the image's name, before the record.
    std::fs::remove_file(
        scratch
            .store
            .path()
            .join(format!("images/{}.record", image.root)),
    )
    .unwrap();
    let scratch = scratch.restart();
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Changed);
    assert_eq!(scratch.image().root, image.root);
    assert_eq!(scratch.store.images().unwrap()[0].look, Look::Unchanged);
    scratch.verify(image.root).unwrap();
}

#[test]
fn half_a_manifest_is_never_read() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let manifest = format!("{}.manifest", image.root);
    let half = scratch.store.path().join(format!("images/.new-{manifest}"));
    std::fs::write(&half, b"\xa4fform").unwrap();
    let scratch = scratch.restart();
    assert_eq!(scratch.store.cleaned(), [half]);
    scratch.verify(image.root).unwrap();
    // Damage at its own name is told, and healed by the next import.
    std::fs::write(
        scratch.store.path().join("images").join(manifest),
        b"\xa4fform",
    )
    .unwrap();
    let error = scratch.verify(image.root).unwrap_err().to_string();
    assert!(error.contains("manifest is damaged"), "{error}");
}

/// The steps of a batch: mark, overlay under its temporary name, sync, name. What each end leaves is what one of
/// these tests puts there.
#[test]
fn an_overlay_that_was_never_named_leaves_nothing() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    scratch
        .store
        .write_overlays(std::slice::from_ref(&spec))
        .unwrap()
        .remove(0)
        .unwrap();
    let dir = scratch.store.path().join("overlays");
    // The end before the name.
    std::fs::rename(
        dir.join("lab-001@1.qcow2"),
        dir.join(".new-lab-001@1.qcow2"),
    )
    .unwrap();
    assert!(
        scratch.store.list_overlays().unwrap().clones.is_empty(),
        "it counts without its name"
    );
    let scratch = scratch.restart();
    assert_eq!(scratch.store.cleaned().len(), 2);
    assert!(scratch.names("overlays").is_empty());
    // The end within the mark, and within the overlay.
    std::fs::write(dir.join("lab-001@1.mark"), b"\xa7").unwrap();
    std::fs::write(dir.join(".new-lab-001@1.qcow2"), b"QFI").unwrap();
    let scratch = scratch.restart();
    assert!(scratch.names("overlays").is_empty());
    let written = scratch
        .store
        .write_overlays(&[spec])
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(!written.already);
    assert!(scratch.store.list_overlays().unwrap().clones[0].sound());
}

#[test]
fn leftovers_do_not_stand_in_the_way_without_a_restart() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let dir = scratch.store.path().join("overlays");
    std::fs::write(dir.join("lab-001@1.mark"), b"\xa7").unwrap();
    std::fs::write(dir.join(".new-lab-001@1.qcow2"), b"QFI").unwrap();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    scratch
        .store
        .write_overlays(&[spec])
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(scratch.store.list_overlays().unwrap().clones[0].sound());
    assert_eq!(
        scratch.names("overlays"),
        ["lab-001@1.mark", "lab-001@1.qcow2"]
    );
}

#[test]
fn a_removal_that_stopped_half_way_is_finished() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let specs = [
        scratch.spec("lab-001@1", image.root, MIB),
        scratch.spec("lab-002@1", image.root, MIB),
    ];
    scratch.store.write_overlays(&specs).unwrap();
    for n in [1, 2] {
        std::fs::remove_file(scratch.store.overlay_path(&member(&format!("lab-00{n}@1")))).unwrap();
    }
    // By the same order again, or by the next start.
    assert!(
        !scratch
            .store
            .remove_overlay(GRID, &member("lab-001@1"))
            .unwrap()
    );
    assert_eq!(scratch.names("overlays"), ["lab-002@1.mark"]);
    assert!(scratch.restart().names("overlays").is_empty());
}

#[test]
fn a_new_store_that_was_not_finished_is_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".new-store"), b"\xa1f").unwrap();
    let store = coppice_golden::Store::open(dir.path()).unwrap();
    assert!(store.images().unwrap().is_empty());
    assert!(!dir.path().join(".new-store").exists());
}
