//! Which desktops would move to level the load.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, Member, ServerId};
use coppice_schema::known::{KnownDesktop, Request, ServerState, Task};
use coppice_schema::units::Timestamp;

use super::{Host, Ledger, Need, Use, carried};
use crate::draft::Draft;
use crate::plan::{Finding, FindingKind, Severity, Step};
use crate::pool::{Yard, asked_to_move, is_idle};

/// A move is worth it when the largest share of the server that a desktop leaves is by more than that above what the other's
/// becomes, in parts of a million. A move costs a boot and what the host had cached; below a tenth of a server nobody notices the
/// difference.
pub const WORTH: u64 = 100_000;

/// A desktop that may move.
struct Mover<'a> {
    member: &'a Member,
    from: ServerId,
    /// What it takes where it is now, in thought.
    takes: Use,
    moved: bool,
}

/// Alike desktops.
struct Kind<'a> {
    need: Need<'a>,
    /// By the place of the server where they are now, in thought.
    at: BTreeMap<usize, Vec<Mover<'a>>>,
}

/// Which desktops would move to which server so that no server carries much more than another: only pooled ones that nobody uses, and
/// only as far as each move is worth it (see [`WORTH`]). Empty: nothing is.
///
/// Asked again right after all moves were made, it finds nothing: it goes on until no move is worth it, and what was moved in
/// thought may move again in thought. Each move makes the larger of two shares smaller, so that comes to an end.
///
/// Nothing does this by itself. Growth puts new desktops where the load is lowest, so a server that joins gets the next ones; those that
/// are there move when a person wants it.
#[must_use]
pub fn rebalance(desired: &Desired, known: &Known, now: Timestamp) -> BTreeMap<Member, ServerId> {
    let mut known = known.clone();
    known.ask_to_move(&BTreeMap::new());
    let known = &known;
    let mut ledger = Ledger::new(desired, known);
    // What is grown anyway is where it will be.
    for action in crate::plan(desired, known, now).actions {
        if let (
            Some(server),
            Some(Step {
                task: Task::Create { spec, .. },
                ..
            }),
        ) = (action.server, &action.step)
        {
            ledger.take(server, &spec.hardware);
        }
    }
    let mut level = Level::new(desired, known, ledger);
    // Far more than it takes; a bound is better than a proof that somebody's change breaks.
    let most = level
        .kinds
        .iter()
        .flat_map(|kind| kind.at.values())
        .map(Vec::len)
        .sum::<usize>();
    for _ in 0..most.saturating_mul(4) {
        let Some(best) = level.best() else { break };
        level.make(&best);
    }
    let mut moves = BTreeMap::new();
    for kind in &level.kinds {
        for (place, movers) in &kind.at {
            let Some(host) = level.ledger.hosts.get(*place) else {
                continue;
            };
            let gone = movers.iter().filter(|mover| mover.from != host.id);
            moves.extend(gone.map(|mover| (mover.member.clone(), host.id)));
        }
    }
    moves
}

/// Says where desktops would have to move for the load to be level, as after a server has joined. Nothing moves by itself.
pub(crate) fn survey(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    let shares = || draft.ledger.hosts.iter().map(share);
    let (most, least) = (shares().max().unwrap_or(0), shares().min().unwrap_or(0));
    let mut asked = known.requests.keys();
    let moves = |id: &DesktopId| {
        let (name, pool) = desired.pools.get_key_value(&id.pool)?;
        let yard = Yard::new(desired, known, name, pool)?;
        asked_to_move(yard, &draft.ledger, id, known.desktops.get(id)?)
    };
    // What was decided is under way.
    let moving = asked.any(|id| moves(id).is_some());
    if most.saturating_sub(least) <= WORTH || moving || !draft.complete() {
        return;
    }
    let level = Level::new(desired, known, draft.ledger.clone());
    let Some(best) = level.best() else { return };
    let name = |place| {
        let host: Option<&Host<'_>> = level.ledger.hosts.get(place);
        host.map_or_else(String::new, |host| host.server.name.to_string())
    };
    draft.finding(Finding {
        object: Address::Grid,
        kind: FindingKind::Uneven {
            from: name(best.from),
            to: name(best.to),
        },
        severity: Severity::Note,
        remedy: "coppice server rebalance --dry-run shows what would move".to_owned(),
    });
}

struct Best {
    gain: u64,
    kind: usize,
    from: usize,
    to: usize,
}

struct Level<'a> {
    ledger: Ledger<'a>,
    kinds: Vec<Kind<'a>>,
}

