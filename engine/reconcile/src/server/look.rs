//! Looking at a server: what is there, in the grid's words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::ids::Member;
use coppice_schema::known::{
    CopyState, DesktopSpec, DiskLevel, Foreign, GuestState, Health, Phase, PowerState, Quarantined,
    Seen, SeenDomain, SeenOverlay, SeenReplica,
};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::State;
use coppice_world::disks::{Overlay, Space, StoredImage};
use coppice_world::hypervisor::{Domain, Mark};
use coppice_world::replicas::Replica;
use futures::future::join5;
use futures::stream::{self, StreamExt};
use uuid::Uuid;

use super::{Ports, Round};
use crate::lease;

/// What was seen.
pub(super) struct Sight {
    /// Hypervisor and disks answered. If not, everything below but `hypervisor` is what was last reported.
    pub(super) whole: bool,
    pub(super) members: BTreeMap<Member, Seen>,
    pub(super) images: BTreeMap<Digest, CopyState>,
    pub(super) foreign: BTreeMap<String, Foreign>,
    /// What is from another life of the grid, and not remembered in this one.
    pub(super) quarantine: BTreeMap<Member, Quarantined>,
    /// Copies of personal desktops of other servers.
    pub(super) replicas: BTreeMap<Member, SeenReplica>,
    pub(super) disk: DiskLevel,
    pub(super) hypervisor: Health,
    /// The files of overlays that are ours, or in quarantine.
    pub(super) files: BTreeMap<Member, PathBuf>,
    /// The domains of what is in quarantine.
    pub(super) apart: BTreeMap<Member, Uuid>,
    /// Guests that have not answered since they were started, as far as that is known for certain.
    pub(super) unheard: BTreeSet<Uuid>,
    /// What did not work, in words.
    pub(super) trouble: Option<String>,
}

/// What guests said last.
#[derive(Debug, Default)]
pub(super) struct Guests {
    answers: BTreeMap<Uuid, Answer>,
    /// Those that have answered in the start that they are in, or may have: nobody knows what those said that ran
    /// before this daemon looked first. With that start, unless they stood still. `None`: it has not looked.
    met: Option<BTreeMap<Uuid, Option<Timestamp>>>,
}

#[derive(Debug)]
struct Answer {
    /// Which start of the domain.
    running_since: Timestamp,
    asked: Timestamp,
    said: GuestState,
}

/// A guest that is up is asked that often: an answer costs the guest little, but 400 of them cost the host something.
const ASK_EVERY: Span = Span::seconds(30);
/// Guests asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Looks. It changes nothing on the server.
pub(super) async fn look(
    guests: &mut Guests,
    ports: &Ports,
    round: &Round,
    state: &State,
) -> Sight {
    let (hypervisor, disks) = (&ports.hypervisor, &ports.disks);
    let parts = join5(
        hypervisor.list(),
        disks.overlays(),
        disks.images(),
        disks.space(),
        ports.replicas.replicas(),
    );
    let (domains, overlays, images, space, replicas) = match parts.await {
        (Ok(domains), Ok(overlays), Ok(images), Ok(space), Ok(replicas)) => {
            (domains, overlays, images, space, replicas)
        }
        (Err(e), ..) => return as_last_reported(round, state, e.to_string()),
        // What a hypervisor shows without the disks is not the whole of any desktop.
        (_, Err(e), ..) | (_, _, Err(e), ..) | (_, _, _, Err(e), _) => {
            return as_last_reported(round, state, format!("its disks do not answer: {e}"));
        }
        (.., Err(e)) => {
            return as_last_reported(round, state, format!("its disks do not answer: {e}"));
        }
    };
    let sorted = sort(&domains, round, state);
    guests.ask(&sorted.ours, ports, round, state).await;
    let guarded = guarded(ports, round, state).await;
    let mut sight = seen(sorted, overlays, images, space, guests, round, state);
    for domain in sight
        .members
        .values_mut()
        .filter_map(|seen| seen.domain.as_mut())
    {
        domain.guarded = guarded.contains(&domain.uuid);
    }
    sight.replicas = copies(replicas, round, state);
    sight
}

