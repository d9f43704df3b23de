//! Desktops that are wanted and not there.

use std::collections::BTreeSet;

use coppice_schema::ids::{Address, DesktopId, Incarnation, ServerId, Slot};
use coppice_schema::known::{ServerState, Task};
use coppice_schema::{Digest, Known};

use super::shift::Shift;
use super::{GROWTH_GUESS, Yard, power, replaced};
use crate::draft::Draft;
use crate::images::Published;
use crate::place::Batch;
use crate::placement::Lack;
use crate::plan::{
    Action, Basis, Estimate, Finding, FindingKind, Impact, Kind, Memory, Reason, Risk, Severity,
    Step, Wait,
};
use crate::specs;

/// Where the desktops of one pool go.
struct Growth<'a> {
    yard: Yard<'a>,
    published: Result<Published<'a>, Wait>,
    /// The servers, once the first desktop is to be placed.
    batch: Option<Batch<'a>>,
    /// What the first that found no place waits for, and so do all after it: they are alike.
    full: Option<Full>,
}

/// No server takes another desktop.
#[derive(Clone)]
struct Full {
    wait: Wait,
    /// Nothing that is under way makes room.
    lacking: Option<String>,
}

/// Fills slots until there are as many desktops as wanted. Returns how many it plans to start.
pub(super) fn grow<'a>(
    yard: Yard<'a>,
    published: Result<Published<'a>, Wait>,
    target: u32,
    shift: &Shift<'_>,
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
    let image = published.as_ref().ok().map(|image| image.record.root);
    let mut growth = Growth {
        yard,
        published,
        batch: None,
        full: None,
    };
    let mut no_room = 0;
    let mut on = power.map(|target| target.running);
    let free = free_slots(yard, &held, target, gone, draft);
    let (mut slots, tired): (Vec<Slot>, Vec<Slot>) = free
        .into_iter()
        .partition(|slot| !is_tired(yard, *slot, image, draft));
    slots.extend(tired);
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
    // Those that are wanted anyway come first, and then those in whose place others leave their servers.
    let size = target.saturating_sub(shift.extra());
    let ordinary = size.saturating_sub(all.saturating_sub(gone));
    for (n, slot) in (0_u32..).zip(slots) {
        let moved = n.checked_sub(ordinary).and_then(|n| shift.place(n, yard));
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
        let (to, reason) = match moved {
            Some((to, reason)) => (Some(to), reason),
            None => (None, reason),
        };
        if growth.create(&id, start, to, reason, draft) {
            started += u32::from(start);
        } else {
            no_room += 1;
        }
    }
    let lacking = growth.full.and_then(|full| full.lacking);
    if let Some(lacking) = lacking.filter(|_| no_room > 0) {
        let desktops = no_room;
        draft.finding(Finding {
            object: yard.address(),
            kind: FindingKind::NoRoom { desktops, lacking },
            severity: Severity::Error,
            remedy: "add a server, free what is lacking, or want fewer desktops".to_owned(),
        });
    }
    started
}

/// Whether what failed there, and is to be tried again after a while only, was its server's trouble: a desktop made of
/// `image` was well there, or it was never tried. Then any other slot is as good, and better now. Where the image
/// itself is to blame, another slot would only fail as well.
fn is_tired(yard: Yard<'_>, slot: Slot, image: Option<Digest>, draft: &Draft<'_>) -> bool {
    let id = DesktopId {
        pool: yard.name.clone(),
        slot,
    };
    let Some(memory) = yard.known.slots.get(&id) else {
        return false;
    };
    let blamed = image.is_some_and(|image| memory.failed.contains(&image));
    !blamed && draft.backs_off(&id, memory.failures).is_some()
}

/// Free slots, lowest first, that no stray or foreign name keeps. `gone` are held by desktops that others are
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

/// Desktops whose name a domain that is not ours has, or whose slot a stray or something in quarantine holds, on any
/// server.
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
        let lives = look.members.keys().chain(look.quarantine.keys());
        taken.extend(lives.map(|member| member.desktop.clone()));
    }
    taken
}

