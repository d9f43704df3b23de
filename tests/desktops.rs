//! End to end, with everything real: the program, its daemon, QEMU by the embedded libvirt, and guests that answer.
//!
//! The program is the `coppice` that was built beside these tests (or `COPPICE_TEST_BINARY`), the image is the lab's,
//! built once (or `COPPICE_TEST_IMAGE`). Each test has a file system of its own in memory, so that it neither fills
//! the machine's disk nor minds how full that is. One test at a time runs guests, at most four of them.

#![cfg(test)] // all of it, which clippy only believes when told

#[path = "desktops/bad_input.rs"]
mod bad_input;
#[path = "desktops/copies.rs"]
mod copies;
#[path = "desktops/crash.rs"]
mod crash;
#[path = "desktops/drift.rs"]
mod drift;
#[path = "desktops/hands.rs"]
mod hands;
#[path = "desktops/lab.rs"]
mod lab;
#[path = "desktops/life.rs"]
mod life;
#[path = "desktops/machine.rs"]
mod machine;
#[path = "desktops/moving.rs"]
mod moving;
#[path = "skip.rs"]
mod skip;
#[path = "desktops/wanted.rs"]
mod wanted;
