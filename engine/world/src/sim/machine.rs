//! The machine itself: what is on it, and what each operation does to it. No faults, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::{CopyState, Hardware, PowerState};
use coppice_schema::units::{Size, Span, Timestamp};
use futures::channel::mpsc::Sender;
use uuid::Uuid;

use super::Setup;
use super::chance::mixed;
use super::fault::Operation;
use super::journal::{Change, Deed, Hand};
use super::moves::Way;
use crate::hypervisor::Mark;
use crate::watchdog::{Guard, WatchdogError};

/// A domain on a simulated server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimDomain {
    /// Its name, unique on the server.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its mark.
    pub mark: Option<Mark>,
    /// Host name given to the guest.
    pub hostname: String,
    /// Hardware of its persistent form; `None`: somebody else's, not looked into.
    pub hardware: Option<Hardware>,
    /// Its disk's file.
    pub disk: PathBuf,
    /// Whether it runs.
    pub power: PowerState,
    /// Hardware and host name that it runs with.
    pub running_with: Option<(String, Hardware)>,
    /// When its guest answers; `None`: never.
    pub answers_at: Option<Timestamp>,
    /// How many people are signed in.
    pub users: u32,
    /// How many clients have its display open.
    pub viewers: u32,
}

/// An overlay on a simulated server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimOverlay {
    /// Its mark.
    pub mark: Option<Mark>,
    /// Its header reads.
    pub readable: bool,
    /// Virtual size.
    pub size: Size,
    /// Bytes on the medium.
    pub allocated: Size,
    /// What its guest wrote last, as far as a simulation has that: see
    /// [`write_to_overlay`](super::SimServer::write_to_overlay).
    pub written: u64,
}

/// A copy of another server's overlay on a simulated server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimReplica {
    /// Of what.
    pub mark: Mark,
    /// When it was that.
    pub taken: Timestamp,
    /// Virtual size.
    pub size: Size,
    /// Bytes on the medium.
    pub allocated: Size,
    /// What the guest had written last.
    pub written: u64,
}

/// An image on a simulated server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimImage {
    /// How it was found when it was last verified.
    pub state: CopyState,
    /// Its bytes are not what they were.
    pub rotten: bool,
    /// Virtual size.
    pub size: Size,
    /// Bytes that are not holes.
    pub data: Size,
    /// Of [`PARTS`](super::copies::PARTS), how many are here. Those that are not were bad, or have not come yet.
    pub parts: u8,
    /// When all of it was last read back and was right.
    pub read: Timestamp,
}

impl SimImage {
    /// One that is whole, as it was read back then.
    #[must_use]
    pub fn whole(size: Size, data: Size, read: Timestamp) -> Self {
        Self {
            state: CopyState::Verified,
            rotten: false,
            size,
            data,
            parts: super::copies::PARTS,
            read,
        }
    }

    /// What it takes of the disk.
    #[must_use]
    pub fn stored(&self) -> Size {
        Size(self.data.0 / u64::from(super::copies::PARTS) * u64::from(self.parts))
    }
}

/// Tells the chance that somebody signs in from others.
const PEOPLE: u64 = 0x7065_6f70_6c65;

/// Something that is still to come about.
pub(super) type Effect = Box<dyn FnOnce(&mut Machine, Timestamp) + Send>;

pub(super) struct Machine {
    pub(super) seed: u64,
    pub(super) boot: Span,
    pub(super) people: u32,
    pub(super) total: Size,
    /// Bytes that others use.
    pub(super) others: Size,
    pub(super) domains: BTreeMap<Uuid, SimDomain>,
    pub(super) overlays: BTreeMap<PathBuf, SimOverlay>,
    pub(super) images: BTreeMap<Digest, SimImage>,
    pub(super) replicas: BTreeMap<Member, SimReplica>,
    /// Which arrival of a copy counts, for each desktop.
    pub(super) arrivals: BTreeMap<Member, u64>,
    /// Images whose guests never answer.
    pub(super) silent: BTreeSet<Digest>,
    pub(super) journal: Vec<Change>,
    pub(super) misuse: Vec<String>,
    /// Changing calls whose callers still wait for their end.
    pub(super) called: BTreeMap<Uuid, Operation>,
    /// Until when a changing call of a domain is under way.
    pub(super) busy: BTreeMap<Uuid, Timestamp>,
    pub(super) late: Vec<(Timestamp, Effect)>,
    /// Domains that are between two servers.
    pub(super) ways: BTreeMap<Uuid, Way>,
    /// How many desktops others have offered.
    pub(super) offers: u64,
    pub(super) watchers: Vec<Sender<()>>,
    pub(super) starts: u64,
    /// When a domain was started last: no two starts are at one time, so that they can be told apart.
    pub(super) last_start: Timestamp,
    /// What the watchdog holds, and when it ends it; it goes with the power.
    pub(super) guard: Guard,
    /// Why there is no watchdog.
    pub(super) no_watchdog: Option<WatchdogError>,
}

