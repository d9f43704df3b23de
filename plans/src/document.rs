//! The plan document: versioned JSON. Text and markdown are renderings of this and of nothing else.
//!
//! Within a major version fields are only added. A reader ignores what it does not know.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Digest;
use coppice_schema::ids::{Address, PoolName, Revision, ServerId};
use coppice_schema::known::Known;
use coppice_schema::units::{Size, Span, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lose::{Lost, WhatIf};
use crate::plan::{
    Action, Base, Basis, Drift, Edit, Estimate, Finding, Gate, Impact, Intent, Kind, Plan,
    PoolForecast, Reason, Risk, UnderWay, Wait,
};

/// The version of the document's form.
pub const FORMAT_VERSION: &str = "1.0";

/// A plan, as data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PlanDocument)]
pub struct Document {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: String,
    /// BLAKE3 of the canonical body: ages, clocks and what is under way are left out of it.
    #[schema(value_type = String)]
    pub plan_id: Digest,
    /// The grid's name.
    pub grid: String,
    /// When it was made.
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    /// What it read.
    pub base: Base,
    /// The servers it looked at, by name.
    pub observed: BTreeMap<String, Observed>,
    /// Every server was seen whole, and nothing was left out by a target.
    pub complete: bool,
    /// Servers that were not seen whole, by name: they may hold more than this plan knows of.
    #[serde(default)]
    pub unseen: BTreeSet<String>,
    /// Only these were looked at; empty: everything. Such a plan cannot be applied.
    #[serde(default)]
    #[schema(value_type = BTreeSet<String>)]
    pub targets: BTreeSet<Address>,
    /// Of a what-if: the servers that would be lost, and what would come of it. Such a plan cannot be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// What would be done, the worst first, alike actions together.
    pub actions: Vec<Group>,
    /// What other hands changed.
    pub drift: Vec<DriftLine>,
    /// Conditions of applying it that do not simply pass.
    pub gates: Vec<Gate>,
    /// What is wrong, or waits.
    pub findings: Vec<Finding>,
    /// How the pools would stand.
    #[schema(value_type = BTreeMap<String, PoolForecast>)]
    pub pools: BTreeMap<PoolName, PoolForecast>,
    /// What servers were told before and have not finished.
    pub under_way: Vec<UnderWay>,
    /// What it changes in the configuration.
    #[schema(value_type = BTreeMap<String, Intent>)]
    pub changes: BTreeMap<Address, Intent>,
    /// Figures over all of it.
    pub summary: Summary,
}

/// A server as a plan saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// Which start of its daemon.
    pub boot: u64,
    /// Which report.
    pub sequence: u64,
    /// How old the look is that last changed anything.
    #[schema(value_type = Option<u64>)]
    pub age: Option<Span>,
    /// Seen whole in this term.
    pub current: bool,
}

/// Actions that are alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// What they are about, together: the pool of desktops, or the object itself.
    #[schema(value_type = String)]
    pub subject: Address,
    /// How many.
    pub count: u32,
    /// Each of them.
    #[schema(value_type = BTreeSet<String>)]
    pub objects: BTreeSet<Address>,
    /// How many on which server, by name.
    pub servers: BTreeMap<String, u32>,
    /// What.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// How badly it can hurt.
    pub risk: Risk,
    /// Whether it can be undone by going back.
    pub reversible: bool,
    /// How many waves it takes.
    pub waves: u32,
    /// Which, counted from 1 for each pool.
    #[serde(default)]
    pub in_waves: BTreeSet<u32>,
    /// What must be done before.
    #[serde(default)]
    #[schema(value_type = BTreeSet<String>)]
    pub needs: BTreeSet<Address>,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// What changes.
    pub edits: Vec<Edit>,
    /// Whom it touches, summed.
    pub impact: Impact,
}

/// Drift, with the server's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DriftLine {
    /// What was changed, and what is done about it.
    #[serde(flatten)]
    pub drift: Drift,
    /// The server's name.
    pub server_name: Option<String>,
}

