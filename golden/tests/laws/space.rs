//! The marks of a disk that fills.

use coppice_golden::Space;
use coppice_schema::known::DiskLevel::{Critical, Fine, High};
use coppice_schema::units::Size;

use crate::scratch::Scratch;

fn used(percent: u64) -> Space {
    Space {
        total: Size(1000),
        free: Size(1000 - percent * 10),
    }
}

#[test]
fn levels_are_entered_at_their_marks_and_left_two_per_cent_below() {
    let cases = [
        (79, Fine, Fine),
        (80, Fine, High),
        (90, Fine, Critical),
        (79, High, High),
        (78, High, High),
        (77, High, Fine),
        (89, High, High),
        (90, High, Critical),
        (89, Critical, Critical),
        (88, Critical, Critical),
        (87, Critical, High),
        (78, Critical, High),
        (77, Critical, Fine),
        (100, Fine, Critical),
        (0, Critical, Fine),
    ];
    for (percent, before, after) in cases {
        assert_eq!(
            used(percent).level(before),
            after,
            "{percent} % after {before:?}"
        );
    }
}

#[test]
fn no_number_is_too_large_and_no_room_is_full() {
    let huge = Space {
        total: Size(u64::MAX),
        free: Size(u64::MAX / 2),
    };
    assert_eq!(huge.level(Fine), Fine);
    let none = Space {
        total: Size(0),
        free: Size(0),
    };
    assert_eq!(none.level(Fine), Critical);
}

#[test]
fn the_disk_of_a_store_is_asked() {
    let scratch = Scratch::new();
    let space = scratch.store.space().unwrap();
    assert!(space.total.0 > 0 && space.free <= space.total);
}
