//! One changing call per domain at a time, and none behind one that hangs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use super::threads::locked;

/// A gate per domain.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<BTreeMap<Uuid, Arc<Gate>>>,
}

/// The gates of one domain: one for calls that change it, one for questions that its guest can hold up, and one for what
/// copies its disk, which takes longer than either.
#[derive(Default)]
pub(super) struct Gate {
    changing: Lane,
    asking: Lane,
    copying: Lane,
}

#[derive(Default)]
struct Lane {
    turn: Arc<Turn<()>>,
    stuck: Arc<AtomicBool>,
}

/// Which of a domain's gates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Changes the domain.
    Change,
    /// Asks its guest.
    Ask,
    /// Copies its disk.
    Copy,
}

/// A call is under way. It goes with the call into its thread, so the gate opens when the call really ends.
pub(super) struct Passage {
    turn: Option<OwnedMutexGuard<()>>,
    stuck: Arc<AtomicBool>,
}

impl Gates {
    /// The gate of a domain.
    pub(super) fn of(&self, uuid: Uuid) -> Arc<Gate> {
        Arc::clone(locked(&self.gates).entry(uuid).or_default())
    }

    /// Forgets the gates that nobody holds.
    pub(super) fn prune(&self) {
        locked(&self.gates).retain(|_, gate| Arc::strong_count(gate) > 1 || gate.is_busy());
    }
}

impl Gate {
    /// Waits for its turn until `limit`. `None`: there was none, or an earlier call is known to hang.
    pub(super) async fn pass(&self, way: Way, limit: Duration) -> Option<Passage> {
        let lane = self.lane(way);
        if lane.stuck.load(Ordering::SeqCst) {
            return None;
        }
        let turn = timeout(limit, Arc::clone(&lane.turn).lock_owned()).await;
        turn.ok().map(|turn| Passage {
            turn: Some(turn),
            stuck: Arc::clone(&lane.stuck),
        })
    }

    /// Waits until nothing passes, one that is known to hang included, at most for `limit`.
    pub(super) async fn opens(&self, way: Way, limit: Duration) {
        let lane = self.lane(way);
        if timeout(limit, lane.turn.lock()).await.is_ok() {
            // Whoever held it clears the mark only after it.
            lane.stuck.store(false, Ordering::SeqCst);
        }
    }

    /// A call did not end in time: until it does, others are turned away at once.
    pub(super) fn note_late(&self, way: Way) {
        let lane = self.lane(way);
        lane.stuck.store(true, Ordering::SeqCst);
        // It may have ended meanwhile, and then nobody else would clear the mark. If another call has taken the
        // turn, that one clears it.
        if lane.turn.try_lock().is_ok() {
            lane.stuck.store(false, Ordering::SeqCst);
        }
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Change => &self.changing,
            Way::Ask => &self.asking,
            Way::Copy => &self.copying,
        }
    }

    fn is_busy(&self) -> bool {
        let lanes = [&self.changing, &self.asking, &self.copying];
        lanes.iter().any(|lane| lane.turn.try_lock().is_err())
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // In this order: see `note_late`.
        drop(self.turn.take());
        self.stuck.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn calls_behind_a_hanging_one_are_turned_away_until_it_ends() {
        let gates = Gates::default();
        let gate = gates.of(Uuid::nil());
        let hanging = gate.pass(Way::Change, LONG).await.unwrap();
        assert!(gate.pass(Way::Change, SHORT).await.is_none(), "two at once");
        gate.note_late(Way::Change);
        assert!(
            gate.pass(Way::Change, LONG).await.is_none(),
            "at once, not after a minute"
        );
        assert!(
            gate.pass(Way::Ask, LONG).await.is_some(),
            "the other way is free"
        );
        drop(hanging);
        assert!(gate.pass(Way::Change, LONG).await.is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_hanging_call_to_end_can_pass_then() {
        let gate = Gate::default();
        let hanging = gate.pass(Way::Change, LONG).await.unwrap();
        gate.note_late(Way::Change);
        gate.opens(Way::Change, SHORT).await;
        assert!(gate.pass(Way::Change, LONG).await.is_none(), "not for ever");
        let ends = async {
            tokio::task::yield_now().await;
            drop(hanging);
        };
        tokio::join!(gate.opens(Way::Change, LONG), ends);
        assert!(gate.pass(Way::Change, LONG).await.is_some());
    }

    #[tokio::test]
    async fn a_call_noted_late_after_it_ended_closes_nothing() {
        let gate = Gate::default();
        drop(gate.pass(Way::Change, LONG).await);
        gate.note_late(Way::Change);
        assert!(gate.pass(Way::Change, LONG).await.is_some());
    }

    #[tokio::test]
    async fn pruning_keeps_a_gate_that_a_call_holds() {
        let gates = Gates::default();
        let passage = gates.of(Uuid::nil()).pass(Way::Change, LONG).await;
        gates.prune();
        assert!(
            gates
                .of(Uuid::nil())
                .pass(Way::Change, SHORT)
                .await
                .is_none()
        );
        drop(passage);
    }
}
