//! Lives of desktops from another life of the grid: told, their slots left alone, and removed by a person's word only.

use coppice_schema::Known;
use coppice_schema::ids::{Address, Member, ServerId};
use coppice_schema::known::{KnownServer, PowerState, Quarantined, Request, Task};

use crate::draft::Draft;
use crate::plan::{
    Action, Finding, FindingKind, Impact, Kind, Memory, Reason, Risk, Severity, Step, Wait,
};

/// Tells of what is in quarantine, and plans the removal of what a person gave up.
pub(crate) fn survey(known: &Known, draft: &mut Draft<'_>) {
    for (id, server) in &known.servers {
        let Some(look) = &server.look else { continue };
        for (member, found) in &look.quarantine {
            tell(server, member, found, draft);
            give_up(known, *id, member, draft);
        }
    }
}

/// Plans that what a server holds of such a life goes, once a person gave it up.
pub(super) fn give_up(known: &Known, server: ServerId, member: &Member, draft: &mut Draft<'_>) {
    let given_up = Request::Discard {
        member: member.clone(),
        server,
    };
    let current = known.servers.get(&server).is_some_and(|it| it.current);
    if current && known.requests.get(&member.desktop) == Some(&given_up) {
        discard(server, member, draft);
    }
}

fn tell(server: &KnownServer, member: &Member, found: &Quarantined, draft: &mut Draft<'_>) {
    let runs = match &found.power {
        Some(PowerState::Running { .. } | PowerState::Paused(_)) => Some(true),
        Some(PowerState::Off | PowerState::Crashed) => Some(false),
        None => None,
    };
    let (name, desktop) = (&server.name, &member.desktop);
    draft.finding(Finding {
        object: Address::Desktop(desktop.clone()),
        kind: FindingKind::Quarantined {
            member: member.to_string(),
            server: name.to_string(),
            epoch: found.epoch.number,
            runs,
        },
        severity: Severity::Warning,
        remedy: format!(
            "nothing touches it, and its slot stays taken; save what matters, and when nobody wants it: \
             coppice desktop discard {member} --on {name} --approve personal-data"
        ),
    });
}

fn discard(server: ServerId, member: &Member, draft: &mut Draft<'_>) {
    if draft.busy.contains(&member.desktop) {
        return;
    }
    let object = Address::Desktop(member.desktop.clone());
    let waits: Vec<Wait> = draft
        .pause(std::slice::from_ref(&object))
        .into_iter()
        .collect();
    draft.busy.insert(member.desktop.clone());
    draft.actions.push(Action {
        object,
        kind: Kind::Delete,
        server: Some(server),
        needs: Vec::new(),
        wave: 0,
        reason: Reason::Requested,
        risk: Risk::DataLoss,
        reversible: false,
        impact: Impact::default(),
        waits,
        edits: Vec::new(),
        step: Some(Step {
            task: Task::Remove {
                member: member.clone(),
            },
            memory: Memory::Unchanged,
        }),
    });
}