/// What the watchdog holds. Where it does not answer nobody is to count with it.
async fn guarded(ports: &Ports, round: &Round, state: &State) -> BTreeSet<Uuid> {
    let armed = state
        .servers
        .get(&round.me)
        .is_some_and(|known| known.lease.is_some());
    if !armed && lease::leased(state, round.me).is_empty() {
        return BTreeSet::new();
    }
    let guard = ports.watchdog.guarding().await;
    guard.map(|guard| guard.domains).unwrap_or_default()
}

/// Not seen is not absent: the last report stands, and says that it means nothing now.
pub(super) fn as_last_reported(round: &Round, state: &State, cause: String) -> Sight {
    let look = state.servers.get(&round.me).and_then(|s| s.look.as_deref());
    let look = look.cloned();
    let (members, images, disk) = look
        .clone()
        .map(|l| (l.members, l.images, l.disk))
        .unwrap_or_default();
    let (foreign, quarantine, replicas) = look
        .map(|l| (l.foreign, l.quarantine, l.replicas))
        .unwrap_or_default();
    Sight {
        whole: false,
        members,
        images,
        foreign,
        quarantine,
        replicas,
        disk,
        hypervisor: Health::Away(cause.clone()),
        files: BTreeMap::new(),
        apart: BTreeMap::new(),
        unheard: BTreeSet::new(),
        trouble: Some(cause),
    }
}

/// A domain that is ours, with its mark.
type Ours<'a> = (&'a Mark, &'a Domain);

/// The domains of a server, by whose they are.
#[derive(Default)]
struct Sorted<'a> {
    ours: Vec<Ours<'a>>,
    apart: Vec<Ours<'a>>,
    foreign: BTreeMap<String, Foreign>,
}

/// Ours are those that carry this grid's mark, of a life that it has, and are who the mark says. One of another life
/// of the grid is in quarantine; a copy that somebody made of one of ours is listed and left alone.
fn sort<'a>(domains: &'a [Domain], round: &Round, state: &State) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for domain in domains {
        match &domain.mark {
            Some(mark) if mark.grid == round.grid && is_itself(mark, domain) => {
                if is_ours(mark, state) {
                    sorted.ours.push((mark, domain));
                } else {
                    sorted.apart.push((mark, domain));
                }
            }
            mark => {
                let grid = mark.as_ref().map(|m| m.grid);
                let uuid = domain.uuid;
                let stranger = Foreign { uuid, grid };
                sorted.foreign.insert(domain.name.clone(), stranger);
            }
        }
    }
    sorted
}

/// Whether what carries this grid's mark is of the grid as it is now: of its present life, or the very life of a desktop
/// that it remembers from a former one.
fn is_ours(mark: &Mark, state: &State) -> bool {
    mark.epoch == state.epoch || {
        let known = state.desktops.get(&mark.member.desktop);
        known.is_some_and(|known| {
            known.spec.member == mark.member && state.epoch_of(&known.spec) == Some(mark.epoch)
        })
    }
}

fn is_itself(mark: &Mark, domain: &Domain) -> bool {
    let Member {
        desktop,
        incarnation,
    } = &mark.member;
    domain.uuid == desktop.uuid(mark.grid, mark.epoch, *incarnation) && domain.written.is_some()
}

