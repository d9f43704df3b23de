//! The desktops of one pool: which are wanted, which are well, and what is done about the others.

mod drain;
mod drift;
mod fate;
mod forecast;
mod heal;
mod kept;
mod personal;
mod power;
mod refresh;
mod removal;
mod rollback;
mod rollout;

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::{Assignment, Desired, Pool, Template};
use coppice_schema::ids::{Address, DesktopId, Incarnation, PoolName, ServerId, Slot};
use coppice_schema::known::{DesktopSpec, KnownDesktop, Phase, ServerState, Task};
use coppice_schema::units::Span;

use crate::draft::Draft;
use crate::images::{self, Published};
use crate::place::{Need, growth};
use crate::plan::{
    Action, Basis, Estimate, Finding, FindingKind, Impact, Kind, Memory, Reason, Risk, Severity,
    Step, Wait,
};
use crate::specs;

pub(crate) use kept::{is_kept, plan as kept_pools, protected};
pub(crate) use removal::{forgotten_pools, strays};

/// How long a desktop takes from its order to its first answer, where nothing was measured yet.
const GROWTH_GUESS: Span = Span::seconds(60);

/// A pool with everything it refers to.
#[derive(Clone, Copy)]
pub(crate) struct Yard<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) known: &'a Known,
    pub(crate) name: &'a PoolName,
    pub(crate) pool: &'a Pool,
    pub(crate) template: &'a Template,
}

impl<'a> Yard<'a> {
    pub(crate) fn new(
        desired: &'a Desired,
        known: &'a Known,
        name: &'a PoolName,
        pool: &'a Pool,
    ) -> Option<Self> {
        // Validation promises the template, and a commit that it stays.
        let template = desired.templates.get(&pool.template)?;
        Some(Self {
            desired,
            known,
            name,
            pool,
            template,
        })
    }

    fn personal(&self) -> bool {
        self.pool.assignment == Assignment::Personal
    }

    fn address(&self) -> Address {
        Address::Pool(self.name.clone())
    }

    /// The pool's desktops, in the order of their slots.
    fn members(&self) -> impl Iterator<Item = (&'a DesktopId, &'a KnownDesktop)> + use<'a> {
        members(self.known, self.name)
    }

    /// What `desktop` is to be, made of `image`.
    fn wanted(&self, image: Published<'_>, desktop: &KnownDesktop) -> DesktopSpec {
        let member = &desktop.spec.member;
        let (pool, template, server) = (self.pool, self.template, desktop.server);
        let record = image.record;
        specs::of(
            self.desired,
            self.known,
            pool,
            template,
            record,
            member,
            server,
        )
    }

    /// The version its desktops are clones of, or what they wait for.
    fn published(&self) -> Result<Published<'a>, Wait> {
        let missing = || Wait::Image {
            image: self.template.image.clone(),
            version: None,
        };
        let image = self
            .desired
            .images
            .get(&self.template.image)
            .ok_or_else(missing)?;
        let published = images::published(self.known, &self.template.image, image)?;
        match self
            .template
            .disk
            .filter(|disk| *disk < published.record.size)
        {
            Some(disk) => Err(Wait::Disk {
                disk,
                image: published.record.size,
            }),
            None => Ok(published),
        }
    }
}

/// A pool whose template is not there is left alone, and says so.
pub(crate) fn without_template(name: &PoolName, pool: &Pool, draft: &mut Draft<'_>) {
    let template = pool.template.clone();
    let remedy = format!("bring template.{template} back, or name another in pool.{name}");
    draft.finding(Finding {
        object: Address::Pool(name.clone()),
        kind: FindingKind::TemplateAbsent { template },
        severity: Severity::Error,
        remedy,
    });
}

/// Desktops of a pool that the grid remembers.
pub(crate) fn members<'a>(
    known: &'a Known,
    pool: &PoolName,
) -> impl Iterator<Item = (&'a DesktopId, &'a KnownDesktop)> + use<'a> {
    let pool = pool.clone();
    let first = DesktopId {
        pool: pool.clone(),
        slot: Slot(0),
    };
    known
        .desktops
        .range(first..)
        .take_while(move |(id, _)| id.pool == pool)
}

