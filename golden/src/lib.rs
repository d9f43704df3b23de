//! Golden images and linked clones on one server's disk.
//!
//! A [`Store`] is a directory. It holds images as sparse raw files, each named by the [`Manifest::root`] of its
//! content, and overlays (linked clones): qcow2 files that keep only what a desktop wrote over its image.
//!
//! What this crate guarantees:
//! - A file under its final name is whole and synced. Half work lives under temporary names, and
//! - Hostile image files are refused before another program opens them, and that program runs confined.
//! - An overlay never exists without the mark that says whose it is; files without a mark are listed, never
//!   touched.
//! - Content is believed only after every chunk was read back ([`Store::verify`]).
//!
//! Everything blocks on the disk, also what is a future because it waits for others ([`transfer`]); callers put it
//! where blocking is allowed. Long work takes a progress callback and a [`Cancel`].

mod confine;
mod convert;
mod disk;
pub mod format;
pub mod import;
pub mod manifest;
pub mod overlay;
pub mod progress;
pub mod replica;
mod source;
pub mod space;
mod sparse;
pub mod store;
pub mod transfer;
pub mod upload;
pub mod verify;

pub use confine::Confinement;
pub use disk::DiskError;
pub use format::Format;
pub use import::{ImportError, Imported, Options};
pub use manifest::{CHUNK, Difference, Manifest, ManifestError};
pub use overlay::{Mark, OverlayError, OverlaySpec};
pub use progress::{Cancel, Phase, Progress};
pub use replica::{Replica, ReplicaError};
pub use space::Space;
pub use store::{Store, StoreError};
pub use upload::{Received, Upload, UploadError};
pub use verify::{BadChunk, Verified, VerifyError};
