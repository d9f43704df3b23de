//! `GET upgrade`: whether the next server may be stopped for a newer version.

use coppice_schema::ids::ServerId;
use coppice_schema::known::{Phase, ServerState};
use coppice_state::state::{FEATURE_LEVEL, Server, State};
use coppice_state::{Part, Standing};

use crate::api::{ServerUpgrade, UpgradeCheck};
use crate::portal::Portal;
use crate::servers;

/// Whether each server may be stopped now, and what all can apply.
#[utoipa::path(get, path = "/api/v1/upgrade", responses((status = 200, body = UpgradeCheck)))]
pub(crate) async fn check(portal: Portal) -> axum::Json<UpgradeCheck> {
    let seen = portal.look_at_all().await;
    axum::Json(judge(
        &seen.state,
        &seen.standing,
        seen.quorum,
        &portal.app.version,
    ))
}

fn judge(state: &State, standing: &Standing, quorum: bool, version: &str) -> UpgradeCheck {
    let members: Vec<(ServerId, &Server)> = state
        .servers
        .iter()
        .filter(|(_, server)| servers::is_member(server))
        .map(|(id, server)| (*id, server))
        .collect();
    let each = |(id, server): &(ServerId, &Server)| ServerUpgrade {
        name: server.name.clone(),
        feature_level: server.feature_level,
        holds: holds(state, standing, quorum, *id, server),
    };
    let waiting: Vec<String> = members
        .iter()
        .map(|(_, server)| server)
        .filter(|server| server.state != ServerState::Lost)
        .filter(|server| server.feature_level <= state.feature_level)
        .map(|server| server.name.to_string())
        .collect();
    let servers: Vec<ServerUpgrade> = members.iter().map(each).collect();
    UpgradeCheck {
        safe: quorum && servers.iter().all(|server| server.holds.is_none()),
        quorum,
        feature_level: state.feature_level,
        newest: FEATURE_LEVEL,
        version: version.to_owned(),
        waiting,
        servers,
    }
}

