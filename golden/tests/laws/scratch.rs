//! A store to try things on, and files to put into it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coppice_golden::{
    Cancel, ImportError, Imported, Options, OverlaySpec, Store, Verified, VerifyError,
};
use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, Member, Stamp};
use coppice_schema::units::Size;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GRID: GridId = GridId([7; 16]);

/// A directory with a store in it, and room beside it.
pub(crate) struct Scratch {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("golden-")
            .tempdir()
            .unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// Ends the store as a daemon does, and begins it again.
    pub(crate) fn restart(self) -> Self {
        let Self { dir, store } = self;
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A sparse file with these bytes at these offsets.
    pub(crate) fn file(&self, name: &str, size: u64, parts: &[(u64, Vec<u8>)]) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        path
    }

    pub(crate) fn import(&self, path: &Path) -> Result<Imported, ImportError> {
        self.store
            .import(path, &options(), &mut |_| {}, &Cancel::new())
    }

    pub(crate) fn verify(&self, root: Digest) -> Result<Verified, VerifyError> {
        self.store.verify(root, &mut |_| {}, &Cancel::new())
    }

    /// An image of 1 MiB with something in it.
    pub(crate) fn image(&self) -> Imported {
        let path = self.file(
            "small.raw",
            MIB,
            &[(0, noise(1, 5000)), (300 * KIB, noise(2, 90_000))],
        );
        self.import(&path).unwrap()
    }

    pub(crate) fn spec(&self, member: &str, image: Digest, size: u64) -> OverlaySpec {
        OverlaySpec {
            grid: GRID,
            epoch: Epoch {
                number: 1,
                recovery: 0,
            },
            member: member.parse().unwrap(),
            image,
            size: Size(size),
            stamp: Stamp {
                epoch: 1,
                term: 2,
                index: 3,
                ordinal: 4,
            },
        }
    }

    /// Files below the store, by their path in it.
    pub(crate) fn names(&self, part: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.store.path().join(part)).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn options() -> Options {
    Options {
        keep_free: Size(0),
        ..Options::default()
    }
}

pub(crate) fn member(text: &str) -> Member {
    text.parse().unwrap()
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// Runs qemu-img; it must succeed.
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "qemu-img {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap() + &errors
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
