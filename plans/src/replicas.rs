//! Copies of personal desktops on other servers: how many, where, how old they may become, and when one takes the
//! place of a desktop whose server is lost.

use std::collections::BTreeMap;

use coppice_schema::desired::{Desired, Pool, ServerRule};
use coppice_schema::ids::{DesktopId, Member, ServerId};
use coppice_schema::known::{
    CopyState, DiskLevel, Known, KnownDesktop, KnownServer, Phase, SeenReplica, ServerState,
};
use coppice_schema::units::{Span, Timestamp};
use coppice_schema::{Digest, ids::Address};

use crate::draft::Draft;
use crate::place::rule;
use crate::plan::{Finding, FindingKind, Severity};

/// How old a copy may become where a pool does not say.
const MAX_AGE: Span = Span::minutes(15);

/// How many copies of a desktop there are to be. Where that is not none, it runs under its server's watchdog.
#[must_use]
pub fn wanted(desired: &Desired, id: &DesktopId, desktop: &KnownDesktop) -> u32 {
    let pool = desired.pools.get(&id.pool);
    pool.filter(|_| desktop.personal)
        .map_or(0, |pool| pool.copies)
}

/// How old a copy of a desktop of that pool may become.
fn max_age(pool: &Pool) -> Span {
    pool.max_copy_age.unwrap_or(MAX_AGE)
}

/// A copy that its desktop's server is to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// Of what.
    pub member: Member,
    /// On which server.
    pub to: ServerId,
    /// When it is due.
    pub at: Timestamp,
}

/// The copies that `home` is to make, those first that are due first. What is due later is among them, too.
#[must_use]
pub fn due(desired: &Desired, known: &Known, home: ServerId) -> Vec<Due> {
    let here = known.desktops.iter().filter(|(_, desktop)| {
        let there = matches!(
            desktop.phase,
            Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. }
        );
        there && desktop.server == home
    });
    let holders = Holders::new(desired, known);
    let mut due: Vec<Due> = here
        .flat_map(|(id, desktop)| {
            let pool = desired.pools.get(&id.pool);
            let age = pool.map_or(MAX_AGE, max_age);
            let holders = holders.of(id, desktop).into_iter();
            holders.filter_map(move |to| {
                let copy = held(known, to, desktop);
                Some(Due {
                    member: desktop.spec.member.clone(),
                    to,
                    at: due_at(copy, desktop, age)?,
                })
            })
        })
        .collect();
    due.sort_by(|a, b| (a.at, &a.member, a.to).cmp(&(b.at, &b.member, b.to)));
    due
}

/// A copy is made anew at half its age, so that what fails once is not too late yet. What is off does not change.
fn due_at(copy: Option<&SeenReplica>, desktop: &KnownDesktop, age: Span) -> Option<Timestamp> {
    let Some(copy) = copy else {
        return Some(desktop.grown);
    };
    if let Phase::Off { since } = desktop.phase {
        return (copy.taken <= since).then_some(since);
    }
    Some(copy.taken.after(Span(age.0 / 2)))
}

/// Which servers are to hold copies.
#[derive(Debug)]
pub struct Holders<'a> {
    desired: &'a Desired,
    known: &'a Known,
    /// Those that may hold any, with what is said of each.
    servers: Vec<(ServerId, &'a KnownServer, ServerRule)>,
}

impl<'a> Holders<'a> {
    /// By what is known now.
    #[must_use]
    pub fn new(desired: &'a Desired, known: &'a Known) -> Self {
        let servers = known.servers.iter();
        let servers = servers.map(|(id, server)| (*id, server, rule(desired, server)));
        Self {
            desired,
            known,
            servers: servers.collect(),
        }
    }

    /// The servers that are to hold the copies of a desktop: those that do, and others by a choice that spreads what is on
    /// one server over all others.
    #[must_use]
    pub fn of(&self, id: &DesktopId, desktop: &KnownDesktop) -> Vec<ServerId> {
        let wanted = usize::try_from(wanted(self.desired, id, desktop)).unwrap_or(usize::MAX);
        let pool = self.desired.pools.get(&id.pool);
        let Some(pool) = pool.filter(|_| wanted > 0) else {
            return Vec::new();
        };
        let others = self.servers.iter().filter(|(on, ..)| *on != desktop.server);
        let mut able: Vec<(bool, Digest, ServerId)> = others
            .filter_map(|(on, server, rule)| {
                let holds = held(self.known, *on, desktop).is_some();
                may_hold(pool, server, rule, desktop, holds).then(|| (!holds, spread(id, *on), *on))
            })
            .collect();
        able.sort();
        able.truncate(wanted);
        able.into_iter().map(|(_, _, on)| on).collect()
    }
}

