//! `GET upgrade`: whether the next server may be stopped for a newer version.

use coppice_schema::known::ServerState;
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
    let members: Vec<&Server> = state
        .servers
        .values()
        .filter(|server| servers::is_member(server))
        .collect();
    let each = |server: &&Server| ServerUpgrade {
        name: server.name.clone(),
        feature_level: server.feature_level,
        holds: holds(server, standing, quorum),
    };
    let waiting: Vec<String> = members
        .iter()
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
fn holds(server: &Server, standing: &Standing, quorum: bool) -> Option<String> {
    if !quorum {
        return Some("no majority answers as it is".to_owned());
    }
    let part = standing.parts.get(&server.raft_id)?;
    let mut voters: Vec<_> = standing.parts.iter().filter(|(_, p)| p.voter).collect();
    if !part.voter {
        return None;
    }
    if voters.len() == 1 {
        return Some(
            "it is the only one that votes: nothing is agreed on until it is back".to_owned(),
        );
    }
    let of = voters.len();
    voters.retain(|(id, _)| **id != server.raft_id);
    let well = |part: &Part| part.there() && part.caught_up(standing.last);
    let left = voters.iter().filter(|(_, part)| well(part));
    // Of two, one that stops as planned leaves the other alone, and that one decides alone.
    let needed = if of == 2 { 1 } else { of / 2 + 1 };
    let left = left.count();
    (left < needed).then(|| {
        format!("of {of} that vote, {left} others are there and caught up, and {needed} are needed")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coppice_schema::units::Span;
    use coppice_state::agreement::{BEHIND, THERE};

    use super::*;

    fn server(raft_id: u64) -> Server {
        let name = format!("s{raft_id}").parse();
        let name = name.unwrap_or_else(|_| unreachable!());
        Server {
            state: ServerState::Ready,
            ..Server::joining(name, raft_id, String::new(), Default::default())
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
            heard: None,
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
        let may = |voters: &[(u64, u64)], id| holds(&server(id), &standing(voters), true).is_none();
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
        assert!(holds(&server(99), &standing(&[(0, 0)]), false).is_some());
    }
}
