//! Where new desktops are put.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::{Desired, Display, Firmware};
use coppice_schema::ids::{Address, ServerId};
use coppice_schema::known::{DesktopSpec, DiskLevel, Feature, KnownServer, ServerState, Task};

use super::{block, due};
use crate::plan::Plan;

/// No new desktop is put where it cannot run, where none is to be, or where there is too little left for all of them.
pub(super) fn places(
    plan: &Plan,
    desired: &Desired,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let mut new: BTreeMap<ServerId, u128> = BTreeMap::new();
    for (action, step) in due(plan) {
        let Task::Create { spec, .. } = &step.task else {
            continue;
        };
        let Some((id, server)) = action
            .server
            .and_then(|id| Some((id, known.servers.get(&id)?)))
        else {
            continue;
        };
        *new.entry(id).or_default() += u128::from(spec.hardware.memory.0);
        let cordoned = rules(desired, server).any(|rule| rule.cordon);
        let full = server
            .look
            .as_ref()
            .is_none_or(|look| look.disk != DiskLevel::Fine);
        judge(
            server.state == ServerState::Ready && !cordoned && !full,
            &action.object,
            "a new desktop is put where new ones are taken",
        );
        judge(
            can(server, spec),
            &action.object,
            "a new desktop is put where the hypervisor can do what it needs",
        );
        // Labels may come from patterns that are not read here; then nothing is said.
        let plain = desired
            .servers
            .keys()
            .all(|pattern| !pattern.contains('?') && (pattern == "*" || !pattern.contains('*')));
        let pool = block(desired, known, &spec.member.desktop.pool);
        let labelled = pool.is_none_or(|pool| {
            let has = |label| {
                server.labels.contains(label)
                    || rules(desired, server).any(|rule| rule.labels.contains(label))
            };
            pool.servers.iter().all(has)
        });
        judge(
            labelled || !plain,
            &action.object,
            "a new desktop is put where the labels of its pool are",
        );
    }
    for (id, new) in new {
        let Some(server) = known.servers.get(&id) else {
            continue;
        };
        let there = known
            .desktops
            .values()
            .filter(|desktop| desktop.server == id);
        let there: u128 = there
            .map(|desktop| u128::from(desktop.spec.hardware.memory.0))
            .sum();
        let kept = rules(desired, server)
            .map(|rule| u128::from(rule.keep_free_memory.0))
            .max();
        judge(
            there + new + kept.unwrap_or(0) <= u128::from(server.capacity.memory.0),
            &Address::Server(server.name.clone()),
            "desktops leave free what is to be kept of the memory",
        );
    }
}

/// Of patterns only the plainest are read here.
fn rules<'a>(
    desired: &'a Desired,
    server: &'a KnownServer,
) -> impl Iterator<Item = &'a coppice_schema::desired::ServerRule> {
    let name = server.name.as_str();
    let rules = desired.servers.iter();
    rules
        .filter(move |(pattern, _)| *pattern == "*" || *pattern == name)
        .map(|(_, rule)| rule)
}

fn can(server: &KnownServer, spec: &DesktopSpec) -> bool {
    let lacks = |feature| server.capacity.missing.contains(&feature);
    let boots = match spec.hardware.firmware {
        Firmware::Bios => true,
        Firmware::Uefi => !lacks(Feature::Uefi),
        Firmware::UefiSecure => !lacks(Feature::SecureBoot),
    };
    boots && !(spec.hardware.displays.contains(&Display::Spice) && lacks(Feature::Spice))
}
