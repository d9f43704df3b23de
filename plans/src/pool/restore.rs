//! A personal desktop whose server is lost goes on from a copy, once it certainly runs there no more.

use coppice_schema::ids::{DesktopId, Incarnation};
use coppice_schema::known::{DesktopSpec, KnownDesktop, Task};

use super::{Yard, moving, power};
use crate::draft::Draft;
use crate::place::{Need, carried};
use crate::plan::{
    Action, Basis, Estimate, Finding, FindingKind, Impact, Kind, Memory, Reason, Risk, Severity,
    Step, Wait,
};
use crate::replicas::{Prospect, prospect};

/// Plans that `desktop`, which does not show itself, goes on from the newest copy on a server that can carry it.
pub(crate) fn restore(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) {
    let Prospect::Free { copies } = prospect(yard.known, desktop) else {
        return;
    };
    if draft.busy.contains(id) {
        return;
    }
    let hardware = &desktop.spec.hardware;
    let need = Need {
        image: desktop.spec.image,
        labels: &yard.pool.servers,
        takes: carried(yard.known, desktop),
        firmware: hardware.firmware,
        displays: &hardware.displays,
    };
    let home = yard.known.servers.get(&desktop.server);
    let home = home.map_or_else(|| desktop.server.to_string(), |it| it.name.to_string());
    let mut lacking = Vec::new();
    let mut fit = copies.into_iter().filter(|copy| {
        let host = draft.ledger.host(copy.on);
        let lack = host.and_then(|host| {
            let name = &host.server.name;
            if moving::keeps_out(host.server, desktop) {
                return Some(format!(
                    "{name} has another life of it, which runs or is set apart"
                ));
            }
            let lack = host.lacks(&need)?;
            Some(format!("{name} {}", lack.words()))
        });
        let fits = host.is_some() && lack.is_none();
        lacking.extend(lack);
        fits
    });
    let Some(copy) = fit.next() else {
        drop(fit);
        draft.finding(Finding {
            object: power::address(id),
            kind: FindingKind::NoRoom {
                desktops: 1,
                lacking: lacking.join("; "),
            },
            severity: Severity::Error,
            remedy: format!(
                "give a server that has a copy of it what it lacks, or start server {home} again"
            ),
        });
        return;
    };
    drop(fit);
    let mut waits: Vec<Wait> = Vec::new();
    waits.extend(draft.ordered(id));
    waits.extend(draft.pause(&[power::address(id), yard.address()]));
    let last = yard
        .known
        .slots
        .get(id)
        .map_or(Incarnation(0), |slot| slot.incarnation);
    let member = id.member(Incarnation(last.0 + 1));
    let Some(server) = yard.known.servers.get(&copy.on) else {
        return;
    };
    let former = desktop.restored_from.as_ref().filter(|_| copy.former);
    let from = former.unwrap_or(&desktop.spec.member).clone();
    let spec = DesktopSpec {
        uuid: id.uuid(yard.known.grid, yard.known.epoch, member.incarnation),
        member,
        ..moving::there(yard, desktop, server)
    };
    draft.ledger.take(copy.on, &spec.hardware);
    if waits.is_empty() && !draft.ledger.power_on(copy.on) {
        waits.push(Wait::Budget {
            name: "power-on".to_owned(),
        });
    }
    draft.busy.insert(id.clone());
    draft.actions.push(Action {
        object: power::address(id),
        kind: Kind::Create,
        server: Some(copy.on),
        needs: Vec::new(),
        wave: 0,
        reason: Reason::FromCopy {
            server: home,
            taken: copy.taken,
        },
        risk: Risk::Notice,
        reversible: false,
        impact: Impact {
            users: Estimate {
                value: u32::from(desktop.wear.occupied),
                basis: Basis::Guess,
            },
            takes: Estimate {
                value: super::GROWTH_GUESS,
                basis: Basis::Guess,
            },
            ..Impact::default()
        },
        waits,
        edits: Vec::new(),
        step: Some(Step {
            task: Task::Restore {
                spec: spec.clone(),
                from,
            },
            memory: Memory::Restored {
                spec: Box::new(spec),
            },
        }),
    });
}
