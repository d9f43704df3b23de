//! Manifests: stored and read back, compared, and distrusted.

use std::collections::BTreeSet;

use coppice_golden::{CHUNK, Manifest, ManifestError};
use coppice_schema::Digest;
use coppice_schema::units::Size;
use proptest::prelude::*;

use crate::scratch::{Scratch, noise, read};

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn manifests() -> impl Strategy<Value = Manifest> {
    prop::collection::btree_map(0u64..500, 0u64..300, 0..200).prop_map(|chunks| {
        let chunks = chunks
            .into_iter()
            .map(|(index, content)| (index, digest(content)))
            .collect();
        Manifest::new(Size(500 * CHUNK), chunks).unwrap()
    })
}

proptest! {
    #[test]
    fn stored_and_read_back_it_is_the_same(manifest in manifests()) {
        let read = Manifest::decode(&manifest.encode()).unwrap();
        prop_assert_eq!(read.root(), manifest.root());
        prop_assert_eq!(read, manifest);
    }

    #[test]
    fn no_bytes_are_taken_for_a_manifest_by_accident(manifest in manifests(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let mut bytes = manifest.encode();
        let len = cut.index(bytes.len());
        prop_assert!(Manifest::decode(&bytes[..len]).is_err());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Manifest::decode(&bytes) {
            prop_assert!(other.root() != manifest.root() || other == manifest);
        }
    }

    #[test]
    fn the_difference_is_what_is_needed_and_no_more(new in manifests(), old in manifests()) {
        let difference = new.difference(&old);
        let here: BTreeSet<Digest> = old.chunks().iter().map(|(_, digest)| *digest).collect();
        for (index, digest) in &difference.fetch {
            prop_assert!(!here.contains(digest), "chunk {index} is fetched, but is here");
        }
        // Carried out, it gives the new image.
        let mut made: std::collections::BTreeMap<u64, Digest> = old.chunks().iter().copied().collect();
        for index in &difference.cleared {
            made.remove(index);
        }
        for (to, from) in &difference.moved {
            made.insert(*to, old.digest_at(*from).unwrap());
        }
        made.extend(difference.fetch.iter().copied());
        prop_assert_eq!(made.into_iter().collect::<Vec<_>>(), new.chunks());
        let all = usize::try_from(difference.same).unwrap() + difference.moved.len() + difference.fetch.len();
        prop_assert_eq!(all, new.chunks().len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn changed_chunks_of_a_real_image_are_exactly_the_difference(places in prop::collection::btree_set(0u64..16, 0..6)) {
        let scratch = Scratch::new();
        let old = scratch.file("old.raw", 16 * CHUNK, &[(0, noise(1, 1 << 20))]);
        let mut bytes = read(&old);
        for place in &places {
            bytes[usize::try_from(place * CHUNK + 17).unwrap()] ^= 0x80;
        }
        let new = scratch.path("new.raw");
        std::fs::write(&new, bytes).unwrap();
        let [old, new] = [old, new].map(|path| {
            let root = scratch.import(&path).unwrap().root;
            scratch.store.manifest(root).unwrap()
        });
        let fetched: BTreeSet<u64> = new.difference(&old).fetch.iter().map(|(index, _)| *index).collect();
        prop_assert_eq!(fetched, places);
    }
}

#[test]
fn a_newer_manifest_is_refused_with_its_format() {
    #[derive(serde::Serialize)]
    struct Newer {
        format: u32,
        invention: &'static str,
    }
    let mut bytes = Vec::new();
    ciborium::into_writer(
        &Newer {
            format: 2,
            invention: "chunks of another kind",
        },
        &mut bytes,
    )
    .unwrap();
    let error = Manifest::decode(&bytes).unwrap_err();
    assert_eq!(error, ManifestError::Newer { found: 2 });
    assert_eq!(
        error.to_string(),
        "the manifest has format 2, this version reads up to 1"
    );
}

#[test]
fn one_content_has_one_manifest() {
    let zeros = Digest::of(&[0; 65_536]);
    let size = Size(2 * CHUNK + 10);
    let refuse = |chunks| matches!(Manifest::new(size, chunks), Err(ManifestError::Invalid(_)));
    assert!(refuse(vec![(0, zeros)]), "zeros listed");
    assert!(
        refuse(vec![(2, Digest::of(&[0; 10]))]),
        "zeros of a short last chunk listed"
    );
    assert!(refuse(vec![(1, digest(1)), (0, digest(2))]), "out of order");
    assert!(
        refuse(vec![(1, digest(1)), (1, digest(2))]),
        "one place twice"
    );
    assert!(refuse(vec![(3, digest(1))]), "beyond the end");
    assert!(Manifest::new(size, vec![(2, digest(1))]).is_ok());
}

#[test]
fn the_root_covers_size_places_and_digests() {
    let manifest = |size, chunks: &[(u64, u64)]| {
        let chunks = chunks
            .iter()
            .map(|(index, content)| (*index, digest(*content)))
            .collect();
        Manifest::new(Size(size), chunks).unwrap().root()
    };
    let roots = [
        manifest(8 * CHUNK, &[(1, 1)]),
        manifest(9 * CHUNK, &[(1, 1)]),
        manifest(8 * CHUNK, &[(2, 1)]),
        manifest(8 * CHUNK, &[(1, 2)]),
        manifest(8 * CHUNK, &[]),
    ];
    assert_eq!(BTreeSet::from(roots).len(), roots.len());
    // The value that all versions must agree on for good.
    assert_eq!(
        roots[0].to_string(),
        "ddda4d8d7da5fc1135a1b07384d7b963a10d15b04b36c5e09357e71764484754"
    );
}