/// Why `server` must not be stopped now, in words.
fn holds(
    state: &State,
    standing: &Standing,
    quorum: bool,
    id: ServerId,
    server: &Server,
) -> Option<String> {
    // Who is there is not known then.
    if !quorum {
        return Some("no majority answers as it is".to_owned());
    }
    if let Some(Amiss { what, remedy }) = amiss(server, standing) {
        return Some(format!("it {what}: {remedy}"));
    }
    let others = state.servers.iter();
    let others = others.filter(|(other, server)| **other != id && servers::is_member(server));
    // What a second one that is away would come to, nobody has looked at: capacity, copies, votes.
    let away = others.filter_map(|(_, other)| {
        let Amiss { what, .. } = amiss(other, standing)?;
        Some(format!("{} {what}", other.name))
    });
    let reasons: Vec<String> = votes(server, standing)
        .into_iter()
        .chain(away)
        .chain(moves(state, id))
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// What is the matter with a member that is not wholly there.
struct Amiss {
    /// What it is, after its name.
    what: &'static str,
    /// What is to be done.
    remedy: String,
}

fn amiss(server: &Server, standing: &Standing) -> Option<Amiss> {
    let name = &server.name;
    let start = || format!("start it again, or `coppice server remove {name}`");
    let (what, remedy) = match server.state {
        ServerState::Removed => return None,
        ServerState::Lost => ("is lost", start()),
        ServerState::Joining => (
            "has joined and was never started",
            format!("start `coppice serve` there, or `coppice server remove {name}`"),
        ),
        ServerState::Reconciling => (
            "is back, and what it holds is not settled yet",
            format!("wait; `coppice explain server.{name}` says for what"),
        ),
        ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Suspect => match standing.parts.get(&server.raft_id) {
            None => (
                "has no part in what is agreed on yet",
                "wait; `coppice server list` shows when it learns".to_owned(),
            ),
            Some(part) if !part.there() => ("is not heard", start()),
            Some(_) => return None,
        },
    };
    Some(Amiss { what, remedy })
}

/// Why the others could not agree on anything without `server`.
fn votes(server: &Server, standing: &Standing) -> Option<String> {
    let mut voters: Vec<_> = standing.parts.iter().filter(|(_, p)| p.voter).collect();
    let of = voters.len();
    voters.retain(|(id, _)| **id != server.raft_id);
    if voters.len() == of {
        return None;
    }
    if voters.is_empty() {
        return Some(
            "it is the only one that votes: nothing is agreed on until it is back".to_owned(),
        );
    }
    let well = |part: &Part| part.there() && part.caught_up(standing.last);
    let left = voters.iter().filter(|(_, part)| well(part));
    // Of two, one that stops as planned leaves the other alone, and that one decides alone.
    let needed = if of == 2 { 1 } else { of / 2 + 1 };
    let left = left.count();
    (left < needed).then(|| {
        format!("of {of} that vote, {left} others are there and caught up, and {needed} are needed")
    })
}

/// A desktop on its way is on two servers, and waits, perhaps standing still, until both are there.
fn moves(state: &State, server: ServerId) -> Option<String> {
    let moving = state.desktops.values().filter(|desktop| {
        matches!(desktop.phase, Phase::Migrating { from, to, .. } if from == server || to == server)
    });
    match moving.count() {
        0 => None,
        1 => Some("a desktop is being moved from or to it: wait until it is there".to_owned()),
        n => Some(format!(
            "{n} desktops are being moved from or to it: wait until they are there"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coppice_schema::units::Span;
    use coppice_state::agreement::{BEHIND, THERE};

    use super::*;

    /// Members with these raft ids, all ready.
    fn members(ids: impl IntoIterator<Item = u64>) -> State {
        let server = |raft_id| {
            let name = format!("s{raft_id}").parse();
            let name = name.unwrap_or_else(|_| unreachable!());
            let server = Server {
                state: ServerState::Ready,
                ..Server::joining(name, raft_id, String::new(), Default::default())
            };
            (ServerId(raft_id), server)
        };
        State {
            servers: ids.into_iter().map(server).collect(),
            ..State::default()
        }
    }

    /// Voters by how long ago each was heard and how many entries it lacks; the rest learn.
    fn standing(voters: &[(u64, u64)]) -> Standing {
        let part = |(heard, behind): &(u64, u64)| Part {
            voter: true,
            heard: Some(Span(*heard)),
            holds: Some(1_000 - behind),
        };
        let mut parts: BTreeMap<u64, Part> = (1..).zip(voters.iter().map(part)).collect();
        let learner = Part {
            voter: false,
            heard: Some(Span(0)),
            holds: None,
        };
        parts.insert(99, learner);
        Standing {
            last: 1_000,
            parts,
            ..Standing::default()
        }
    }

    #[test]
    fn a_server_may_stop_only_if_the_others_decide_without_it() {
        let may = |voters: &[(u64, u64)], id| {
            let standing = standing(voters);
            let state = members(standing.parts.keys().copied());
            votes(&state.servers[&ServerId(id)], &standing).is_none()
        };
        assert!(may(&[(0, 0), (10, 0), (10, 0)], 2));
        // Another is silent, or far behind.
        assert!(!may(&[(0, 0), (THERE.0 + 1, 0), (10, 0)], 3));
        assert!(may(&[(0, 0), (THERE.0 + 1, 0), (10, 0)], 2));
        assert!(!may(&[(0, 0), (10, BEHIND + 1), (10, 0)], 3));
        // Of two, the other goes on alone, if it can.
        assert!(may(&[(0, 0), (10, 0)], 1));
        assert!(!may(&[(0, 0), (THERE.0 + 1, 0)], 1));
        assert!(!may(&[(0, 0)], 1), "it is alone");
        assert!(may(&[(0, 0)], 99), "a learner");
    }

    #[test]
    fn nothing_is_safe_while_another_is_not_wholly_there() {
        let all = standing(&[(0, 0), (10, 0), (10, 0), (10, 0), (10, 0)]);
        let fine = || members([1, 2, 3, 4, 5, 99]);
        let judged = |state: &State, standing: &Standing| judge(state, standing, true, "1");
        assert!(judged(&fine(), &all).safe);
        assert!(!judge(&fine(), &all, false, "1").safe);

        let in_part = |id: u64, part: ServerState| {
            let mut state = fine();
            if let Some(server) = state.servers.get_mut(&ServerId(id)) {
                server.state = part;
            }
            (state, all.clone())
        };
        let silent = |id: u64, heard: Option<Span>| {
            let mut standing = all.clone();
            if let Some(part) = standing.parts.get_mut(&id) {
                part.heard = heard;
            }
            (fine(), standing)
        };
        let absent = || {
            let mut standing = all.clone();
            standing.parts.remove(&99);
            (fine(), standing)
        };
        // A voter of five, without which three are left; and one that only learns.
        for ((state, standing), name, what, remedy) in [
            (
                in_part(5, ServerState::Lost),
                "s5",
                "is lost",
                "start it again, or `coppice server remove s5`",
            ),
            (
                in_part(99, ServerState::Lost),
                "s99",
                "is lost",
                "coppice server remove s99",
            ),
            (
                in_part(99, ServerState::Joining),
                "s99",
                "never started",
                "coppice serve",
            ),
            (
                in_part(5, ServerState::Reconciling),
                "s5",
                "is back",
                "wait",
            ),
            (
                silent(5, Some(Span(THERE.0 + 1))),
                "s5",
                "is not heard",
                "start it again",
            ),
            (silent(99, None), "s99", "is not heard", "start it again"),
            (absent(), "s99", "no part", "wait"),
        ] {
            let check = judged(&state, &standing);
            assert!(!check.safe, "{name} {what}");
            for server in &check.servers {
                let why = server.holds.as_deref().unwrap_or_default();
                let own = server.name.as_str() == name;
                assert!(why.contains(what), "{name} {what}: {server:?}");
                assert!(
                    why.starts_with(if own { "it " } else { name }),
                    "{server:?}"
                );
                assert_eq!(why.contains(remedy), own, "{server:?}");
            }
        }
        // One that was removed is waited for by nobody.
        let (state, standing) = in_part(99, ServerState::Removed);
        assert!(judged(&state, &standing).safe);
    }
}