/// Figures over all actions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Summary {
    /// Desktops and objects made.
    pub create: u32,
    /// Changed in place.
    pub update: u32,
    /// Grown anew.
    pub replace: u32,
    /// Gone.
    pub delete: u32,
    /// Switched on, off, or off and on.
    pub power: u32,
    /// To another server, running.
    #[serde(default)]
    pub moves: u32,
    /// Anything else.
    pub other: u32,
    /// The worst risk; `None`: nothing would be done.
    pub risk: Option<Risk>,
    /// Whom all of it touches.
    pub impact: Impact,
}

/// Writes a plan down.
#[must_use]
pub fn of(plan: &Plan, known: &Known, grid: &str, now: Timestamp) -> Document {
    let name = |id: ServerId| {
        plan.looked
            .get(&id)
            .map_or_else(|| id.to_string(), |looked| looked.name.clone())
    };
    let mut document = Document {
        format_version: FORMAT_VERSION.to_owned(),
        plan_id: Digest([0; 32]),
        grid: grid.to_owned(),
        created_at: now,
        base: plan.base.clone(),
        observed: BTreeMap::new(),
        complete: plan.complete,
        unseen: plan.unseen.clone(),
        targets: plan.targets.clone(),
        lost: None,
        actions: groups(plan, &name),
        drift: Vec::new(),
        gates: plan.gates.clone(),
        findings: plan.findings.clone(),
        pools: plan.pools.clone(),
        under_way: Vec::new(),
        changes: plan.changes.clone(),
        summary: summary(plan),
    };
    let lines = plan.drift.iter().map(|drift| DriftLine {
        drift: drift.clone(),
        server_name: drift.server.map(&name),
    });
    document.drift = lines.collect();
    document.plan_id = identity(&document, known);
    document.under_way = plan.under_way.clone();
    for looked in plan.looked.values() {
        let age = looked.at.map(|at| now.since(at));
        let observed = Observed {
            boot: looked.boot,
            sequence: looked.sequence,
            age,
            current: looked.current,
        };
        document.observed.insert(looked.name.clone(), observed);
    }
    document
}

/// Writes a what-if down.
#[must_use]
pub fn of_loss(what_if: &WhatIf, grid: &str, now: Timestamp) -> Document {
    let mut document = of(&what_if.plan, &what_if.known, grid, now);
    document.lost = Some(what_if.lost.clone());
    document.plan_id = identity(&document, &what_if.known);
    document
}

/// The digest of what a plan means. Two previews of one configuration on one state have the same; a grid that went
/// on in the meantime, without touching what was read, does not change it as long as the actions are the same.
fn identity(document: &Document, known: &Known) -> Digest {
    let mut body = document.clone();
    body.created_at = Timestamp(0);
    for drift in &mut body.drift {
        drift.drift.since = None;
        // The actions have them.
        drift.drift.waits.clear();
    }
    body.observed = BTreeMap::new();
    body.under_way = Vec::new();
    // How pools stand, and how long their desktops took so far, changes by itself.
    body.pools = BTreeMap::new();
    let impacts = body.actions.iter_mut().map(|group| &mut group.impact);
    for impact in impacts.chain([&mut body.summary.impact]) {
        impact.takes = Estimate::default();
    }
    let text = serde_json::to_string(&(known.grid, known.epoch, &body)).unwrap_or_default();
    Digest::of(text.as_bytes())
}

