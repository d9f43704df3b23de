//! The desktops of one pool: which are wanted, which are well, and what is done about the others.

mod drain;
mod drift;
mod fate;
mod forecast;
mod grow;
mod heal;
mod kept;
mod moving;
mod personal;
mod power;
mod quarantine;
mod refresh;
mod removal;
mod restore;
mod rollback;
mod rollout;
mod shift;

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::{Assignment, Desired, Pool, Template};
use coppice_schema::ids::{Address, DesktopId, PoolName, Slot};
use coppice_schema::known::{DesktopSpec, KnownDesktop, Phase, ServerState};
use coppice_schema::units::Span;

use crate::draft::Draft;
use crate::images::{self, Published};
use crate::place::{Need, Use};
use crate::plan::{Finding, FindingKind, Reason, Severity, Wait};
use crate::specs;

pub(crate) use kept::{forms as kept_forms, is_kept, plan as kept_pools, protected};
pub(crate) use moving::{awake, could_leave, leaving, proceed as moves, runs_to_leave};
pub(crate) use quarantine::survey as quarantine;
pub(crate) use removal::{forgotten_pools, strays};
pub(crate) use shift::asked as asked_to_move;

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
        let wanted = specs::of(
            self.desired,
            self.known,
            pool,
            template,
            record,
            member,
            server,
        );
        // A life that began in a former life of the grid keeps the UUID that it was given there.
        DesktopSpec {
            uuid: desktop.spec.uuid,
            ..wanted
        }
    }

    /// What a new desktop needs of a server.
    pub(crate) fn need(self, image: Published<'_>) -> Need<'a> {
        let (pool, template) = (self.pool, self.template);
        let hardware = specs::hardware(self.desired, pool, template, image.record, None);
        Need {
            image: image.record.root,
            labels: &pool.servers,
            takes: Use::of(&hardware),
            firmware: template.firmware,
            displays: &template.displays,
        }
    }

    /// The version its desktops are clones of, or what they wait for.
    pub(crate) fn published(&self) -> Result<Published<'a>, Wait> {
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

/// A pooled desktop that is whole, and that nobody uses.
pub(crate) fn is_idle(desktop: &KnownDesktop) -> bool {
    !desktop.personal && desktop.people() == 0 && rollout::is_ready(&desktop.phase)
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
    let mut shift = shift::Shift::survey(yard, image, &rollout, draft);
    let target = yard.pool.desktops + rollout.surge() + shift.extra();
    let surplus = removal::surplus(yard, image, target, draft);
    let mut going = BTreeSet::new();
    let power = power::target(yard, draft);
    let mut rollout = rollout;
    let leaving = yard.members().filter(|(id, _)| surplus.contains(*id));
    let lost = leaving.filter(|(_, desktop)| rollout::is_ready(&desktop.phase));
    let lost = u32::try_from(lost.count()).unwrap_or(u32::MAX);
    let drained = drain::idle(yard, &surplus, draft);
    let moved = shift.go(yard, draft);
    let taken = u32::try_from(moved.len()).unwrap_or(u32::MAX);
    rollout.without(lost.saturating_add(drained.taken).saturating_add(taken));
    for (id, desktop) in yard.members().filter(|(id, _)| !surplus.contains(*id)) {
        if drained.going.contains(id)
            || moved.contains(id)
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
        } else if emptied(yard.known, desktop) || moving::is_waited_for(yard.known, desktop) {
            drain::used(yard, id, desktop, draft);
            going.insert(id.clone());
        }
    }
    let grown_of = rollout.back().map_or(published, Ok);
    let made = grow::grow(yard, grown_of, target, &shift, power.as_ref(), draft);
    power::balance(yard, power, &surplus, &going, made, draft);
    forecast::put(yard, image.is_some(), power.as_ref(), draft);
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
        // It goes there itself, and whoever is at it.
        (false, false, _) if moving::could_leave(known, desktop) => None,
        (false, false, ServerState::Draining) => Some(Reason::Draining { server: name() }),
        (false, false, _) => None,
    }
}

/// A pooled desktop that is to go because its server is being emptied.
fn emptied(known: &Known, desktop: &KnownDesktop) -> bool {
    matches!(replaced(known, desktop), Some(Reason::Draining { .. }))
}
