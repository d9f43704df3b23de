//! What goes wrong, and when: by a seeded schedule, by direct call, or as the death of the daemon.

use std::collections::{BTreeSet, VecDeque};

use coppice_schema::units::{Span, Timestamp};

use super::SimServer;
use super::chance::Chance;

/// What befalls one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is refused, and nothing is done.
    Refused,
    /// Nothing answers: nothing is done.
    Away,
    /// It ends at its deadline, as stuck, and was done or not.
    Stuck {
        /// It was done.
        done: bool,
    },
    /// It ends at its deadline, as stuck, and comes about that long after.
    Late(Span),
    /// It is done, and its answer is lost.
    Lost,
    /// It takes that long.
    Slow(Span),
}

/// Operations of the ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(
    missing_docs,
    reason = "each is named as the port's method, or a part of it"
)]
pub enum Operation {
    Capacity,
    List,
    Define,
    Start,
    Stop,
    PowerOff,
    Undefine,
    AskGuest,
    Console,
    Screenshot,
    Send,
    StopToSend,
    Stay,
    MakeRoom,
    TakeIn,
    Enter,
    Copy,
    Space,
    Overlays,
    MakeOverlays,
    RemoveOverlay,
    Images,
    VerifyImage,
    DropImage,
    ImportImage,
    ScrubImage,
    ReceiveImage,
    OfferCopy,
    TakeCopy,
    Replicas,
    Restore,
    RemoveCopy,
}

/// How often each fault happens, in a thousand calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weather {
    /// [`Fault::Refused`], of changing calls.
    pub refused: u32,
    /// The hypervisor goes away for 5 to 60 s.
    pub away: u32,
    /// [`Fault::Stuck`].
    pub stuck: u32,
    /// [`Fault::Late`], of changing calls on domains.
    pub late: u32,
    /// [`Fault::Lost`], of changing calls.
    pub lost: u32,
    /// [`Fault::Slow`], up to 10 s.
    pub slow: u32,
}

impl Weather {
    /// Everything goes wrong now and then.
    pub const STORM: Self = Self {
        refused: 40,
        away: 8,
        stuck: 15,
        late: 10,
        lost: 30,
        slow: 30,
    };
}

/// Where a daemon dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// Which port call from now, counted from 0.
    pub call: u64,
    /// On which side of its effect.
    pub moment: Moment,
}

/// A side of an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It does not take place any more.
    Before,
    /// It took place, and nobody heard of it.
    After,
}

/// What becomes of the daemon in a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Lives,
    DiesBefore,
    DiesAfter,
}

pub(super) struct Faults {
    chance: Chance,
    weather: Weather,
    pub(super) away_until: Option<Timestamp>,
    /// Refused each time.
    pub(super) refuse: BTreeSet<Operation>,
    scripted: VecDeque<(Operation, Fault)>,
    crash: Option<CrashPoint>,
    dead: bool,
    calls: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed ^ 0x000f_a017),
            weather: Weather::default(),
            away_until: None,
            refuse: BTreeSet::new(),
            scripted: VecDeque::new(),
            crash: None,
            dead: false,
            calls: 0,
        }
    }

    /// Counts a call, and says what becomes of the daemon in it.
    pub(super) fn begin(&mut self) -> Fate {
        if self.dead {
            return Fate::DiesBefore;
        }
        self.calls += 1;
        match &mut self.crash {
            Some(point) if point.call > 0 => {
                point.call -= 1;
                Fate::Lives
            }
            Some(point) => match point.moment {
                Moment::Before => self.die(Fate::DiesBefore),
                Moment::After => Fate::DiesAfter,
            },
            None => Fate::Lives,
        }
    }

    /// The daemon is dead from now on.
    pub(super) fn die(&mut self, fate: Fate) -> Fate {
        self.dead = true;
        self.crash = None;
        fate
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) fn draw(&mut self, operation: Operation, now: Timestamp) -> Option<Fault> {
        if let Some(place) = self.scripted.iter().position(|(o, _)| *o == operation) {
            return self.scripted.remove(place).map(|(_, fault)| fault);
        }
        if self.refuse.contains(&operation) {
            return Some(Fault::Refused);
        }
        let weather = self.weather;
        if weather == Weather::default() {
            return None;
        }
        if operation.is_of_hypervisor() && self.chance.per_mille(weather.away) {
            let until = now.after(Span::seconds(self.chance.between(5, 60)));
            self.away_until = Some(until);
            return None;
        }
        if operation.changes() && self.chance.per_mille(weather.refused) {
            return Some(Fault::Refused);
        }
        if operation.changes() && self.chance.per_mille(weather.lost) {
            return Some(Fault::Lost);
        }
        if operation.changes_domain() && self.chance.per_mille(weather.late) {
            return Some(Fault::Late(Span::seconds(self.chance.between(1, 20))));
        }
        if self.chance.per_mille(weather.stuck) {
            let done = self.chance.per_mille(500);
            return Some(Fault::Stuck { done });
        }
        if self.chance.per_mille(weather.slow) {
            return Some(Fault::Slow(Span(self.chance.between(1, 10_000))));
        }
        None
    }
}

