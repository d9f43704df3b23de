//! What only the server that was asked can say: that no majority answers it, and whom it met of other lives of the grid.

use coppice_plans::plan::{Finding, FindingKind, Severity};
use coppice_schema::ids::{Address, Kin};
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use coppice_state::State;

use crate::api::{Code, Problem};
use crate::authority;
use crate::portal::Portal;

/// Why nothing can be changed, and what is to be done about it.
pub(crate) fn refused(portal: &Portal, since: Timestamp) -> Box<Problem> {
    let passed = portal.now().since(since);
    let others = others(portal, &portal.app.agreement.local());
    Problem::new(
        Code::Quorum,
        format!(
            "this server has been on its own for {passed}: no majority of the grid's voters answers it ({others} silent), so \
             nothing can be agreed on. Desktops run on here, and fallen ones are started again; configurations, growth, \
             deletion and taking over what is on other servers wait"
        ),
        ways_out(&others),
    )
}

/// What this server knows by itself, as findings.
pub(crate) fn findings(portal: &Portal, state: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    if portal.app.agreement.degraded().is_some() {
        findings.push(Finding {
            object: Address::Grid,
            kind: FindingKind::NoMajority,
            severity: Severity::Error,
            remedy: ways_out(&others(portal, state)),
        });
    }
    findings.extend(authority::findings(portal, state));
    for (id, epoch) in portal.app.agreement.apart() {
        let Some(server) = state.servers.get(&id) else {
            continue;
        };
        let (name, role, number) = (&server.name, server.role, epoch.number);
        let (kind, severity, remedy) = match state.kin(epoch) {
            Kin::Same => continue,
            Kin::Older => (
                FindingKind::FormerLife { epoch: number },
                Severity::Warning,
                format!(
                    "on that server, with `coppice serve` stopped: coppice server rejoin ADDRESS TOKEN; \
                     the token is from here: coppice token create --role {role} (it keeps the name {name})"
                ),
            ),
            Kin::Newer => (
                FindingKind::LeftBehind { epoch: number },
                Severity::Error,
                "on this server, with `coppice serve` stopped: coppice server rejoin ADDRESS TOKEN; \
                 the token is from a server of that life: coppice token create --role server"
                    .to_owned(),
            ),
            Kin::Split => (
                FindingKind::Split { epoch: number },
                Severity::Error,
                format!(
                    "both went on without the other, and neither gives way by itself. Choose the side that stays; on the \
                     other ({name}, or this one), with `coppice serve` stopped: coppice server rejoin ADDRESS TOKEN, with a \
                     token of the side that stays. What it did since is quarantined"
                ),
            ),
        };
        findings.push(Finding {
            object: Address::Server(name.clone()),
            kind,
            severity,
            remedy,
        });
    }
    findings
}

/// The other voters, by name.
fn others(portal: &Portal, state: &State) -> String {
    let standing = portal.app.agreement.standing();
    let me = state.servers.get(&portal.app.server).map(|s| s.raft_id);
    let voters = standing.parts.iter().filter(|(_, part)| part.voter);
    let others: Vec<String> = voters
        .filter(|(id, _)| Some(**id) != me)
        .map(|(id, _)| name(state, *id))
        .collect();
    match others.as_slice() {
        [] => "the others are".to_owned(),
        [one] => format!("{one} is"),
        [all @ .., last] => format!("{} and {last} are", all.join(", ")),
    }
}

fn name(state: &State, raft_id: u64) -> String {
    let found = state.server_by_raft_id(raft_id);
    let member = found.filter(|(_, server)| server.state != ServerState::Removed);
    member.map_or_else(
        || format!("raft id {raft_id}"),
        |(_, it)| it.name.to_string(),
    )
}

fn ways_out(others: &str) -> String {
    format!(
        "start `coppice serve` on the others, or mend the network between them. If {others} gone for good: stop this server, \
         and `coppice server recover --alone` makes it the grid. With a witness beside two servers this does not come again: \
         coppice token create --role witness, and `coppice join ADDRESS TOKEN --witness` on any small third machine"
    )
}