/// Alike on all servers, and another order for each desktop.
fn spread(id: &DesktopId, server: ServerId) -> Digest {
    Digest::of(format!("{id} {server}").as_bytes())
}

fn may_hold(
    pool: &Pool,
    server: &KnownServer,
    rule: &ServerRule,
    desktop: &KnownDesktop,
    holds: bool,
) -> bool {
    let part = match server.state {
        ServerState::Ready | ServerState::Reconciling | ServerState::Suspect => true,
        ServerState::Cordoned => holds,
        ServerState::Joining | ServerState::Draining | ServerState::Lost | ServerState::Removed => {
            false
        }
    };
    let Some(look) = &server.look else {
        return false;
    };
    let image = look.images.get(&desktop.spec.image) == Some(&CopyState::Verified);
    let room = match look.disk {
        DiskLevel::Fine => true,
        DiskLevel::High => holds,
        DiskLevel::Critical => false,
    };
    let mut labels = pool.servers.iter();
    let labelled = labels.all(|it| server.labels.contains(it) || rule.labels.contains(it));
    part && image && room && labelled && (holds || !rule.cordon)
}

/// The copy of a desktop's present life on that server.
fn held<'a>(known: &'a Known, server: ServerId, desktop: &KnownDesktop) -> Option<&'a SeenReplica> {
    let look = known.servers.get(&server)?.look.as_ref()?;
    look.replicas.get(&desktop.spec.member)
}

/// Copies on `server` that nothing needs any more: of desktops that are gone, of those of which no copies are wanted,
/// of former lives once the present one has its copies, and such as others hold that are to.
#[must_use]
pub fn unneeded(desired: &Desired, known: &Known, server: ServerId) -> Vec<Member> {
    let holders = Holders::new(desired, known);
    let look = known.servers.get(&server).and_then(|it| it.look.as_ref());
    let here = look.into_iter().flat_map(|look| look.replicas.keys());
    here.filter(|member| is_unneeded(&holders, server, member))
        .cloned()
        .collect()
}

fn is_unneeded(holders: &Holders<'_>, server: ServerId, member: &Member) -> bool {
    let (desired, known) = (holders.desired, holders.known);
    let id = &member.desktop;
    let Some(desktop) = known.desktops.get(id) else {
        return true;
    };
    // What it is to go on from, or goes on from now.
    let settled = matches!(
        desktop.phase,
        Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. }
    );
    if !settled {
        return false;
    }
    if wanted(desired, id, desktop) == 0
        || desktop.server == server && desktop.spec.member == *member
    {
        return true;
    }
    let holders = holders.of(id, desktop);
    let all = holders
        .iter()
        .all(|holder| held(known, *holder, desktop).is_some());
    let enough = all && !holders.is_empty();
    let superseded = desktop.incarnation > member.incarnation;
    enough && (superseded || !holders.contains(&server))
}

/// What becomes of a personal desktop whose server is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Prospect {
    /// There is no copy: it comes back with its server.
    Waits,
    /// There is one, and nobody knows whether the desktop still runs.
    Unfenced {
        /// The newest.
        newest: Copy,
    },
    /// It ends on its server by itself, at the latest so long after the server was lost.
    Ends {
        /// The newest.
        newest: Copy,
        /// How long.
        lease: Span,
    },
    /// It runs nowhere, and may go on from one of these; the newest first.
    Free {
        /// Them.
        copies: Vec<Copy>,
    },
}

/// A copy, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copy {
    pub(crate) on: ServerId,
    pub(crate) taken: Timestamp,
    /// It is of the life before, from whose copy the present one was to go on when its server was lost, too.
    pub(crate) former: bool,
}

/// Whether `desktop`, which does not show itself, may go on from a copy.
pub(crate) fn prospect(known: &Known, desktop: &KnownDesktop) -> Prospect {
    let mut copies: Vec<Copy> = known
        .servers
        .iter()
        .filter(|(_, server)| !matches!(server.state, ServerState::Lost | ServerState::Removed))
        .filter_map(|(on, _)| {
            let of_former = || {
                let look = known.servers.get(on)?.look.as_ref()?;
                look.replicas.get(desktop.restored_from.as_ref()?)
            };
            let own = held(known, *on, desktop);
            let taken = own.or_else(of_former)?.taken;
            let former = own.is_none();
            Some(Copy {
                on: *on,
                taken,
                former,
            })
        })
        .collect();
    copies.sort_by_key(|copy| (std::cmp::Reverse(copy.taken), copy.on));
    let (Some(newest), Some(home)) = (copies.first().copied(), known.servers.get(&desktop.server))
    else {
        return Prospect::Waits;
    };
    let look = home.look.as_ref();
    let ends_itself = look.is_none_or(|look| look.ends_itself(&desktop.spec.member));
    match (home.state, home.lease) {
        (ServerState::Removed, Some(lease)) if !home.fenced => Prospect::Ends { newest, lease },
        (ServerState::Removed, _) => Prospect::Free { copies },
        (ServerState::Lost, Some(lease)) if ends_itself => {
            if home.fenced {
                Prospect::Free { copies }
            } else {
                Prospect::Ends { newest, lease }
            }
        }
        (ServerState::Lost, _) => Prospect::Unfenced { newest },
        (
            ServerState::Joining
            | ServerState::Ready
            | ServerState::Cordoned
            | ServerState::Draining
            | ServerState::Suspect
            | ServerState::Reconciling,
            _,
        ) => Prospect::Waits,
    }
}