impl Machine {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            seed: setup.seed,
            boot: setup.boot,
            people: setup.people,
            total: setup.capacity.disk,
            others: Size(0),
            domains: BTreeMap::new(),
            overlays: BTreeMap::new(),
            images: BTreeMap::new(),
            replicas: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            silent: BTreeSet::new(),
            journal: Vec::new(),
            misuse: Vec::new(),
            called: BTreeMap::new(),
            busy: BTreeMap::new(),
            late: Vec::new(),
            ways: BTreeMap::new(),
            offers: 0,
            watchers: Vec::new(),
            starts: 0,
            last_start: Timestamp(0),
            guard: Guard::default(),
            no_watchdog: None,
        }
    }

    /// Does what was to come about by `now`, which is the moment `passed`, and what the watchdog did meanwhile.
    pub(super) fn settle(&mut self, now: Timestamp, passed: Span) {
        let overdue = passed.0.checked_sub(self.guard.until.0);
        if let Some(overdue) = overdue.filter(|_| !self.guard.domains.is_empty()) {
            let moment = Timestamp(now.0.saturating_sub(overdue));
            self.come_about(moment);
            self.end_guarded(moment);
            self.come_about(now);
            self.end_guarded(now);
        } else {
            self.come_about(now);
        }
    }

    fn end_guarded(&mut self, at: Timestamp) {
        let guarded = self.guard.domains.iter();
        let running = guarded.filter(|uuid| self.domains.get(uuid).is_some_and(SimDomain::runs));
        let running: Vec<Uuid> = running.copied().collect();
        for uuid in running {
            self.switch_off(uuid, PowerState::Crashed, at, Hand::Watchdog);
            self.wake();
        }
    }

    /// Does what was to come about by `now`, each at its own time.
    fn come_about(&mut self, now: Timestamp) {
        while let Some(first) = self
            .late
            .iter()
            .enumerate()
            .filter(|(_, (at, _))| *at <= now)
            .min_by_key(|(place, (at, _))| (*at, *place))
            .map(|(place, _)| place)
        {
            let (at, effect) = self.late.remove(first);
            effect(self, at);
            self.wake();
        }
        self.busy.retain(|_, until| *until > now);
    }

    pub(super) fn used(&self) -> Size {
        let overlays: u64 = self.overlays.values().map(|o| o.allocated.0).sum();
        let images: u64 = self.images.values().map(|i| i.stored().0).sum();
        let replicas: u64 = self.replicas.values().map(|r| r.allocated.0).sum();
        let ours = [overlays, images, replicas];
        Size(ours.into_iter().fold(self.others.0, u64::saturating_add))
    }

    pub(super) fn free(&self) -> Size {
        Size(self.total.0.saturating_sub(self.used().0))
    }

    pub(super) fn note(&mut self, at: Timestamp, by: Hand, deed: Deed) {
        self.journal.push(Change { at, by, deed });
    }

    /// Others undefined that domain last: whoever asks for it could not know.
    pub(super) fn taken_away(&self, uuid: Uuid) -> bool {
        let last = self
            .journal
            .iter()
            .rev()
            .find_map(|change| match &change.deed {
                Deed::Undefined { uuid: u, .. } | Deed::Defined { uuid: u, .. } if *u == uuid => {
                    Some((change.by, matches!(change.deed, Deed::Undefined { .. })))
                }
                Deed::Defined { .. }
                | Deed::Undefined { .. }
                | Deed::Started { .. }
                | Deed::Ended { .. }
                | Deed::OverlayMade { .. }
                | Deed::OverlayRemoved { .. }
                | Deed::ImageMade(_)
                | Deed::ImageGone(_) => None,
            });
        last == Some((Hand::Other, true))
    }

    /// Others defined that domain after the first `seen` changes.
    pub(super) fn appeared(&self, uuid: Uuid, seen: usize) -> bool {
        let since = self.journal.get(seen..).unwrap_or_default();
        since.iter().any(|change| {
            change.by == Hand::Other
                && matches!(change.deed, Deed::Defined { uuid: u, .. } if u == uuid)
        })
    }

    /// The number of what comes next as a copy of `member`. What came before counts no more.
    pub(super) fn announce(&mut self, member: &Member) -> u64 {
        let number = self.arrivals.entry(member.clone()).or_default();
        *number += 1;
        *number
    }

    /// Keeps what a correct program never asks, in words.
    pub(super) fn scold(&mut self, what: String) {
        self.misuse.push(what);
    }

    /// Tells watchers that something may have changed. A full channel already says so.
    pub(super) fn wake(&mut self) {
        self.watchers
            .retain_mut(|w| !matches!(w.try_send(()), Err(e) if e.is_disconnected()));
    }

    pub(super) fn overlay_is_sound(&self, overlay: &SimOverlay) -> bool {
        let image = overlay
            .mark
            .as_ref()
            .and_then(|m| self.images.get(&m.image));
        overlay.readable && image.is_some()
    }

    /// Whether a domain that runs has `path` open.
    pub(super) fn user_of(&self, path: &Path) -> Option<String> {
        let mut running = self.domains.values().filter(|d| d.runs());
        running.find(|d| d.disk == path).map(|d| d.name.clone())
    }

    /// Switches a domain on. `Err` is why it cannot be.
    pub(super) fn switch_on(&mut self, uuid: Uuid, at: Timestamp, by: Hand) -> Result<(), String> {
        let Some(domain) = self.domains.get(&uuid) else {
            return Err("it is not defined".to_owned());
        };
        if self.ways.contains_key(&uuid) {
            let name = domain.name.clone();
            self.scold(format!("start of {name}, which is between two servers"));
            return Err("it is between two servers, and waits for what is decided".to_owned());
        }
        if domain.runs() {
            return Ok(());
        }
        if domain.mark.is_some() {
            let overlay = self.overlays.get(&domain.disk);
            let overlay =
                overlay.ok_or_else(|| format!("{}: no such file", domain.disk.display()))?;
            if !self.overlay_is_sound(overlay) {
                return Err(format!("{}: not a usable disk", domain.disk.display()));
            }
        }
        self.starts += 1;
        let since = self.fresh_start(at);
        let (low, starts) = (self.boot.0, self.starts);
        let extra = mixed(&[self.seed, starts]).checked_rem(low).unwrap_or(0);
        let signs_in = mixed(&[self.seed, starts, PEOPLE]) % 100 < u64::from(self.people);
        let Some(domain) = self.domains.get_mut(&uuid) else {
            return Err("it is not defined".to_owned());
        };
        domain.power = PowerState::Running { since };
        let image = domain.mark.as_ref().map(|mark| mark.image);
        domain.answers_at = image
            .is_none_or(|image| !self.silent.contains(&image))
            .then(|| at.after(Span(low + extra)));
        domain.running_with = domain
            .hardware
            .clone()
            .map(|hardware| (domain.hostname.clone(), hardware));
        // It is seen when its guest answers.
        domain.users = u32::from(signs_in && domain.mark.is_some());
        let mark = domain.mark.clone();
        self.note(at, by, Deed::Started { uuid, mark });
        Ok(())
    }

    /// The power goes: every domain ends, and what was under way comes to nothing.
    pub(super) fn black_out(&mut self, at: Timestamp) {
        self.late.clear();
        self.busy.clear();
        self.called.clear();
        self.ways.clear();
        self.guard = Guard::default();
        let running = self.domains.values().filter(|domain| domain.runs());
        let running: Vec<Uuid> = running.map(|domain| domain.uuid).collect();
        for uuid in running {
            self.switch_off(uuid, PowerState::Off, at, Hand::Other);
        }
        self.wake();
    }

    /// A time of a start that no other has.
    fn fresh_start(&mut self, at: Timestamp) -> Timestamp {
        self.last_start = at.max(self.last_start.after(Span(1)));
        self.last_start
    }

    /// A domain that stands still between two servers goes on.
    pub(super) fn go_on(&mut self, uuid: Uuid, at: Timestamp) {
        let since = self.fresh_start(at);
        self.ways.remove(&uuid);
        if let Some(domain) = self.domains.get_mut(&uuid) {
            domain.power = PowerState::Running { since };
        }
    }

    /// A domain that has come, or was coming, is gone: it was never defined here.
    pub(super) fn vanish(&mut self, uuid: Uuid) {
        self.ways.remove(&uuid);
        self.domains.remove(&uuid);
    }

    /// Ends a domain that runs.
    pub(super) fn switch_off(&mut self, uuid: Uuid, left: PowerState, at: Timestamp, by: Hand) {
        if matches!(self.ways.get(&uuid), Some(Way::Coming(_) | Way::Came)) {
            return self.vanish(uuid);
        }
        self.ways.remove(&uuid);
        let Some(domain) = self.domains.get_mut(&uuid) else {
            return;
        };
        let ran = domain.runs();
        domain.power = left;
        domain.running_with = None;
        domain.answers_at = None;
        domain.users = 0;
        domain.viewers = 0;
        let mark = domain.mark.clone();
        if ran {
            self.note(at, by, Deed::Ended { uuid, mark });
        }
    }
}

impl SimDomain {
    /// Its processors may be running: it holds its disk.
    #[must_use]
    pub fn runs(&self) -> bool {
        match self.power {
            PowerState::Running { .. } | PowerState::Paused(_) => true,
            PowerState::Off | PowerState::Crashed => false,
        }
    }
}

/// Whether a mark is of `grid`; without one, any is.
pub(super) fn is_ours(grid: Option<GridId>, mark: Option<&Mark>) -> bool {
    mark.is_some_and(|m| grid.is_none_or(|grid| grid == m.grid))
}

pub(super) fn overlay_path(member: &Member) -> PathBuf {
    PathBuf::from(format!("/sim/overlays/{member}.qcow2"))
}