/// Everything that would be done to a pool.
pub(crate) fn plan(yard: Yard<'_>, draft: &mut Draft<'_>) {
    let published = yard.published();
    if let Err(Wait::Disk { disk, image }) = published {
        draft.finding(Finding {
            object: Address::Template(yard.pool.template.clone()),
            kind: FindingKind::DiskTooSmall { disk, image },
            severity: Severity::Error,
            remedy: format!("write disk = \"{image}\" or more, or leave it out"),
        });
    }
    let image = published.as_ref().ok().copied();
    removal::leaving(yard, draft);
    let rollout = rollout::Rollout::survey(yard, image, draft);
    let target = yard.pool.desktops + rollout.surge();
    let surplus = removal::surplus(yard, image, target, draft);
    let mut going = BTreeSet::new();
    let power = power::target(yard, draft);
    let mut rollout = rollout;
    let leaving = yard.members().filter(|(id, _)| surplus.contains(*id));
    let lost = leaving.filter(|(_, desktop)| rollout::is_ready(&desktop.phase));
    let lost = u32::try_from(lost.count()).unwrap_or(u32::MAX);
    let drained = drain::idle(yard, &surplus, draft);
    rollout.without(lost.saturating_add(drained.taken));
    for (id, desktop) in yard.members().filter(|(id, _)| !surplus.contains(*id)) {
        if drained.going.contains(id)
            || fate::decide(
                yard,
                image,
                id,
                desktop,
                power.as_ref(),
                &mut rollout,
                draft,
            )
        {
            going.insert(id.clone());
        } else if emptied(yard.known, desktop) {
            drain::used(yard, id, desktop, draft);
            going.insert(id.clone());
        }
    }
    let grown_of = rollout.back().map_or(published, Ok);
    let made = grow(yard, grown_of, target, power.as_ref(), draft);
    power::balance(yard, power, &surplus, &going, made, draft);
    forecast::put(yard, image.is_some(), power.as_ref(), draft);
}

/// Fills slots until there are as many desktops as wanted. Returns how many it plans to start.
fn grow(
    yard: Yard<'_>,
    published: Result<Published<'_>, Wait>,
    target: u32,
    power: Option<&power::Target>,
    draft: &mut Draft<'_>,
) -> u32 {
    let held: BTreeSet<Slot> = yard.members().map(|(id, _)| id.slot).collect();
    // One that is leaving comes back to its slot; one on a server that is lost or being emptied is replaced in another.
    let reasons: Vec<Reason> = yard
        .members()
        .filter_map(|(_, desktop)| replaced(yard.known, desktop))
        .collect();
    let gone = u32::try_from(reasons.len()).unwrap_or(u32::MAX);
    let all = u32::try_from(held.len()).unwrap_or(u32::MAX);
    let missing = target.saturating_sub(all.saturating_sub(gone));
    if missing == 0 {
        return 0;
    }
    let mut started = 0;
    let mut no_room: Option<(u32, BTreeSet<String>)> = None;
    let mut on = power.map(|target| target.running);
    let mut slots = free_slots(yard, &held, target, gone, draft);
    let new = usize::try_from(target.saturating_sub(all)).unwrap_or(usize::MAX);
    let mut reasons = std::iter::repeat_n(Reason::NotPresent, new).chain(reasons);
    slots.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
    let without = missing - u32::try_from(slots.len()).unwrap_or(missing);
    if without > 0 {
        let lacking = match gone {
            0 => "every other slot is held by what is not its desktop".to_owned(),
            _ => "every other slot is held, some by desktops whose server is lost or being emptied"
                .to_owned(),
        };
        draft.finding(Finding {
            object: yard.address(),
            kind: FindingKind::NoRoom {
                desktops: without,
                lacking,
            },
            severity: Severity::Error,
            remedy: "raise `slots`, or free what holds them".to_owned(),
        });
    }
    for slot in slots {
        let id = DesktopId {
            pool: yard.name.clone(),
            slot,
        };
        let start = match (power, &mut on) {
            (Some(target), Some(on)) if *on >= target.wanted => false,
            (Some(_), Some(on)) => {
                *on += 1;
                true
            }
            _ => true,
        };
        let reason = reasons.next().unwrap_or(Reason::NotPresent);
        match create(yard, published.clone(), &id, start, reason, draft) {
            Ok(()) => started += u32::from(start),
            Err(lacking) => no_room.get_or_insert((0, lacking)).0 += 1,
        }
    }
    if let Some((desktops, lacking)) = no_room {
        let lacking = lacking.into_iter().collect::<Vec<_>>().join("; ");
        draft.finding(Finding {
            object: yard.address(),
            kind: FindingKind::NoRoom { desktops, lacking },
            severity: Severity::Error,
            remedy: "add a server, free what is lacking, or want fewer desktops".to_owned(),
        });
    }
    started
}

/// Why another desktop is grown in place of `desktop`, if one is: it is on a server that is lost, or that is being
/// emptied. A personal one holds somebody's data, and nothing takes its place.
fn replaced(known: &Known, desktop: &KnownDesktop) -> Option<Reason> {
    let server = known.servers.get(&desktop.server)?;
    let name = || server.name.to_string();
    let lost = server.state == ServerState::Lost || matches!(desktop.phase, Phase::Unknown { .. });
    match (desktop.personal, lost, server.state) {
        (true, _, _) => None,
        (false, true, _) => Some(Reason::HostGone { server: name() }),
        (false, false, ServerState::Draining) => Some(Reason::Draining { server: name() }),
        (false, false, _) => None,
    }
}

/// A pooled desktop that is to go because its server is being emptied.
fn emptied(known: &Known, desktop: &KnownDesktop) -> bool {
    matches!(replaced(known, desktop), Some(Reason::Draining { .. }))
}

