//! `GET explain/{address}`: why is it as it is, and why is nothing happening?

use std::collections::BTreeSet;

use coppice_plans::plan::{Action, Plan};
use coppice_plans::replicas;
use coppice_plans::text;
use coppice_schema::Desired;
use coppice_schema::ids::{Address, DesktopId};
use coppice_schema::known::{KnownDesktop, Order, Phase, Task};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::State;
use coppice_state::join::Role;

use crate::api::{Explanation, OpenOrder, Problem};
use crate::params::Named;
use crate::portal::{Portal, Seen};
use crate::preview::{self, concerns};
use crate::{desktops, servers};

/// Why an object is as it is.
#[utoipa::path(get, path = "/api/v1/explain/{address}", params(("address" = String, Path)), responses(
    (status = 200, body = Explanation), (status = 404, body = Problem)))]
pub(crate) async fn explain(
    portal: Portal,
    Named(address): Named<Address>,
) -> Result<axum::Json<Explanation>, Box<Problem>> {
    let seen = portal.look().await;
    let preview = preview::of_committed(&portal, &seen).await?;
    let placement = coppice_plans::placement(&preview.desired, &preview.known, &address);
    let plan = preview.plan;
    let state = word(&seen.state, &seen.state.committed, &address);
    let actions = || {
        plan.actions
            .iter()
            .filter(|action| concerns(&address, &action.object))
    };
    let waits: BTreeSet<_> = actions()
        .flat_map(|action| action.waits.iter().cloned())
        .collect();
    let about = plan
        .findings
        .iter()
        .filter(|finding| concerns(&address, &finding.object));
    let findings: Vec<_> = about.cloned().collect();
    if state == "absent" && findings.is_empty() && actions().next().is_none() {
        return Err(Problem::absent(
            &address,
            "`coppice status` shows what there is; addresses look like pool.lab or desktop.lab-007",
        ));
    }
    Ok(axum::Json(Explanation {
        state: state.to_owned(),
        paused: seen.state.pauses.contains_key(&address),
        waits: waits.into_iter().collect(),
        findings,
        trace: trace(&seen, &plan, &address),
        orders: orders(&seen, &address),
        placement,
        address,
    }))
}

/// How an address stands where `asked` is the configuration, in a word.
pub(crate) fn word(state: &State, asked: &Desired, address: &Address) -> &'static str {
    let configured = match address {
        Address::Desktop(id) => {
            return state
                .desktops
                .get(id)
                .map_or("absent", |desktop| desktop.phase.word());
        }
        Address::Server(name) => {
            let server = state.server_named(name);
            return server.map_or("absent", |(_, server)| servers::word(server.state));
        }
        Address::Secret(name) => {
            return if state.secrets.contains_key(name) {
                "held"
            } else {
                "absent"
            };
        }
        Address::Image(name) if !asked.images.contains_key(name) => {
            return if state.images.contains_key(name) {
                "held"
            } else {
                "absent"
            };
        }
        Address::Image(_) | Address::Grid => true,
        Address::Window(name) => asked.windows.contains_key(name),
        Address::Network(name) => asked.networks.contains_key(name),
        Address::Directory(name) => asked.directories.contains_key(name),
        Address::Location(name) => asked.locations.contains_key(name),
        Address::Template(name) => asked.templates.contains_key(name),
        Address::Policy(name) => asked.policies.contains_key(name),
        Address::Pool(name) => asked.pools.contains_key(name),
    };
    if configured { "configured" } else { "absent" }
}

/// The facts, one sentence each.
fn trace(seen: &Seen, plan: &Plan, address: &Address) -> Vec<String> {
    let state = &seen.state;
    let mut lines = Vec::new();
    if !seen.quorum {
        lines.push(
            "no majority answers: this is what the server that answers last heard of".to_owned(),
        );
    }
    if let Some(change) = state.changed_by.get(address) {
        let ago = ago(state, change.at);
        lines.push(format!(
            "its configuration was last changed by {} in revision {}, {ago} ago",
            change.author, change.revision
        ));
    }
    if let Some(until) = state.pauses.get(address) {
        lines.push(match until {
            Some(until) => format!(
                "it is paused for another {}",
                rounded(until.since(state.time))
            ),
            None => "it is paused until somebody resumes it".to_owned(),
        });
    }
    if state.protections.contains(address) {
        lines.push("it is protected: no plan destroys it without approval".to_owned());
    }
    match address {
        Address::Desktop(id) => lines.extend(desktop(seen, id)),
        Address::Server(_) => lines.extend(server(seen, plan, address)),
        Address::Pool(pool) => {
            let here = state.desktops.keys().filter(|id| id.pool == *pool).count();
            let wanted = state
                .committed
                .pools
                .get(pool)
                .map_or(0, |pool| pool.desktops);
            lines.push(format!(
                "{wanted} desktops are wanted, and {here} are there"
            ));
        }
        Address::Grid
        | Address::Window(_)
        | Address::Network(_)
        | Address::Directory(_)
        | Address::Location(_)
        | Address::Image(_)
        | Address::Template(_)
        | Address::Policy(_)
        | Address::Secret(_) => {}
    }
    let planned = plan
        .actions
        .iter()
        .filter(|action| concerns(address, &action.object));
    lines.extend(planned.map(next_step));
    let under_way = plan
        .under_way
        .iter()
        .filter(|under_way| concerns(address, &under_way.object));
    lines.extend(under_way.map(|under_way| format!("{} is under way", under_way.what)));
    lines
}