/// A desktop that has run for so long is held by its server's watchdog, and others have heard of that.
const HELD_AFTER: Span = Span::minutes(2);

/// Says of which servers nobody will know whether the desktops with copies still run there, once they are lost. Where no
/// server has a lease, none could take over by itself.
fn unguarded(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    if known.servers.values().all(|server| server.lease.is_none()) {
        return;
    }
    let mut found: BTreeMap<ServerId, u32> = BTreeMap::new();
    for (id, desktop) in &known.desktops {
        let (Phase::Available { since } | Phase::InUse { since, .. }) = &desktop.phase else {
            continue;
        };
        let Some(server) = known.servers.get(&desktop.server) else {
            continue;
        };
        let look = server.look.as_ref();
        let seen = look.and_then(|look| look.members.get(&desktop.spec.member));
        let domain = seen.and_then(|seen| seen.domain.as_ref());
        let held = server.lease.is_some() && domain.is_none_or(|domain| domain.guarded);
        if held || wanted(desired, id, desktop) == 0 {
            continue;
        }
        let from = since.after(HELD_AFTER);
        if from > draft.now {
            draft.wake(from);
        } else {
            *found.entry(desktop.server).or_default() += 1;
        }
    }
    for (id, desktops) in found {
        let Some(server) = known.servers.get(&id) else {
            continue;
        };
        let name = &server.name;
        draft.finding(Finding {
            object: Address::Server(name.clone()),
            kind: FindingKind::Unguarded { desktops },
            severity: Severity::Warning,
            remedy: format!(
                "the log of `coppice serve` there says why; start it again. When {name} is lost before, they go on from their \
                 copies only after coppice server remove {name} --lost"
            ),
        });
    }
}

/// Says of desktops of which copies are wanted that there are too few, or old ones only, and which no watchdog holds.
pub(crate) fn survey(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    unguarded(desired, known, draft);
    let all = Holders::new(desired, known);
    for (id, desktop) in &known.desktops {
        let wanted = wanted(desired, id, desktop);
        let settled = matches!(
            desktop.phase,
            Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. }
        );
        let Some(pool) = desired
            .pools
            .get(&id.pool)
            .filter(|_| wanted > 0 && settled)
        else {
            continue;
        };
        let age = max_age(pool);
        let holders = all.of(id, desktop);
        let object = Address::Desktop(id.clone());
        let able = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        if able < wanted {
            draft.finding(Finding {
                object: object.clone(),
                kind: FindingKind::TooFewHolders { copies: wanted, servers: able },
                severity: Severity::Warning,
                remedy: "a copy needs another server that takes part, has the labels of the pool, the desktop's image and \
                         room on its disk: mend one of them, or want fewer copies"
                    .to_owned(),
            });
        }
        // Where one is to be that has none, another server had one until now, or the desktop was not there to be copied.
        let servers = known.servers.keys();
        let newest = servers.filter_map(|on| held(known, *on, desktop));
        let newest = newest.map(|copy| copy.taken).max();
        let from = newest.unwrap_or(desktop.phase.since().max(desktop.grown));
        let copies = holders.iter().map(|on| held(known, *on, desktop));
        let old = copies.map(|copy| {
            let until = match (copy, &desktop.phase) {
                (Some(copy), Phase::Off { since }) if copy.taken > *since => None,
                (Some(copy), _) => Some(copy.taken.after(age)),
                (None, _) => Some(from.after(age)),
            };
            (until, copy.map(|copy| copy.taken))
        });
        for (until, taken) in old {
            let Some(until) = until else { continue };
            if until > draft.now {
                draft.wake(until);
                continue;
            }
            draft.finding(Finding {
                object: object.clone(),
                kind: FindingKind::CopyOld { taken, max_age: age },
                severity: Severity::Warning,
                remedy: format!(
                    "the log of its server says why none was made: mend that, or allow older ones with max_copy_age in pool.{}",
                    id.pool
                ),
            });
            break;
        }
    }
}