impl Growth<'_> {
    /// Plans one new desktop. Returns whether it has a place, or may get one without anybody's doing.
    fn create(
        &mut self,
        id: &DesktopId,
        start: bool,
        to: Option<ServerId>,
        reason: Reason,
        draft: &mut Draft<'_>,
    ) -> bool {
        let yard = self.yard;
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
        let mut placed = true;
        match self.published.clone() {
            Err(wait) => waits.push(wait),
            // Where a server is not seen, nothing can be placed for good.
            Ok(_) if !waits.is_empty() => {}
            Ok(image) => match self.place(image, to, draft) {
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
                Err(full) => {
                    placed = full.lacking.is_none();
                    waits.push(full.wait);
                }
            },
        }
        action.waits = waits;
        draft.actions.push(action);
        placed
    }

    /// The best server, or `to` where that is said.
    fn place(
        &mut self,
        image: Published<'_>,
        to: Option<ServerId>,
        draft: &Draft<'_>,
    ) -> Result<ServerId, Full> {
        if let Some(host) = to.and_then(|to| draft.ledger.host(to)) {
            return match host.lacks(&self.yard.need(image)) {
                None => Ok(host.id),
                Some(lack) => Err(Full {
                    wait: Wait::Room {
                        lacking: format!("{} {}", host.server.name, lack.words()),
                    },
                    lacking: None,
                }),
            };
        }
        if let Some(full) = &self.full {
            return Err(full.clone());
        }
        let yard = self.yard;
        let new = || Batch::new(yard.need(image), &draft.ledger);
        let batch = self.batch.get_or_insert_with(new);
        if let Some(server) = batch.next(&draft.ledger) {
            return Ok(server);
        }
        let lacking = batch.lacking(&draft.ledger);
        let full = self.full.insert(full(yard, image, &lacking, draft));
        Err(full.clone())
    }
}

/// What a desktop waits for that no server takes.
fn full(
    yard: Yard<'_>,
    image: Published<'_>,
    lacking: &BTreeSet<(String, Lack)>,
    draft: &Draft<'_>,
) -> Full {
    let wait = match joining(yard.known) {
        // In a moment it says what it can carry; until then nobody knows that there is no room.
        Some(server) => Some(Wait::Observation { server }),
        None => copying(yard, image, lacking, draft),
    };
    if let Some(wait) = wait {
        return Full {
            wait,
            lacking: None,
        };
    }
    let each = lacking.iter();
    let words: BTreeSet<String> = each
        .map(|(server, lack)| format!("{server} {}", lack.words()))
        .collect();
    let text = words.into_iter().collect::<Vec<_>>().join("; ");
    Full {
        wait: Wait::Room {
            lacking: text.clone(),
        },
        lacking: Some(text),
    }
}

/// Servers that lack nothing but the image, and to which a copy of it is to come.
fn copying(
    yard: Yard<'_>,
    image: Published<'_>,
    lacking: &BTreeSet<(String, Lack)>,
    draft: &Draft<'_>,
) -> Option<Wait> {
    let root = image.record.root;
    let servers = yard.known.servers.iter();
    let coming = servers.filter(|(id, _)| draft.copies.wait(root, **id).is_some());
    let coming = coming.map(|(_, server)| server.name.to_string());
    let servers: BTreeSet<String> = coming
        .filter(|server| lacking.contains(&(server.clone(), Lack::Image)))
        .collect();
    (!servers.is_empty()).then(|| Wait::Copy {
        image: yard.template.image.clone(),
        version: image.version.clone(),
        servers,
    })
}

/// A member that has not said yet what it can carry.
fn joining(known: &Known) -> Option<String> {
    let mut servers = known.servers.values();
    let joining = servers.find(|server| server.state == ServerState::Joining)?;
    Some(joining.name.to_string())
}
