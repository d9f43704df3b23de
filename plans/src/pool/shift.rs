//! Desktops that are to move to another server, because a person asked for the load to be levelled: one is grown there
//! first, and when it is ready the one here goes. As many at once as the pool's roll-outs may take away, one at least.

use coppice_schema::ids::{DesktopId, ServerId};
use coppice_schema::known::{KnownDesktop, Phase, Request, Task};

use super::fate::{self, Deed};
use super::rollout::{Rollout, is_outdated, is_ready};
use super::{Yard, drain};
use crate::draft::Draft;
use crate::images::Published;
use crate::place::{Host, Ledger};
use crate::placement::Lack;
use crate::plan::{Kind, Memory, Reason, Risk, Step, Wait};

/// The moves of one pool.
pub(crate) struct Shift<'a> {
    /// Those that can go on come first.
    moves: Vec<Move<'a>>,
    /// For so many of them another was grown.
    grown: u32,
    /// So many desktops there may be beyond the pool's size.
    extra: u32,
    /// Desktops that are ready beyond the pool's size.
    spare: u32,
}

struct Move<'a> {
    id: &'a DesktopId,
    from: ServerId,
    to: ServerId,
}

/// Where a desktop that is asked to move goes, as long as it is the life that was asked about, and another could run there.
pub(crate) fn asked(
    yard: Yard<'_>,
    ledger: &Ledger<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
) -> Option<ServerId> {
    let Some(Request::Move { member, to }) = yard.known.requests.get(id) else {
        return None;
    };
    let image = yard.published().ok();
    let possible = |host: &Host<'_>| match image.and_then(|image| host.unfit(&yard.need(image))) {
        Some(Lack::Part { .. } | Lack::Cordoned | Lack::Labels { .. } | Lack::Feature { .. }) => {
            false
        }
        // That passes.
        None
        | Some(
            Lack::NotSeen
            | Lack::DiskFilling
            | Lack::Image
            | Lack::Disk { .. }
            | Lack::Memory { .. },
        ) => true,
    };
    let there = !matches!(
        desktop.phase,
        Phase::Deleting { .. } | Phase::Unknown { .. } | Phase::Migrating { .. }
    );
    let mine = *member == desktop.spec.member && desktop.server != *to;
    // Where its server is being emptied, that decides.
    let emptied = super::emptied(yard.known, desktop);
    let wanted = mine && there && !desktop.personal && !emptied;
    (wanted && ledger.host(*to).is_some_and(possible)).then_some(*to)
}

impl<'a> Shift<'a> {
    pub(crate) fn survey(
        yard: Yard<'a>,
        image: Option<Published<'_>>,
        rollout: &Rollout<'_>,
        draft: &Draft<'_>,
    ) -> Self {
        let mut shift = Self {
            moves: Vec::new(),
            grown: 0,
            extra: 0,
            spare: 0,
        };
        // Nobody can be grown beside them.
        let full = yard
            .pool
            .slots
            .is_some_and(|slots| slots <= yard.pool.desktops);
        if full {
            return shift;
        }
        let mut idle = 0;
        let mut used = Vec::new();
        for (id, desktop) in yard.members() {
            let Some(to) = asked(yard, &draft.ledger, id, desktop) else {
                continue;
            };
            // What is regrown anyway is placed anew by that.
            if image.is_some_and(|image| is_outdated(yard, image, desktop)) {
                continue;
            }
            let one = Move {
                id,
                from: desktop.server,
                to,
            };
            if desktop.people() == 0 && is_ready(&desktop.phase) {
                idle += 1;
                shift.moves.push(one);
            } else {
                used.push(one);
            }
        }
        shift.moves.extend(used);
        if shift.moves.is_empty() {
            return shift;
        }
        let size = yard.pool.desktops.saturating_add(rollout.surge());
        let (mut alive, mut ready, mut emptied) = (0, 0, false);
        for (id, desktop) in yard.members() {
            if super::emptied(yard.known, desktop) {
                emptied = true;
                continue;
            }
            let goes = matches!(
                desktop.phase,
                Phase::Deleting { .. } | Phase::Unknown { .. }
            );
            alive += u32::from(!goes);
            // One that went off is none to be had in place of another.
            ready += u32::from(drain::is_ready(yard, desktop) && !draft.busy.contains(id));
        }
        let moves = u32::try_from(shift.moves.len()).unwrap_or(u32::MAX);
        // What is ready beyond the pool's size lets a server be emptied first, and is a roll-out's surge.
        let later = emptied || rollout.is_under_way();
        if !later {
            shift.spare = u32::saturating_sub(ready, yard.pool.desktops);
        }
        shift.grown = u32::saturating_sub(alive, size).min(moves);
        let share = yard
            .pool
            .policy
            .rollout
            .max_unavailable
            .of(yard.pool.desktops);
        let slots = yard
            .pool
            .slots
            .map_or(u32::MAX, |slots| slots.saturating_sub(size));
        let more = if later {
            0
        } else {
            share.max(1).min(slots).min(idle)
        };
        shift.extra = more.max(shift.grown);
        shift
    }

    /// So many desktops there may be beyond the pool's size.
    pub(crate) fn extra(&self) -> u32 {
        self.extra
    }

    /// Where the next desktop beyond the pool's size goes, and why; the `n`th of this plan.
    pub(crate) fn place(&self, n: u32, yard: Yard<'_>) -> Option<(ServerId, Reason)> {
        let at = usize::try_from(self.grown.saturating_add(n)).ok()?;
        let next = self.moves.get(at)?;
        Some((next.to, reason(yard, next.from, next.to)))
    }

    /// What becomes of the desktops that are to move. Returns those that go now.
    pub(crate) fn go(&mut self, yard: Yard<'_>, draft: &mut Draft<'_>) -> Vec<DesktopId> {
        let mut going = Vec::new();
        for (n, one) in self.moves.iter().enumerate() {
            let Some(desktop) = yard
                .known
                .desktops
                .get(one.id)
                .filter(|_| !draft.busy.contains(one.id))
            else {
                continue;
            };
            let mut waits = fate::disruptive_waits(yard, one.id, desktop, draft);
            let replaced = u32::try_from(n).is_ok_and(|n| n < self.grown);
            if waits.is_empty() {
                if replaced && self.spare > 0 && is_ready(&desktop.phase) {
                    self.spare -= 1;
                } else {
                    waits.push(Wait::Successor);
                }
            }
            let goes = waits.is_empty();
            let deed = Deed {
                kind: Kind::ReplaceCreateFirst,
                reason: reason(yard, one.from, one.to),
                // Nobody is there, and the pool never has fewer desktops.
                risk: Risk::Safe,
                step: Some(Step {
                    task: Task::Remove {
                        member: desktop.spec.member.clone(),
                    },
                    memory: Memory::Leaving,
                }),
            };
            fate::push(one.id, desktop, deed, waits, draft);
            if goes {
                going.push(one.id.clone());
            } else {
                // Until then it is looked after like any other.
                draft.busy.remove(one.id);
            }
        }
        going
    }
}

fn reason(yard: Yard<'_>, from: ServerId, to: ServerId) -> Reason {
    let name = |id| {
        yard.known
            .servers
            .get(&id)
            .map_or_else(String::new, |server| server.name.to_string())
    };
    Reason::Rebalance {
        from: name(from),
        to: name(to),
    }
}
