//! What goes between two servers of a grid.
//!
//! ```text
//!   Network, forwarding ──▶ Wire ──▶ Dial   (TCP, TLS)                          one connection, one lane:
//!   Peers ────────────────▶ Wire ──▶ Dial                                       Hello ▶ ◀ Greeting, then
//!                                       Door ──▶ Replica::answer, Serves        question ▶ ◀ answer ..., or a stream
//! ```
//!
//! A connection begins with a [`Hello`] and its answer, in which the two find out whether they belong together; each
//! can tell a person why not. Then it is either a lane, on which questions and answers alternate, or one stream of
//! bytes for a [`Purpose`](coppice_world::peers::Purpose).
//!
//! Everything but whole images and snapshots is in frames: the length (u32, big-endian), and CBOR maps with named
//! fields. A length is believed up to the most that may come at that place, and memory is taken as bytes come.

mod door;
mod frame;
mod hello;
mod lanes;
mod parcel;
mod severed;

pub use self::door::Door;
pub use self::frame::{FrameError, read_frame, write_frame};
pub use self::hello::{Greeting, Hello, Rejection, WIRE, WIRE_OLDEST};
pub use self::lanes::{Dial, Wire};

/// What servers call what they speak, in the TLS handshake.
pub const PROTOCOL: &str = "coppice/1";
