//! What is wrong with servers.

mod life;

use coppice_schema::Known;
use coppice_schema::ids::{Address, ServerId};
use coppice_schema::known::{DiskLevel, Health, KnownServer, Phase, ServerState, Task};

use crate::draft::Draft;
use crate::plan::{Finding, FindingKind, Severity, UnderWay};

pub(crate) use life::farewell;

/// An order that failed so often is a finding, not a hiccup.
const FAILING: u32 = 3;

/// Findings about servers, and what is under way on them.
pub(crate) fn survey(known: &Known, draft: &mut Draft<'_>) {
    for (id, server) in &known.servers {
        judge(server, draft);
        life::survey(*id, server, draft);
    }
    for order in known.orders.values() {
        let object = match order.task.member() {
            Some(member) => Address::Desktop(member.desktop.clone()),
            None => server_address(known, order.server),
        };
        if order.not_before > draft.now {
            draft.wake(order.not_before);
        }
        if let Some(error) = order
            .last_error
            .as_ref()
            .filter(|_| order.attempts >= FAILING)
        {
            let (what, error) = (order.task.describe(), error.clone());
            draft.finding(Finding {
                object: object.clone(),
                kind: FindingKind::OrderFailing {
                    what,
                    error,
                    attempts: order.attempts,
                },
                severity: Severity::Error,
                remedy: match &order.task {
                    Task::CopyImage { .. } => "where the disk is full: free space there, or want fewer copies; where nobody answers: \
                         look after the servers that hold it (coppice image status); what has arrived is kept"
                        .to_owned(),
                    Task::Create { .. }
                    | Task::Restore { .. }
                    | Task::Redefine { .. }
                    | Task::Start { .. }
                    | Task::Stop { .. }
                    | Task::Restart { .. }
                    | Task::Remove { .. }
                    | Task::Receive { .. }
                    | Task::Send { .. }
                    | Task::Enter { .. }
                    | Task::Stay { .. }
                    | Task::VerifyImage { .. }
                    | Task::DropImage { .. } => format!("coppice explain {object}"),
                },
            });
        }
        draft.under_way.push(UnderWay {
            object,
            server: order.server,
            what: order.task.describe(),
            attempts: order.attempts,
            last_error: order.last_error.clone(),
        });
    }
    for (id, desktop) in &known.desktops {
        if matches!(desktop.phase, Phase::Provisioning { .. }) && !draft.busy.contains(id) {
            draft.under_way.push(UnderWay {
                object: Address::Desktop(id.clone()),
                server: desktop.server,
                what: format!("{id} boots"),
                attempts: 0,
                last_error: None,
            });
        }
    }
}

fn server_address(known: &Known, server: ServerId) -> Address {
    known
        .servers
        .get(&server)
        .map_or(Address::Grid, |server| Address::Server(server.name.clone()))
}

fn judge(server: &KnownServer, draft: &mut Draft<'_>) {
    // Of one that is lost, that it is says it all.
    if matches!(server.state, ServerState::Removed | ServerState::Lost) {
        return;
    }
    let object = Address::Server(server.name.clone());
    let mut tell = |kind, severity, remedy: &str| {
        draft.finding(Finding {
            object: object.clone(),
            kind,
            severity,
            remedy: remedy.to_owned(),
        });
    };
    let Some(look) = &server.look else {
        tell(
            FindingKind::NotSeen,
            Severity::Warning,
            "it has not reported yet; is its daemon running?",
        );
        return;
    };
    match &look.hypervisor {
        Health::Away(error) => tell(
            FindingKind::HypervisorAway {
                error: error.clone(),
            },
            Severity::Error,
            "its desktops run on if they can; mend its hypervisor, and the daemon finds it by itself",
        ),
        Health::Well if !server.current => {
            tell(
                FindingKind::NotSeen,
                Severity::Warning,
                "it has not confirmed its last report in this term",
            );
        }
        Health::Well => {}
    }
    match look.disk {
        DiskLevel::Fine => {}
        DiskLevel::High => tell(
            FindingKind::DiskFilling { percent: 80 },
            Severity::Warning,
            "no new desktops there until it is below; free space or add a disk",
        ),
        DiskLevel::Critical => tell(
            FindingKind::DiskFilling { percent: 90 },
            Severity::Error,
            "idle pooled desktops are regrown to win space; free space or add a disk",
        ),
    }
    let strangers = u32::try_from(look.foreign.len()).unwrap_or(u32::MAX);
    if strangers > 0 {
        let kind = FindingKind::Foreign { count: strangers };
        tell(
            kind,
            Severity::Note,
            "domains that are not ours are listed by `coppice server list`, and never touched",
        );
    }
    let names = look
        .foreign
        .keys()
        .filter(|name| name.parse::<coppice_schema::ids::DesktopId>().is_ok());
    for name in names {
        let kind = FindingKind::NameTaken {
            server: server.name.to_string(),
            domain: name.clone(),
        };
        tell(
            kind,
            Severity::Warning,
            "another slot is used; rename the foreign domain to free this one",
        );
    }
}