impl<'a> Level<'a> {
    fn new(desired: &'a Desired, known: &'a Known, ledger: Ledger<'a>) -> Self {
        let mut kinds = Vec::new();
        let ordered: std::collections::BTreeSet<&DesktopId> = known
            .orders
            .values()
            .filter_map(|order| Some(&order.task.member()?.desktop))
            .collect();
        for (name, pool) in super::largest_first(desired, known) {
            let full = pool.slots.is_some_and(|slots| slots <= pool.desktops);
            let yard = Yard::new(desired, known, name, pool).filter(|_| !full);
            let Some((yard, image)) = yard.and_then(|yard| Some((yard, yard.published().ok()?)))
            else {
                continue;
            };
            let need = yard.need(image);
            let mut at: BTreeMap<usize, Vec<Mover<'a>>> = BTreeMap::new();
            for (id, desktop) in crate::pool::members(known, name) {
                // What is to be regrown is placed anew by that.
                let fit = desktop.spec.image == need.image && may_move(known, id, desktop);
                let place = ledger
                    .hosts
                    .binary_search_by_key(&desktop.server, |host| host.id);
                let Some(place) = place.ok().filter(|_| fit && !ordered.contains(id)) else {
                    continue;
                };
                at.entry(place).or_default().push(Mover {
                    member: &desktop.spec.member,
                    from: desktop.server,
                    takes: carried(known, desktop),
                    moved: false,
                });
            }
            kinds.push(Kind { need, at });
        }
        Self { ledger, kinds }
    }

    /// The move that gains the most; ties by pool, the largest desktops first.
    fn best(&self) -> Option<Best> {
        let mut best: Option<Best> = None;
        for (kind, alike) in self.kinds.iter().enumerate() {
            let hosts = || self.ledger.hosts.iter().enumerate();
            let sources = alike.at.iter().filter(|(_, movers)| !movers.is_empty());
            let sources = sources
                .filter_map(|(place, _)| Some((share(self.ledger.hosts.get(*place)?), *place)));
            let Some((before, from)) =
                sources.max_by_key(|(share, place)| (*share, std::cmp::Reverse(*place)))
            else {
                continue;
            };
            let targets =
                hosts().filter(|(place, host)| *place != from && host.lacks(&alike.need).is_none());
            let targets = targets.map(|(place, host)| (after(host, alike.need.takes), place));
            let Some((then, to)) = targets.min() else {
                continue;
            };
            let gain = before.saturating_sub(then);
            if gain > WORTH && best.as_ref().is_none_or(|best| gain > best.gain) {
                best = Some(Best {
                    gain,
                    kind,
                    from,
                    to,
                });
            }
        }
        best
    }

    fn make(&mut self, best: &Best) {
        let Some(alike) = self.kinds.get_mut(best.kind) else {
            return;
        };
        let takes = alike.need.takes;
        let Some(movers) = alike.at.get_mut(&best.from) else {
            return;
        };
        // One that has moved in thought already is one move less.
        let again = movers.iter().position(|mover| mover.moved);
        let mut mover = match again {
            Some(at) => movers.swap_remove(at),
            None => match movers.pop() {
                Some(mover) => mover,
                None => return,
            },
        };
        if let Some(host) = self.ledger.hosts.get_mut(best.from) {
            host.less(mover.takes);
        }
        if let Some(host) = self.ledger.hosts.get_mut(best.to) {
            host.add(takes);
        }
        (mover.takes, mover.moved) = (takes, true);
        alike.at.entry(best.to).or_default().push(mover);
    }
}

/// The largest share of a server's own. People do not count: those who sit there do not move.
fn share(host: &Host<'_>) -> u64 {
    after(host, Use::default())
}

fn after(host: &Host<'_>, takes: Use) -> u64 {
    let shares = host.shares(takes, 0);
    shares.cpus.max(shares.memory).max(shares.disk)
}

/// It is nobody's, nobody uses it, nobody wants anything else of it, and it is on a server that takes its part.
fn may_move(known: &Known, id: &DesktopId, desktop: &KnownDesktop) -> bool {
    let server = known.servers.get(&desktop.server);
    let there = server.is_some_and(|server| server.current && server.state == ServerState::Ready);
    let asked = known.requests.get(id);
    let free = asked.is_none_or(|request| matches!(request, Request::Move { .. }));
    there && free && is_idle(desktop) && !known.pauses.contains_key(&Address::Desktop(id.clone()))
}
