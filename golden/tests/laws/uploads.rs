//! Uploads: piece by piece, over breaks and restarts.

use coppice_golden::upload::{Expected, UploadId};
use coppice_golden::{Cancel, Received, Store, Upload, UploadError};
use coppice_schema::Digest;
use coppice_schema::units::Size;
use proptest::prelude::*;

use crate::scratch::{MIB, Scratch, noise, read};

fn id(text: &str) -> UploadId {
    text.parse().unwrap()
}

fn begin(store: &Store, name: &str, expected: Expected) -> Result<Upload, UploadError> {
    Upload::begin(store, &id(name), expected, &mut |_| {}, &Cancel::new())
}

fn expected(bytes: &[u8]) -> Expected {
    Expected {
        size: Size(bytes.len() as u64),
        digest: Some(Digest::of(bytes)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_pieces_with_any_restarts_give_the_bytes(
        pieces in prop::collection::vec((1usize..70_000, 0u8..4), 1..12),
        seed in any::<u64>(),
    ) {
        let bytes = noise(seed, pieces.iter().map(|(len, _)| len).sum());
        let mut scratch = Scratch::new();
        let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
        let mut at = 0;
        for (len, event) in pieces {
            upload.append(Size(at as u64), &bytes[at..at + len]).unwrap();
            at += len;
            if event == 0 {
                drop(upload);
                scratch = scratch.restart();
                upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
                prop_assert_eq!(upload.offset().0, at as u64);
            }
        }
        let received = upload.finish().unwrap();
        prop_assert!(read(&received.path) == bytes);
        prop_assert_eq!(received, Received { digest: Digest::of(&bytes), size: Size(at as u64), path: scratch.store.path().join("incoming/upload-one.part") });
    }
}

#[test]
fn a_wrong_offset_is_told_the_right_one() {
    let scratch = Scratch::new();
    let bytes = noise(1, 3000);
    let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    upload.append(Size(0), &bytes[..1000]).unwrap();
    for wrong in [0, 999, 1001, u64::MAX] {
        let error = upload.append(Size(wrong), &bytes[1000..]).unwrap_err();
        assert!(
            matches!(error, UploadError::Offset { given, right: 1000, .. } if given == wrong),
            "{error}"
        );
    }
    upload.append(Size(1000), &bytes[1000..]).unwrap();
    assert!(matches!(
        upload.append(Size(3000), b"more"),
        Err(UploadError::TooLong {
            size: 3000,
            end: 3004,
            ..
        })
    ));
    assert_eq!(upload.finish().unwrap().digest, Digest::of(&bytes));
}

#[test]
fn an_upload_that_is_not_complete_stays() {
    let scratch = Scratch::new();
    let bytes = noise(1, 3000);
    let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    upload.append(Size(0), &bytes[..1000]).unwrap();
    assert!(matches!(
        upload.finish(),
        Err(UploadError::Incomplete {
            here: 1000,
            size: 3000,
            ..
        })
    ));
    assert_eq!(
        begin(&scratch.store, "one", expected(&bytes))
            .unwrap()
            .offset()
            .0,
        1000
    );
    assert_eq!(
        scratch.store.uploads().unwrap(),
        [(id("one"), expected(&bytes), Size(1000))]
    );
}

#[test]
fn bytes_that_were_not_announced_are_thrown_away() {
    let scratch = Scratch::new();
    let (right, wrong) = (noise(1, 3000), noise(2, 3000));
    let mut upload = begin(&scratch.store, "one", expected(&right)).unwrap();
    upload.append(Size(0), &wrong).unwrap();
    let error = upload.finish().unwrap_err();
    assert!(
        matches!(error, UploadError::Digest { found, expected, .. } if found == Digest::of(&wrong) && expected == Digest::of(&right))
    );
    assert!(scratch.names("incoming").is_empty());
    assert_eq!(
        begin(&scratch.store, "one", expected(&right))
            .unwrap()
            .offset()
            .0,
        0
    );
}

/// A power cut may lose what was written last, or leave something else there.
#[test]
fn bytes_that_changed_on_the_disk_are_noticed() {
    let scratch = Scratch::new();
    let bytes = noise(1, 3000);
    let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    upload.append(Size(0), &bytes[..2000]).unwrap();
    drop(upload);
    let scratch = scratch.restart();
    let path = scratch.store.path().join("incoming/upload-one.part");
    std::fs::write(&path, [&bytes[..1000], &[0; 1000]].concat()).unwrap();
    let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    upload.append(Size(2000), &bytes[2000..]).unwrap();
    assert!(matches!(upload.finish(), Err(UploadError::Digest { .. })));
}

#[test]
fn one_sender_at_a_time_and_one_thing_per_id() {
    let scratch = Scratch::new();
    let bytes = noise(1, 3000);
    let upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    assert!(matches!(
        begin(&scratch.store, "one", expected(&bytes)),
        Err(UploadError::Busy(_))
    ));
    let _other = begin(&scratch.store, "two", expected(&bytes)).unwrap();
    drop(upload);
    let other = Expected {
        size: Size(4000),
        digest: None,
    };
    let error = begin(&scratch.store, "one", other).unwrap_err();
    assert!(
        matches!(error, UploadError::Other { before, now, .. } if before == expected(&bytes) && now == other)
    );
    assert!(scratch.store.discard_upload(&id("one")).unwrap());
    assert!(!scratch.store.discard_upload(&id("one")).unwrap());
    begin(&scratch.store, "one", other).unwrap();
}

#[test]
fn ids_are_no_paths() {
    for bad in ["", "../x", "a/b", "A", "a.b", "a b", &"a".repeat(65)] {
        assert!(
            matches!(bad.parse::<UploadId>(), Err(UploadError::Id(_))),
            "{bad:?}"
        );
    }
    assert!(Digest::of(b"").to_string().parse::<UploadId>().is_ok());
}

#[test]
fn more_than_the_disk_holds_is_refused_at_the_begin() {
    let scratch = Scratch::new();
    let error = begin(
        &scratch.store,
        "one",
        Expected {
            size: Size(1 << 60),
            digest: None,
        },
    )
    .unwrap_err();
    assert!(
        matches!(error, UploadError::NoSpace { needed: Size(n), .. } if n == 1 << 60),
        "{error}"
    );
}

#[test]
fn what_was_received_is_imported() {
    let scratch = Scratch::new();
    let mut bytes = noise(1, 100_000);
    bytes.resize(usize::try_from(MIB).unwrap(), 0);
    let mut upload = begin(&scratch.store, "one", expected(&bytes)).unwrap();
    upload.append(Size(0), &bytes).unwrap();
    let received = upload.finish().unwrap();
    let imported = scratch.import(&received.path).unwrap();
    assert_eq!(imported.source, received.digest);
    scratch.store.discard_upload(&id("one")).unwrap();
    assert!(scratch.names("incoming").is_empty());
    scratch.verify(imported.root).unwrap();
}
