//! A used desktop leaves a server that is being emptied, and whoever takes part is killed at each of its calls.

use coppice_tests::moving::{Who, killed_at, killed_while_it_waits};
use coppice_world::sim::Moment;

/// More calls than any of them makes until the desktop is where it goes; each asks until it was not killed any more.
const MOST: u64 = 400;

#[test]
fn whoever_is_killed_wherever_it_runs_on_one_server_and_gets_to_the_other() {
    let mut seen_between = 0;
    for who in Who::ALL {
        for moment in [Moment::Before, Moment::After] {
            let mut calls = 0;
            loop {
                let moved = killed_at(who, calls, moment);
                let moved = moved.unwrap_or_else(|e| {
                    panic!("{who:?} killed at call {calls}, {moment:?} its effect: {e}")
                });
                seen_between += moved.between;
                if !moved.killed {
                    break;
                }
                calls += 1;
                assert!(calls < MOST, "{who:?} is killed again and again");
            }
            // Otherwise nothing of the move was under way when it was killed.
            assert!(calls > 5, "{who:?} makes only {calls} calls");
        }
    }
    assert!(seen_between > 0, "nobody ever saw it move");
}

#[test]
fn what_waits_at_the_other_server_and_dies_is_not_missed() {
    // Before the decision the sender's is as good, and moves again.
    assert_eq!(killed_while_it_waits(false), Ok(false));
    // After it the disk is there, and it starts as after a power cut.
    assert_eq!(killed_while_it_waits(true), Ok(true));
}
