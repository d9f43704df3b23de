//! Real servers of one grid, each a process with a port of its own, on a simulated hypervisor: they join, agree, stop,
//! are killed and are removed.

#![cfg(test)] // all of it, which clippy only believes when told

#[path = "grid/alone.rs"]
mod alone;
#[path = "grid/apart.rs"]
mod apart;
#[path = "grid/authority.rs"]
mod authority;
#[path = "grid/churn.rs"]
mod churn;
#[path = "grid/desktops.rs"]
mod desktops;
#[path = "grid/example.rs"]
mod example;
#[path = "grid/full.rs"]
mod full;
#[path = "grid/images.rs"]
mod images;
#[path = "grid/joining.rs"]
mod joining;
#[path = "grid/killed.rs"]
mod killed;
#[path = "grid/leaving.rs"]
mod leaving;
#[path = "desktops/machine.rs"]
mod machine;
#[path = "grid/parted.rs"]
mod parted;
#[path = "grid/site.rs"]
mod site;
#[path = "skip.rs"]
mod skip;
#[path = "grid/two_of_five.rs"]
mod two_of_five;
#[path = "grid/watching.rs"]
mod watching;
#[path = "grid/writes.rs"]
mod writes;
