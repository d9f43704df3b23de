//! The HTTP API of a grid.
//!
//! The portal takes no decisions: it reads the agreed state, shows previews of plans, and turns requests into
//! entries. Everything that crosses the wire is a type in [`api`]; [`router`] is the whole API as a service, and
//! [`serve()`] answers with it on a TLS port.
//!
//! Whatever a client sends, it gets a [`api::Problem`] with a stable code and what to do next, never a dropped
//! connection. No path on this server's disk is ever made of anything that a client said.

pub mod api;
mod apply;
mod auth;
mod authority;
mod backup;
mod bodies;
mod console;
mod desktops;
mod events;
mod explain;
mod health;
mod history;
mod images;
mod imports;
mod join;
mod openapi;
mod params;
mod passing;
mod pauses;
mod plans;
mod portal;
mod preview;
mod problem;
mod rebalance;
mod routes;
mod seal;
mod secrets;
mod serve;
mod servers;
mod standing;
mod status;
mod tokens;
mod upgrade;
mod uploads;

pub use auth::{mint, parse_token};
pub use passing::passed_on;
pub use portal::App;
pub use routes::{Access, access, router, witness};
pub use serve::{Also, Beside, Limits, Listens, keep_alive, serve};