impl Guests {
    /// Asks those who are not known to be up, and of the others those who were not asked for a while.
    async fn ask(&mut self, ours: &[Ours<'_>], ports: &Ports, round: &Round, state: &State) {
        let running = |domain: &Domain| match domain.power {
            PowerState::Running { since } => Some((domain.uuid, since)),
            PowerState::Off | PowerState::Paused(_) | PowerState::Crashed => None,
        };
        let up: BTreeMap<Uuid, Timestamp> = ours.iter().filter_map(|(_, d)| running(d)).collect();
        self.answers
            .retain(|uuid, answer| up.get(uuid) == Some(&answer.running_since));
        self.keep_met(ours);
        let due = ours.iter().filter(|(mark, domain)| {
            let booting = state.desktops.get(&mark.member.desktop);
            let booting = booting.is_some_and(|d| matches!(d.phase, Phase::Provisioning { .. }));
            let known = self.answers.get(&domain.uuid);
            up.contains_key(&domain.uuid)
                && known.is_none_or(|a| {
                    booting || a.said == GuestState::Silent || round.now.since(a.asked) >= ASK_EVERY
                })
        });
        let calls: Vec<_> = due
            .map(|(_, domain)| async {
                (domain.uuid, ports.hypervisor.ask_guest(domain.uuid).await)
            })
            .collect();
        let said: Vec<_> = stream::iter(calls)
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        for (uuid, said) in said {
            let Some(running_since) = up.get(&uuid).copied() else {
                continue;
            };
            // A question that failed says nothing about the guest.
            if let Ok(said) = said {
                if said != GuestState::Silent {
                    let met = self.met.get_or_insert_default();
                    met.insert(uuid, Some(running_since));
                }
                let answer = Answer {
                    running_since,
                    asked: round.now,
                    said,
                };
                self.answers.insert(uuid, answer);
            }
        }
    }

    /// Forgets those that ended or were started anew. Standing still is neither.
    fn keep_met(&mut self, ours: &[Ours<'_>]) {
        let alive = ours.iter().filter_map(|(_, domain)| match domain.power {
            PowerState::Running { since } => Some((domain.uuid, Some(since))),
            PowerState::Paused(_) => Some((domain.uuid, None)),
            PowerState::Off | PowerState::Crashed => None,
        });
        let alive: BTreeMap<Uuid, Option<Timestamp>> = alive.collect();
        let met = self.met.get_or_insert_with(|| alive.clone());
        met.retain(|uuid, before| {
            let now = alive.get(uuid);
            now.is_some_and(|since| since.is_none() || before.is_none() || since == before)
        });
    }

    fn said(&self, uuid: Uuid) -> GuestState {
        self.answers
            .get(&uuid)
            .map_or(GuestState::Silent, |a| a.said.clone())
    }

    fn unheard(&self) -> BTreeSet<Uuid> {
        let asked = self.answers.keys();
        let met = |uuid: &&Uuid| self.met.as_ref().is_some_and(|met| met.contains_key(*uuid));
        asked.filter(|uuid| !met(uuid)).copied().collect()
    }
}

fn seen(
    sorted: Sorted<'_>,
    overlays: Vec<Overlay>,
    images: Vec<StoredImage>,
    space: Space,
    guests: &Guests,
    round: &Round,
    state: &State,
) -> Sight {
    let mut members: BTreeMap<Member, Seen> = BTreeMap::new();
    let mut files = BTreeMap::new();
    let mut quarantine: BTreeMap<Member, Quarantined> = BTreeMap::new();
    let apart = sorted.apart.iter();
    let apart = apart.map(|(mark, domain)| (mark.member.clone(), domain.uuid));
    let apart: BTreeMap<Member, Uuid> = apart.collect();
    for (mark, domain) in &sorted.apart {
        let found = Quarantined {
            epoch: mark.epoch,
            power: Some(domain.power.clone()),
            disk: false,
        };
        quarantine.insert(mark.member.clone(), found);
    }
    for overlay in overlays {
        let Some(mark) = overlay.mark.filter(|m| m.grid == round.grid) else {
            continue;
        };
        if !is_ours(&mark, state) {
            files.insert(mark.member.clone(), overlay.path);
            let found = quarantine.entry(mark.member).or_insert(Quarantined {
                epoch: mark.epoch,
                power: None,
                disk: true,
            });
            found.disk = true;
            continue;
        }
        let limit = state
            .desktops
            .get(&mark.member.desktop)
            .filter(|d| d.spec.member == mark.member)
            .and_then(|d| d.spec.hardware.disk_limit);
        let seen = SeenOverlay {
            image: mark.image,
            sound: overlay.sound,
            stamp: mark.stamp,
            over_limit: limit.is_some_and(|limit| overlay.allocated > limit),
            bulk: bulk(overlay.allocated),
        };
        files.insert(mark.member.clone(), overlay.path);
        members.entry(mark.member).or_default().overlay = Some(seen);
    }
    for (mark, domain) in &sorted.ours {
        let Some(written) = &domain.written else {
            continue;
        };
        // A domain that boots from elsewhere is no clone of any image: that differs from whatever was written.
        let file = files.get(&mark.member);
        let own_disk = file.is_none_or(|file| *file == written.disk);
        let spec = DesktopSpec {
            member: mark.member.clone(),
            uuid: domain.uuid,
            hostname: written.hostname.clone(),
            image: if own_disk { mark.image } else { ELSEWHERE },
            hardware: written.hardware.clone(),
        };
        let seen = SeenDomain {
            uuid: domain.uuid,
            stamp: mark.stamp,
            power: domain.power.clone(),
            spec,
            guest: guests.said(domain.uuid),
            stale_until_reboot: written.stale_until_reboot,
            viewers: domain.viewers,
            guarded: false,
        };
        members.entry(mark.member.clone()).or_default().domain = Some(seen);
    }
    let before = state.servers.get(&round.me).and_then(|s| s.look.as_ref());
    Sight {
        whole: true,
        members,
        images: images.into_iter().map(|i| (i.root, i.state)).collect(),
        foreign: sorted.foreign,
        quarantine,
        replicas: BTreeMap::new(),
        disk: level(space, before.map(|l| l.disk).unwrap_or_default()),
        hypervisor: Health::Well,
        files,
        apart,
        unheard: guests.unheard(),
        trouble: None,
    }
}

/// Copies of desktops of this grid. Those of another life of it mean nothing in this one, but for what goes on from them.
fn copies(replicas: Vec<Replica>, round: &Round, state: &State) -> BTreeMap<Member, SeenReplica> {
    let ours = replicas
        .into_iter()
        .filter(|it| it.mark.grid == round.grid)
        .filter(|it| is_ours(&it.mark, state) || goes_on_from(&it.mark, state));
    let seen = ours.map(|it| {
        let copy = SeenReplica {
            image: it.mark.image,
            taken: it.taken,
            bulk: bulk(it.allocated),
        };
        (it.mark.member, copy)
    });
    seen.collect()
}

/// Whether a desktop goes on from a copy with that mark, which was made before the present life of the grid began.
fn goes_on_from(mark: &Mark, state: &State) -> bool {
    let known = state.desktops.get(&mark.member.desktop);
    let from = known.and_then(|known| known.restored_from.as_ref());
    from == Some(&mark.member) && state.former.contains(&mark.epoch)
}

/// log2 of `size` in MiB, rounded up.
fn bulk(size: Size) -> u8 {
    let mib = size.0.div_ceil(1 << 20);
    let log = mib
        .checked_next_power_of_two()
        .map_or(64, u64::trailing_zeros);
    u8::try_from(log).unwrap_or(u8::MAX)
}

/// Stands for the image of a domain that boots from another file than its overlay.
const ELSEWHERE: Digest = Digest([0; 32]);

/// Per cent used from which a disk is high, and critical.
const MARKS: [(u64, DiskLevel); 2] = [(90, DiskLevel::Critical), (80, DiskLevel::High)];
/// A level is left that many per cent below where it began, so that one file does not make it flip.
const HYSTERESIS: u64 = 2;

/// How full a disk is, given how full it was.
fn level(space: Space, before: DiskLevel) -> DiskLevel {
    let Space { total, free } = space;
    let used = Size(total.0.saturating_sub(free.0));
    let percent = u128::from(used.0) * 100 / u128::from(total.0.max(1));
    let reached = |(mark, level): &(u64, DiskLevel)| {
        let mark = if before >= *level {
            mark - HYSTERESIS
        } else {
            *mark
        };
        percent >= u128::from(mark)
    };
    MARKS
        .into_iter()
        .find(reached)
        .map_or(DiskLevel::Fine, |(_, level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(percent: u64, before: DiskLevel) -> DiskLevel {
        let space = Space {
            total: Size(1_000),
            free: Size(1_000 - percent * 10),
        };
        level(space, before)
    }

    #[test]
    fn a_level_is_left_later_than_it_is_reached() {
        assert_eq!(at(79, DiskLevel::Fine), DiskLevel::Fine);
        assert_eq!(at(80, DiskLevel::Fine), DiskLevel::High);
        assert_eq!(at(78, DiskLevel::High), DiskLevel::High);
        assert_eq!(at(77, DiskLevel::High), DiskLevel::Fine);
        assert_eq!(at(90, DiskLevel::High), DiskLevel::Critical);
        assert_eq!(at(88, DiskLevel::Critical), DiskLevel::Critical);
        assert_eq!(at(87, DiskLevel::Critical), DiskLevel::High);
    }

    #[test]
    fn a_disk_of_no_size_is_not_full() {
        let space = Space {
            total: Size(0),
            free: Size(0),
        };
        assert_eq!(level(space, DiskLevel::Fine), DiskLevel::Fine);
    }
}
