//! How servers stand that are lost, come back, or are being emptied: who is touched, and what happens.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::ids::{Address, DesktopId, PoolName, ServerId};
use coppice_schema::known::{KnownDesktop, KnownServer, Phase, ServerState};

use crate::draft::Draft;
use crate::plan::{Finding, FindingKind, Severity, Wait};
use crate::pool;
use crate::replicas::{self, Prospect};

/// Findings about one that is lost, or back.
pub(super) fn survey(id: ServerId, server: &KnownServer, draft: &mut Draft<'_>) {
    if let Some(skew) = server.skew {
        draft.finding(Finding {
            object: Address::Server(server.name.clone()),
            kind: FindingKind::ClockWrong { skew },
            severity: Severity::Warning,
            remedy: "set its clock, and let chrony or systemd-timesyncd keep it right".to_owned(),
        });
    }
    match server.state {
        ServerState::Lost => lost(id, server, draft),
        ServerState::Reconciling => back(id, server, draft),
        // Told once it is known what is done about its desktops.
        ServerState::Draining => {}
        ServerState::Joining
        | ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Suspect
        | ServerState::Removed => {}
    }
}

fn here(known: &Known, server: ServerId) -> impl Iterator<Item = (&DesktopId, &KnownDesktop)> {
    let all = known.desktops.iter();
    all.filter(move |(_, desktop)| desktop.server == server)
}

fn count<T>(found: impl Iterator<Item = T>) -> u32 {
    u32::try_from(found.count()).unwrap_or(u32::MAX)
}

fn lost(id: ServerId, server: &KnownServer, draft: &mut Draft<'_>) {
    let known = draft.known;
    let personal = || here(known, id).filter(|(_, desktop)| desktop.personal);
    let kind = FindingKind::ServerLost {
        since: server.since,
        pooled: count(here(known, id).filter(|(_, desktop)| !desktop.personal)),
        personal: count(personal().filter(|(_, desktop)| !goes_on(known, desktop))),
        copied: count(personal().filter(|(_, desktop)| goes_on(known, desktop))),
        used: count(here(known, id).filter(|(_, desktop)| desktop.wear.occupied)),
    };
    let name = server.name.to_string();
    draft.finding(Finding {
        object: Address::Server(server.name.clone()),
        kind,
        severity: Severity::Error,
        remedy: if server.parted {
            "the grid went on without it: on it, with `coppice serve` stopped, coppice server rejoin ADDRESS TOKEN; what \
             it holds is left alone until then"
        } else {
            "start it again: it takes part by itself, and what it holds is found again"
        }
        .to_owned(),
    });
    for (id, desktop) in personal() {
        let (copy, remedy) = match replicas::prospect(known, desktop) {
            Prospect::Waits => (
                None,
                format!("start server {name} again; what is on the desktop's disk is there alone"),
            ),
            Prospect::Ends { newest, lease } => (
                Some(newest.taken),
                format!(
                    "nothing is to be done: {name} ends it by itself, and it goes on from the copy about {lease} after \
                     the loss"
                ),
            ),
            Prospect::Unfenced { newest } => (
                Some(newest.taken),
                format!(
                    "nobody knows whether it still runs there: start server {name} again; or, when that is off for good, \
                     coppice server remove {name} --lost, and it goes on from the copy"
                ),
            ),
            // That is planned.
            Prospect::Free { .. } => continue,
        };
        draft.finding(Finding {
            object: Address::Desktop(id.clone()),
            kind: FindingKind::AwaitsServer {
                server: name.clone(),
                since: server.since,
                copy,
            },
            severity: Severity::Error,
            remedy,
        });
    }
}

/// Whether it goes on from a copy without anybody's doing.
fn goes_on(known: &Known, desktop: &KnownDesktop) -> bool {
    let prospect = replicas::prospect(known, desktop);
    matches!(prospect, Prospect::Ends { .. } | Prospect::Free { .. })
}

fn back(id: ServerId, server: &KnownServer, draft: &mut Draft<'_>) {
    let known = draft.known;
    let kind = FindingKind::ServerBack {
        since: server.since,
        desktops: count(here(known, id)),
        used: count(here(known, id).filter(|(_, desktop)| desktop.people() > 0)),
    };
    draft.finding(Finding {
        object: Address::Server(server.name.clone()),
        kind,
        severity: Severity::Note,
        remedy: "nothing is to be done: it takes new desktops when that is done".to_owned(),
    });
}

