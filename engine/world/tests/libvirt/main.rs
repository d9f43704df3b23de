//! The libvirt adapters against real libvirt: its test driver, the embedded QEMU, and a daemon of our own.
//!
//! What the machine lacks is skipped, and counted; with `COPPICE_REQUIRE_VIRT=1` it fails instead.
//! `COPPICE_TEST_IMAGE` names a bootable image whose guest answers; without it, one is built once.

#[cfg(test)]
mod adoption;
#[cfg(test)]
mod copying;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod means;
#[cfg(test)]
mod moving;
#[cfg(test)]
#[path = "../../../../tests/skip.rs"]
mod skip;
#[cfg(test)]
mod test_driver;