fn groups(plan: &Plan, name: &impl Fn(ServerId) -> String) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for action in &plan.actions {
        let subject = match action.object.desktop() {
            Some(id) => Address::Pool(id.pool.clone()),
            None => action.object.clone(),
        };
        let key = alike(&subject, action);
        let group = groups.entry(key).or_insert_with(|| Group {
            subject,
            count: 0,
            objects: BTreeSet::new(),
            servers: BTreeMap::new(),
            kind: action.kind,
            reason: action.reason.clone(),
            risk: action.risk,
            reversible: action.reversible,
            waves: 0,
            in_waves: BTreeSet::new(),
            needs: BTreeSet::new(),
            waits: action.waits.clone(),
            edits: action.edits.clone(),
            impact: Impact::default(),
        });
        group.count += 1;
        group.objects.insert(action.object.clone());
        if let Some(server) = action.server {
            *group.servers.entry(name(server)).or_default() += 1;
        }
        group.in_waves.insert(action.wave + 1);
        let needs = action
            .needs
            .iter()
            .filter_map(|need| plan.actions.get(*need));
        group
            .needs
            .extend(needs.map(|needed| needed.object.clone()));
        add(&mut group.impact, &action.impact);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.waves = u32::try_from(group.in_waves.len()).unwrap_or(u32::MAX);
    }
    groups.sort_by(|a, b| {
        b.risk
            .cmp(&a.risk)
            .then_with(|| a.subject.cmp(&b.subject))
            .then_with(|| a.kind.cmp(&b.kind))
    });
    groups
}

/// Actions with the same key are one line. A moment that differs by object, such as the end of a back-off, does not
/// separate them.
fn alike(subject: &Address, action: &Action) -> String {
    let waits: Vec<Wait> = action
        .waits
        .iter()
        .map(|wait| {
            if let Wait::Backoff { .. } = wait {
                Wait::Backoff {
                    until: Timestamp(0),
                }
            } else {
                wait.clone()
            }
        })
        .collect();
    let desktops = action.object.desktop().is_some();
    let key = (
        subject,
        desktops,
        action.risk,
        action.kind,
        &action.reason,
        waits,
        &action.edits,
    );
    serde_json::to_string(&key).unwrap_or_default()
}

fn summary(plan: &Plan) -> Summary {
    let mut summary = Summary::default();
    for action in &plan.actions {
        let count = match action.kind {
            Kind::Create => &mut summary.create,
            Kind::Update => &mut summary.update,
            Kind::ReplaceCreateFirst | Kind::ReplaceDeleteFirst => &mut summary.replace,
            Kind::Delete => &mut summary.delete,
            Kind::Reboot | Kind::PowerOn | Kind::PowerOff => &mut summary.power,
            Kind::Migrate => &mut summary.moves,
            Kind::Forget | Kind::Adopt | Kind::Move | Kind::CopyImage | Kind::Drain => {
                &mut summary.other
            }
        };
        *count += 1;
        summary.risk = summary.risk.max(Some(action.risk));
        add(&mut summary.impact, &action.impact);
    }
    summary
}

fn add(into: &mut Impact, more: &Impact) {
    fn figure<T: Copy>(into: &mut Estimate<T>, more: Estimate<T>, sum: impl Fn(T, T) -> T) {
        *into = Estimate {
            value: sum(into.value, more.value),
            basis: worse(into.basis, more.basis),
        };
    }
    fn worse(a: Basis, b: Basis) -> Basis {
        a.max(b)
    }
    let bytes = |a: Size, b: Size| Size(a.0.saturating_add(b.0));
    figure(
        &mut into.sessions_interrupted,
        more.sessions_interrupted,
        u32::saturating_add,
    );
    figure(
        &mut into.sessions_drained,
        more.sessions_drained,
        u32::saturating_add,
    );
    figure(&mut into.users, more.users, u32::saturating_add);
    figure(
        &mut into.personal_bytes_lost,
        more.personal_bytes_lost,
        bytes,
    );
    figure(&mut into.bytes_copied, more.bytes_copied, bytes);
    // Alike actions are done side by side within a wave, so their times do not add up.
    figure(&mut into.takes, more.takes, Ord::max);
    figure(&mut into.pause, more.pause, Ord::max);
}

impl Document {
    /// Nothing would be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The revision it was made on.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.base.revision
    }
}
