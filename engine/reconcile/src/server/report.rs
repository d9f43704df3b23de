//! The difference between what is seen and what was last reported.

use std::collections::BTreeMap;

use coppice_schema::ids::ServerId;
use coppice_schema::known::Look;
use coppice_state::entry::Report;

use super::look::Sight;

/// What to report; `None` when the state has it all. The first report of a start is whole, so that nothing of an
/// earlier one is left to be believed.
pub(super) fn difference(
    server: ServerId,
    boot: u64,
    look: Option<&Look>,
    sight: &Sight,
) -> Option<Report> {
    let Some(last) = look.filter(|look| look.boot == boot) else {
        return Some(Report {
            server,
            boot,
            sequence: 1,
            members: changes(&BTreeMap::new(), &sight.members),
            images: changes(&BTreeMap::new(), &sight.images),
            foreign: changes(&BTreeMap::new(), &sight.foreign),
            quarantine: changes(&BTreeMap::new(), &sight.quarantine),
            replicas: changes(&BTreeMap::new(), &sight.replicas),
            disk: sight.disk,
            hypervisor: sight.hypervisor.clone(),
        });
    };
    let report = Report {
        server,
        boot,
        sequence: last.sequence + 1,
        members: changes(&last.members, &sight.members),
        images: changes(&last.images, &sight.images),
        foreign: changes(&last.foreign, &sight.foreign),
        quarantine: changes(&last.quarantine, &sight.quarantine),
        replicas: changes(&last.replicas, &sight.replicas),
        disk: sight.disk,
        hypervisor: sight.hypervisor.clone(),
    };
    let same = report.members.is_empty()
        && report.images.is_empty()
        && report.foreign.is_empty()
        && report.quarantine.is_empty()
        && report.replicas.is_empty()
        && report.disk == last.disk
        && report.hypervisor == last.hypervisor;
    (!same).then_some(report)
}

/// What is new or other, and what is gone.
fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let other = after
        .iter()
        .filter(|(key, value)| before.get(key) != Some(value));
    gone.map(|key| (key.clone(), None))
        .chain(other.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}
