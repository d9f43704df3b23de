//! The room on a store's disk.

use crate::scratch::Scratch;

#[test]
fn the_disk_of_a_store_is_asked() {
    let scratch = Scratch::new();
    let space = scratch.store.space().unwrap();
    assert!(space.total.0 > 0 && space.free <= space.total);
}