fn desktop(seen: &Seen, id: &DesktopId) -> Vec<String> {
    let state = &seen.state;
    let Some(desktop) = state.desktops.get(id) else {
        return vec!["the grid remembers no desktop in this slot".to_owned()];
    };
    let name = seen
        .server_name(desktop.server)
        .map(|name| name.to_string());
    let image = desktops::image(state, &desktop.spec.image);
    let mut lines = vec![
        format!(
            "it is in its life {}, on server {}, a clone of {image}",
            desktop.incarnation,
            name.unwrap_or_default()
        ),
        format!(
            "it has been {} for {}",
            desktop.phase.word(),
            ago(state, desktop.phase.since())
        ),
    ];
    if let Phase::Broken { reason, .. } = &desktop.phase {
        lines.push(desktops::why(reason));
    }
    if desktop.failures.count > 0 {
        let last = ago(state, desktop.failures.last);
        lines.push(match desktop.failures.count {
            1 => format!("it failed once, {last} ago"),
            count => format!("it failed {count} times in a row, the last time {last} ago"),
        });
    }
    let look = state
        .servers
        .get(&desktop.server)
        .and_then(|server| server.look.as_deref());
    if let Some(look) = look {
        let seen = look.members.get(&desktop.spec.member);
        let domain = seen.is_some_and(|seen| seen.domain.is_some());
        let overlay = seen.is_some_and(|seen| seen.overlay.is_some());
        let has = |there: bool| if there { "there" } else { "not there" };
        lines.push(format!(
            "its server last saw its domain {}, and its overlay {}",
            has(domain),
            has(overlay)
        ));
    }
    lines.extend(copies(seen, id, desktop));
    lines
}

/// How its copies stand, if there are to be any.
fn copies(seen: &Seen, id: &DesktopId, desktop: &KnownDesktop) -> Vec<String> {
    let state = &seen.state;
    let wanted = replicas::wanted(&state.committed, id, desktop);
    let mut lines: Vec<String> = desktops::copies(seen, desktop)
        .iter()
        .map(|copy| {
            let ago = ago(state, copy.taken);
            format!(
                "server {} has a copy of what its disk held {ago} ago",
                copy.server
            )
        })
        .collect();
    if wanted > 0 && lines.is_empty() {
        lines.push(format!(
            "there are to be {wanted} copies of it, and there is none yet"
        ));
    }
    lines
}

fn server(seen: &Seen, plan: &Plan, address: &Address) -> Vec<String> {
    let Address::Server(name) = address else {
        return Vec::new();
    };
    let Some((id, server)) = seen.state.server_named(name) else {
        return Vec::new();
    };
    let mut lines = vec![format!(
        "it has been {} for {}",
        servers::word(server.state),
        ago(&seen.state, server.since)
    )];
    if let Some(span) = seen.silent(server.raft_id) {
        lines.push(format!(
            "whoever leads has not heard it for {}",
            rounded(span)
        ));
    }
    let current = plan.looked.get(&id).is_some_and(|looked| looked.current);
    lines.push(match &server.look {
        None if server.role == Role::Witness => {
            "it is a witness: it votes, runs no desktops, and is never looked at".to_owned()
        }
        None => "it has not yet said what it sees".to_owned(),
        Some(look) if current => {
            format!(
                "it was seen whole; the last change was {} ago",
                ago(&seen.state, look.at)
            )
        }
        Some(look) => format!(
            "it was not seen whole since the present leader leads; it last changed {} ago",
            ago(&seen.state, look.at)
        ),
    });
    let status = servers::short(seen, server);
    if let Some(why) = status.hypervisor_away {
        lines.push(format!("its hypervisor does not answer: {why}"));
    }
    if let Some(lease) = server.lease {
        lines.push(if server.fenced {
            "it has been lost for longer than its lease: no personal desktop with copies runs there any more".to_owned()
        } else {
            format!("it ends personal desktops with copies when it has not heard from the grid for {lease}")
        });
    }
    lines
}

fn next_step(action: &Action) -> String {
    let (verb, reason) = (text::kind_word(action.kind), text::reason(&action.reason));
    let waits: Vec<String> = action.waits.iter().map(text::wait).collect();
    if waits.is_empty() {
        format!("{verb} {} now: {reason}", action.object)
    } else {
        format!(
            "{verb} {}: {reason}; it waits for {}",
            action.object,
            waits.join(", and for ")
        )
    }
}

fn orders(seen: &Seen, address: &Address) -> Vec<OpenOrder> {
    let about = seen
        .state
        .orders
        .iter()
        .filter(|(_, order)| touches(seen, address, order));
    let each = about.filter_map(|(stamp, order)| {
        Some(OpenOrder {
            stamp: *stamp,
            server: seen.server_name(order.server)?,
            what: order.task.describe(),
            attempts: order.attempts,
            last_error: order.last_error.clone(),
            not_before: order.not_before,
            deadline: order.deadline,
        })
    });
    each.collect()
}

fn touches(seen: &Seen, address: &Address, order: &Order) -> bool {
    let by_object = match order.task.member() {
        Some(member) => concerns(address, &Address::Desktop(member.desktop.clone())),
        None => false,
    };
    let by_image = match (address, &order.task) {
        (
            Address::Image(name),
            Task::VerifyImage { root } | Task::DropImage { root } | Task::CopyImage { root, .. },
        ) => {
            let versions = seen.state.images.get(name);
            versions.is_some_and(|versions| versions.values().any(|version| version.root == *root))
        }
        _ => *address == Address::Grid,
    };
    let by_server = matches!(
        address,
        Address::Server(name) if seen.server_name(order.server).as_ref() == Some(name)
    );
    by_object || by_image || by_server
}

fn ago(state: &State, at: Timestamp) -> Span {
    rounded(state.time.since(at))
}

/// Whole seconds: nobody wants to read more.
fn rounded(span: Span) -> Span {
    Span(span.0 / 1_000 * 1_000)
}