/// Says of servers that are being emptied what is left there, and why that does not go. Once all actions are there.
pub(crate) fn farewell(known: &Known, draft: &mut Draft<'_>) {
    let leaves = |wait: &Wait| matches!(wait, Wait::Logoff { .. } | Wait::Vacancy { .. });
    let waiting = draft
        .actions
        .iter()
        .filter(|action| action.waits.iter().any(leaves));
    let waited_for: BTreeSet<DesktopId> = waiting
        .filter_map(|action| action.object.desktop().cloned())
        .collect();
    let draining = known.servers.iter();
    for (id, server) in draining.filter(|(_, server)| server.state == ServerState::Draining) {
        let object = Address::Server(server.name.clone());
        if here(known, *id).next().is_none() {
            draft.finding(Finding {
                object,
                kind: FindingKind::Drained,
                severity: Severity::Note,
                remedy: format!(
                    "take it out of the grid, or: coppice server undrain {}",
                    server.name
                ),
            });
            continue;
        }
        let pooled = || here(known, *id).filter(|(_, desktop)| !desktop.personal);
        let personal = || here(known, *id).filter(|(_, desktop)| desktop.personal);
        let moving = here(known, *id).any(|(_, desktop)| {
            pool::could_leave(known, desktop) || pool::runs_to_leave(known, desktop)
        });
        let personal = count(personal());
        let stuck = stuck(known, *id, server, draft);
        let used = |(id, desktop): &(&DesktopId, &KnownDesktop)| {
            desktop.people() > 0 || waited_for.contains(*id)
        };
        let kind = FindingKind::Draining {
            pooled: count(pooled()),
            used: count(pooled().filter(used)),
            personal,
            stuck: stuck.clone(),
        };
        draft.finding(Finding {
            object,
            kind,
            severity: if stuck.is_some() {
                Severity::Warning
            } else {
                Severity::Note
            },
            remedy: match stuck {
                Some(_) => format!(
                    "make room elsewhere, or take it back: coppice server undrain {}",
                    server.name
                ),
                None if moving => {
                    "nothing is to be done: what is used or kept moves while it runs".to_owned()
                }
                None => "nothing is to be done: people are waited for".to_owned(),
            },
        });
    }
}

/// Why emptying a server does not go on by itself.
fn stuck(
    known: &Known,
    server: ServerId,
    emptied: &KnownServer,
    draft: &Draft<'_>,
) -> Option<String> {
    let mut why = BTreeSet::new();
    let pools: BTreeSet<&PoolName> = here(known, server)
        .filter(|(_, desktop)| {
            !desktop.personal && !matches!(desktop.phase, Phase::Deleting { .. })
        })
        .map(|(id, _)| &id.pool)
        .collect();
    for action in &draft.actions {
        let Some(id) = action
            .object
            .desktop()
            .filter(|id| pools.contains(&id.pool))
        else {
            continue;
        };
        for wait in action.waits.iter().filter(|wait| wait.needs_a_person()) {
            why.insert(format!("pool.{}: {}", id.pool, crate::text::wait(wait)));
        }
    }
    for finding in &draft.findings {
        if let (Address::Pool(pool), FindingKind::NoRoom { lacking, .. }) =
            (&finding.object, &finding.kind)
            && pools.contains(pool)
            && !why
                .iter()
                .any(|text| text.starts_with(&format!("pool.{pool}:")))
        {
            why.insert(format!("pool.{pool}: {lacking}"));
        }
    }
    let mut staying: BTreeMap<&str, Vec<&Address>> = BTreeMap::new();
    for finding in &draft.findings {
        if let (
            Address::Desktop(id),
            FindingKind::Stays {
                to: None,
                why: lacking,
                ..
            },
        ) = (&finding.object, &finding.kind)
            && known
                .desktops
                .get(id)
                .is_some_and(|desktop| desktop.server == server)
        {
            staying.entry(lacking).or_default().push(&finding.object);
        }
    }
    why.extend(staying.into_iter().map(|(lacking, who)| match *who {
        [one] => format!("{one}: {lacking}"),
        _ => format!("{} desktops: {lacking}", who.len()),
    }));
    let mut personal = here(known, server).filter(|(_, desktop)| desktop.personal);
    let broken = |(_, desktop): (_, &KnownDesktop)| matches!(desktop.phase, Phase::Broken { .. });
    if emptied.capacity.moves.is_none() {
        if personal.next().is_some() {
            why.insert("personal desktops stay with their disks".to_owned());
        }
    } else if personal.any(broken) {
        why.insert("personal desktops move only while they run".to_owned());
    }
    (!why.is_empty()).then(|| why.into_iter().collect::<Vec<_>>().join("; "))
}
