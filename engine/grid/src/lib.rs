//! How the servers of a grid agree, on openraft, with the log on fjall; and what makes a grid one: its certificate
//! authority and its key.
//!
//! ```text
//!   Agreement ──▶ Replica ──▶ openraft ──▶ Log        one fjall database, one writer, synced before acknowledged
//!                    │                ├──▶ Machine    State in memory ──▶ Snapshots (files)
//!                    │                └──▶ Network ─┐
//!                    └── forwarding ────────────────┴──▶ Link ──▶ Wire (TLS) ──▶ the other servers' Door
//! ```
//!
//! Log, vote and bookkeeping are in one database; the state is a value in memory, durable as its last snapshot and
//! the log since. There is no second database for the state: it could be ahead of the log after a power cut, and all
//! that a start then had to do to bring them together again would be one more thing to get wrong. The price is that a
//! state has to fit into memory, which readers want anyway, and that a start replays up to
//! [`types::SNAPSHOT_EVERY`] entries.
//!
//! Everything but files, threads, sockets and [`Grid`] itself is generic over openraft's runtime.

pub mod admission;
pub mod authority;
mod clocks;
mod dial;
pub mod directory;
pub mod grid;
pub mod introduction;
pub mod keeper;
pub mod keys;
pub mod link;
pub mod log;
pub mod machine;
pub mod memory;
pub mod network;
pub mod peers;
pub mod private;
pub mod recovery;
pub mod replica;
pub mod roster;
pub mod snapshots;
mod tls;
pub mod types;
pub mod vault;
pub mod voters;
pub mod wire;

pub use admission::{Gate, Means};
pub use authority::{Enrolment, Identity, Renewal, Subject};
pub use grid::{Founding, Grid, GridError};
pub use introduction::{Introduction, Member};
pub use keys::Keys;
pub use link::Link;
pub use recovery::Survey;
pub use replica::{Former, Members, MembersError, Replica};
pub use vault::GridKey;

#[cfg(test)]
mod tests;
