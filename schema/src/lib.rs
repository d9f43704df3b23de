//! The configuration language of Coppice, and the nouns that all rooms share.
//!
//! This crate turns text into meaning and knows nothing else: it opens no file, reads no clock, draws no
//! random number, sees no environment and no network. Everything it returns is a function of its arguments, so
//! that a preview on a laptop and a commit on a server cannot disagree.

mod calendar;
pub mod desired;
pub mod diagnostic;
pub mod digest;
mod evaluate;
mod fields;
mod fmt;
pub mod ids;
mod inputs;
pub mod known;
mod lex;
mod load;
mod parse;
mod program;
mod quantity;
mod reference;
mod render;
mod resolve;
pub mod review;
mod source;
pub mod table;
mod typed;
pub mod units;
mod value;

pub use desired::Desired;
pub use diagnostic::{Diagnostic, Severity};
pub use digest::Digest;
pub use fmt::fmt;
pub use inputs::{Inputs, inputs};
pub use known::Known;
pub use load::{Loaded, load};
pub use reference::{reference_markdown, schema_json};
pub use render::render;
pub use source::{Bundle, Location, SourceText};
pub use table::{TakesEffect, takes_effect};