/// Free slots, lowest first, that no stray, foreign name or back-off keeps. `gone` are held by desktops that others are
/// grown in place of.
fn free_slots(
    yard: Yard<'_>,
    held: &BTreeSet<Slot>,
    target: u32,
    gone: u32,
    draft: &mut Draft<'_>,
) -> Vec<Slot> {
    let most = draft
        .ledger
        .most()
        .max(target.div_ceil(ready_servers(yard.known).max(1)));
    let slots = match yard.pool.slots {
        Some(slots) => slots.max(target),
        None => {
            let least = target.saturating_add(gone);
            yard.pool.desktops.saturating_add(most).max(least)
        }
    };
    let taken = taken_names(yard.known);
    (1..=slots)
        .map(Slot)
        .filter(|slot| !held.contains(slot))
        .filter(|slot| {
            !taken.contains(&DesktopId {
                pool: yard.name.clone(),
                slot: *slot,
            })
        })
        .collect()
}

fn ready_servers(known: &Known) -> u32 {
    let ready = known
        .servers
        .values()
        .filter(|server| server.current)
        .count();
    u32::try_from(ready).unwrap_or(u32::MAX)
}

/// Desktops whose name a domain that is not ours has, or whose slot a stray holds, on any server.
fn taken_names(known: &Known) -> BTreeSet<DesktopId> {
    let mut taken = BTreeSet::new();
    for look in known
        .servers
        .values()
        .filter_map(|server| server.look.as_ref())
    {
        taken.extend(
            look.foreign
                .keys()
                .filter_map(|name| name.parse::<DesktopId>().ok()),
        );
        taken.extend(look.members.keys().map(|member| member.desktop.clone()));
    }
    taken
}

/// Plans one new desktop; `Err` tells what every server lacks.
fn create(
    yard: Yard<'_>,
    published: Result<Published<'_>, Wait>,
    id: &DesktopId,
    start: bool,
    reason: Reason,
    draft: &mut Draft<'_>,
) -> Result<(), BTreeSet<String>> {
    let memory = yard.known.slots.get(id).cloned().unwrap_or_default();
    let object = Address::Desktop(id.clone());
    let mut waits: Vec<Wait> = Vec::new();
    waits.extend(draft.unseen());
    waits.extend(draft.pause(&[object.clone(), yard.address()]));
    waits.extend(draft.backoff(id, memory.failures));
    let mut action = Action {
        object,
        kind: Kind::Create,
        server: None,
        needs: Vec::new(),
        wave: 0,
        reason,
        risk: Risk::Safe,
        reversible: true,
        impact: Impact {
            takes: Estimate {
                value: GROWTH_GUESS,
                basis: Basis::Guess,
            },
            ..Impact::default()
        },
        waits: Vec::new(),
        edits: Vec::new(),
        step: None,
    };
    let mut refusal = Ok(());
    match published {
        Err(wait) => waits.push(wait),
        // Where a server is not seen, nothing can be placed for good.
        Ok(_) if !waits.is_empty() => {}
        Ok(image) => match place(yard, image, draft) {
            Ok(server) => {
                let member = id.member(Incarnation(memory.incarnation.0 + 1));
                let spec = specs::of(
                    yard.desired,
                    yard.known,
                    yard.pool,
                    yard.template,
                    image.record,
                    &member,
                    server,
                );
                draft.ledger.take(server, &spec.hardware);
                if start && !draft.ledger.power_on(server) {
                    waits.push(Wait::Budget {
                        name: "power-on".to_owned(),
                    });
                }
                action.server = Some(server);
                let memory = Memory::Grown {
                    spec: Box::new(spec.clone()),
                    personal: yard.personal(),
                };
                action.step = Some(Step {
                    task: Task::Create { spec, start },
                    memory,
                });
            }
            Err(lacking) => match joining(yard.known) {
                // In a moment it says what it can carry; until then nobody knows that there is no room.
                Some(server) => waits.push(Wait::Observation { server }),
                None => {
                    let text = lacking.iter().cloned().collect::<Vec<_>>().join("; ");
                    waits.push(Wait::Room { lacking: text });
                    refusal = Err(lacking);
                }
            },
        },
    }
    action.waits = waits;
    draft.actions.push(action);
    refusal
}

/// A member that has not said yet what it can carry.
fn joining(known: &Known) -> Option<String> {
    let mut servers = known.servers.values();
    let joining = servers.find(|server| server.state == ServerState::Joining)?;
    Some(joining.name.to_string())
}

fn place(
    yard: Yard<'_>,
    image: Published<'_>,
    draft: &Draft<'_>,
) -> Result<ServerId, BTreeSet<String>> {
    let hardware = specs::hardware(yard.desired, yard.pool, yard.template, image.record, None);
    let need = Need {
        image: image.record.root,
        labels: &yard.pool.servers,
        cpus: yard.template.cpus,
        memory: yard.template.memory,
        disk: growth(&hardware),
        firmware: yard.template.firmware,
        displays: &yard.template.displays,
    };
    draft.ledger.place(yard.desired, yard.known, &need)
}