impl Operation {
    pub(super) fn is_of_hypervisor(self) -> bool {
        self <= Self::Copy
    }

    pub(super) fn changes_domain(self) -> bool {
        (Self::Define..=Self::Undefine).contains(&self)
    }

    pub(super) fn changes(self) -> bool {
        self.changes_domain()
            || (Self::Send..=Self::Copy).contains(&self)
            || matches!(
                self,
                Self::MakeOverlays
                    | Self::RemoveOverlay
                    | Self::DropImage
                    | Self::ImportImage
                    | Self::ReceiveImage
                    | Self::OfferCopy
                    | Self::TakeCopy
                    | Self::Restore
                    | Self::RemoveCopy
            )
    }

    /// Reads a changing operation by the name it has in an address, such as `power-off`.
    pub(super) fn changing(name: &str) -> Option<Self> {
        let all = [
            ("define", Self::Define),
            ("start", Self::Start),
            ("stop", Self::Stop),
            ("power-off", Self::PowerOff),
            ("undefine", Self::Undefine),
            ("send", Self::Send),
            ("enter", Self::Enter),
            ("copy", Self::Copy),
            ("make-overlays", Self::MakeOverlays),
            ("remove-overlay", Self::RemoveOverlay),
            ("import-image", Self::ImportImage),
            ("receive-image", Self::ReceiveImage),
            ("take-copy", Self::TakeCopy),
            ("restore", Self::Restore),
            ("remove-copy", Self::RemoveCopy),
        ];
        let found = all.into_iter().find(|(word, _)| *word == name);
        found.map(|(_, operation)| operation)
    }

    /// The verb, for messages.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Capacity => "ask for capacity",
            Self::List => "list",
            Self::Define => "define",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::PowerOff => "power off",
            Self::Undefine => "undefine",
            Self::AskGuest => "ask the guest",
            Self::Console => "open the console",
            Self::Screenshot => "take a picture",
            Self::Send => "send",
            Self::StopToSend => "stop for the last part",
            Self::Stay => "let stay",
            Self::MakeRoom => "make room",
            Self::TakeIn => "take in",
            Self::Enter => "let in",
            Self::Copy => "copy the disk of",
            Self::Space => "measure space",
            Self::Overlays => "list overlays",
            Self::MakeOverlays => "make overlays",
            Self::RemoveOverlay => "remove an overlay",
            Self::Images => "list images",
            Self::VerifyImage => "verify an image",
            Self::DropImage => "drop an image",
            Self::ImportImage => "import an image",
            Self::ScrubImage => "read an image back",
            Self::ReceiveImage => "copy an image",
            Self::OfferCopy => "make room for a copy",
            Self::TakeCopy => "keep a copy",
            Self::Replicas => "list copies",
            Self::Restore => "restore a copy",
            Self::RemoveCopy => "remove a copy",
        }
    }

    /// The adapter's own deadline.
    pub(super) fn limit(self) -> Span {
        if self == Self::AskGuest {
            // A guest that is busy booting is asked again soon anyway.
            Span::seconds(5)
        } else if matches!(
            self,
            Self::VerifyImage | Self::ImportImage | Self::ScrubImage
        ) {
            Span::minutes(10)
        } else if self.is_of_hypervisor() {
            Span::seconds(30)
        } else {
            Span::seconds(60)
        }
    }
}

impl SimServer {
    /// From now on faults happen by chance.
    pub fn set_weather(&self, weather: Weather) {
        self.faults().weather = weather;
    }

    /// The next call of `operation` meets `fault`. Several wait in line.
    pub fn next_fault(&self, operation: Operation, fault: Fault) {
        self.faults().scripted.push_back((operation, fault));
    }

    /// The hypervisor does not answer until then; `None`: it answers again.
    pub fn away_until(&self, until: Option<Timestamp>) {
        self.faults().away_until = until;
        self.machine().wake();
    }

    /// No more faults, whatever was planned.
    pub fn calm(&self) {
        let mut faults = self.faults();
        faults.weather = Weather::default();
        faults.away_until = None;
        faults.refuse.clear();
        faults.scripted.clear();
        faults.crash = None;
    }

    /// The daemon dies there: from then on no port call ever ends, until [`revive`](Self::revive).
    pub fn crash_at(&self, point: CrashPoint) {
        self.faults().crash = Some(point);
    }

    /// Whether the daemon has died.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.faults().dead
    }

    /// Another daemon uses the server.
    pub fn revive(&self) {
        let mut faults = self.faults();
        faults.dead = false;
        faults.crash = None;
    }

    /// How many port calls there have been.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.faults().calls
    }
}
