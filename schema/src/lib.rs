//! The configuration language of Coppice, and the nouns that all rooms share.
//!
//! This crate turns text into meaning and knows nothing else: it opens no file, reads no clock, draws no
//! random number, sees no environment and no network. Everything it returns is a function of its arguments, so
//! that a preview on a laptop and a commit on a server cannot disagree.

pub mod desired;
pub mod digest;
pub mod ids;
pub mod known;
pub mod units;

pub use desired::Desired;
pub use digest::Digest;
pub use known::Known;
