//! A grid of one ideal server: every order is done at once, every guest answers at once.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::document;
use coppice_plans::plan::{Action, Bounds, Plan};
use coppice_schema::Digest;
use coppice_schema::desired::*;
use coppice_schema::ids::*;
use coppice_schema::known::*;
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::{Attempt, Commit, NewOrder, NewServer, Report};
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, Outcome, State, apply};

pub(crate) const GRID: GridId = GridId([7; 16]);
pub(crate) const TERM: u64 = 2;

pub(crate) struct Grid {
    pub(crate) state: State,
    pub(crate) log: Vec<Envelope>,
    pub(crate) now: Timestamp,
    pub(crate) world: BTreeMap<Member, Seen>,
    pub(crate) reported: BTreeMap<Member, Seen>,
    pub(crate) sequence: u64,
    pub(crate) server: ServerId,
}

pub(crate) fn root() -> Digest {
    Digest::of(b"stored tiny 1")
}

impl Grid {
    pub(crate) fn founded() -> Self {
        let mut grid = Self {
            state: State::default(),
            log: Vec::new(),
            now: Timestamp(1_700_000_000_000),
            world: BTreeMap::new(),
            reported: BTreeMap::new(),
            sequence: 0,
            server: ServerId(1),
        };
        let name: ServerName = "s1".parse().unwrap();
        let token = Token {
            hash: Digest([1; 32]),
            scope: Scope::Admin,
            created: Timestamp(0),
            expires: None,
        };
        let epoch = Epoch {
            number: 1,
            recovery: 0,
        };
        let server = NewServer {
            name,
            raft_id: 1,
            api: "127.0.0.1:1".to_owned(),
        };
        grid.propose(Entry::Founded {
            grid: GRID,
            epoch,
            server,
            token: (TokenId("admin".to_owned()), token),
        });
        let capacity = Capacity {
            cpus: 8,
            memory: Size::gib(64),
            disk: Size::gib(100),
            ..Capacity::default()
        };
        grid.propose(Entry::ServerDescribed {
            server: grid.server,
            labels: BTreeSet::new(),
            capacity,
            api: "127.0.0.1:1".to_owned(),
            feature_level: 1,
        });
        grid.import("1", root());
        grid.report();
        grid
    }

    /// A grid that has become what `desired` asks for.
    pub(crate) fn settled(desired: &Desired) -> Self {
        let mut grid = Self::founded();
        let outcome = grid.commit(desired);
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        grid.settle();
        grid
    }

    pub(crate) fn import(&mut self, version: &str, root: Digest) {
        let record = ImageVersion {
            source: Digest::of(version.as_bytes()),
            root,
            size: Size::mib(64),
            data: Size::mib(16),
            imported: Timestamp(0),
        };
        self.propose(Entry::ImageImported {
            image: "tiny".parse().unwrap(),
            version: version.parse().unwrap(),
            record,
            server: self.server,
            author: "test".to_owned(),
        });
    }

    pub(crate) fn propose(&mut self, entry: Entry) -> Outcome {
        let envelope = Envelope {
            at: self.now,
            entry,
        };
        self.log.push(envelope.clone());
        let index = u64::try_from(self.log.len()).unwrap();
        apply(&mut self.state, TERM, index, &envelope)
    }

    pub(crate) fn report(&mut self) {
        self.sequence += 1;
        let mut members: BTreeMap<Member, Option<Seen>> = BTreeMap::new();
        for gone in self
            .reported
            .keys()
            .filter(|member| !self.world.contains_key(*member))
        {
            members.insert(gone.clone(), None);
        }
        for (member, seen) in self
            .world
            .iter()
            .filter(|(member, seen)| self.reported.get(*member) != Some(*seen))
        {
            members.insert(member.clone(), Some(seen.clone()));
        }
        self.reported = self.world.clone();
        let images = self
            .state
            .images
            .values()
            .flatten()
            .map(|(_, v)| (v.root, Some(CopyState::Verified)))
            .collect();
        let outcome = self.propose(Entry::Reported(Box::new(Report {
            server: self.server,
            boot: 1,
            sequence: self.sequence,
            members,
            images,
            foreign: BTreeMap::new(),
            quarantine: Default::default(),
            replicas: Default::default(),
            disk: DiskLevel::Fine,
            hypervisor: Health::Well,
        })));
        assert_eq!(outcome, Outcome::Done);
    }

    pub(crate) fn plan_for(&self, desired: &Desired) -> Plan {
        let known = self.state.known(TERM);
        let plan = coppice_plans::plan(desired, &known, self.now);
        assert_eq!(coppice_plans::check(&plan, desired, &known), vec![]);
        plan
    }

    pub(crate) fn commit(&mut self, desired: &Desired) -> Outcome {
        let plan = self.plan_for(desired);
        self.commit_plan(desired, plan)
    }

    pub(crate) fn commit_plan(&mut self, desired: &Desired, plan: Plan) -> Outcome {
        let id = Digest::of(&serde_json::to_vec(&plan).unwrap());
        let document = document::of(&plan, &self.state.known(TERM), "grid", self.now);
        self.propose(Entry::Committed(Box::new(Commit {
            desired: desired.clone(),
            texts: Digest([0; 32]),
            base: plan.base,
            plan: id,
            reviewed: coppice_plans::reviewed(&document, desired),
            bounds: Bounds::default(),
            author: "ada".to_owned(),
            changes: plan.changes,
        })))
    }

    /// A plan that was kept, to be applied later.
    pub(crate) fn saved(&self, desired: &Desired, author: &str) -> Entry {
        let plan = self.plan_for(desired);
        Entry::Committed(Box::new(Commit {
            desired: desired.clone(),
            texts: Digest([0; 32]),
            base: plan.base,
            plan: Digest([9; 32]),
            reviewed: Vec::new(),
            bounds: Bounds::default(),
            author: author.to_owned(),
            changes: plan.changes,
        }))
    }

    /// One round of leader and server. Returns how many orders were given.
    pub(crate) fn round(&mut self) -> usize {
        let committed = self.state.committed.as_ref().clone();
        let plan = self.plan_for(&committed);
        let due = plan.actions.iter().filter(|action| action.waits.is_empty());
        let orders: Vec<NewOrder> = due
            .filter_map(|action| Some((action.server?, action.step.clone()?)))
            .map(|(server, step)| NewOrder {
                server,
                task: step.task,
                not_before: self.now,
                deadline: self.now.after(Span::minutes(10)),
                memory: step.memory,
            })
            .collect();
        let count = orders.len();
        let (findings, settled) = (plan.remembered(), plan.is_settled());
        let outcome = self.propose(Entry::Planned {
            term: 0,
            base: plan.base,
            orders,
            findings,
            settled,
        });
        assert_eq!(outcome, Outcome::Done);
        self.carry_out();
        // As a server does: what was done is seen before it is said to be done.
        self.report();
        self.acknowledge();
        self.now = self.now.after(Span::seconds(5));
        count
    }

    /// Does what was ordered; nobody hears of it yet.
    pub(crate) fn carry_out(&mut self) {
        let open = self.state.orders.clone();
        for (stamp, order) in open.iter() {
            self.act(*stamp, &order.task);
        }
    }

    /// Says that everything ordered was done.
    pub(crate) fn acknowledge(&mut self) {
        let stamps: Vec<Stamp> = self.state.orders.keys().copied().collect();
        for stamp in stamps {
            self.propose(Entry::Receipt {
                server: self.server,
                stamp,
                result: Attempt::Done,
            });
        }
    }

    /// Gives one order, and nobody carries it out yet.
    pub(crate) fn order(&mut self, action: &Action) {
        let step = action.step.clone().unwrap();
        let order = NewOrder {
            server: action.server.unwrap(),
            task: step.task,
            not_before: self.now,
            deadline: self.now.after(Span::minutes(10)),
            memory: step.memory,
        };
        let outcome = self.propose(Entry::Planned {
            term: 0,
            base: Default::default(),
            orders: vec![order],
            findings: BTreeSet::new(),
            settled: false,
        });
        assert_eq!(outcome, Outcome::Done);
    }

    fn act(&mut self, stamp: Stamp, task: &Task) {
        let running = PowerState::Running { since: self.now };
        match task {
            Task::Create { spec, start } => {
                let power = if *start { running } else { PowerState::Off };
                let overlay = SeenOverlay {
                    image: spec.image,
                    sound: true,
                    stamp,
                    over_limit: false,
                    bulk: 0,
                };
                let seen = Seen {
                    domain: Some(domain(spec, stamp, power)),
                    overlay: Some(overlay),
                };
                self.world.insert(spec.member.clone(), seen);
            }
            Task::Restore { .. } => panic!("these grids have no copies"),
            Task::Redefine { spec } => {
                let seen = self.world.get_mut(&spec.member).unwrap();
                let power = seen
                    .domain
                    .as_ref()
                    .map_or(PowerState::Off, |domain| domain.power.clone());
                let stale = seen
                    .domain
                    .as_ref()
                    .is_some_and(|d| d.spec != *spec && power != PowerState::Off);
                let mut domain = domain(spec, stamp, power);
                domain.stale_until_reboot = stale;
                seen.domain = Some(domain);
            }
            Task::Start { member } | Task::Restart { member, .. } => {
                let domain = self.domain(member);
                *domain = super::grid::domain(&domain.spec.clone(), stamp, running);
            }
            Task::Stop { member } => {
                let domain = self.domain(member);
                *domain = super::grid::domain(&domain.spec.clone(), stamp, PowerState::Off);
            }
            Task::Remove { member } => {
                self.world.remove(member);
            }
            Task::VerifyImage { .. }
            | Task::DropImage { .. }
            | Task::CopyImage { .. }
            | Task::Receive { .. }
            | Task::Send { .. }
            | Task::Enter { .. }
            | Task::Stay { .. } => {}
        }
    }

    /// Rounds until nothing is left to do.
    pub(crate) fn settle(&mut self) -> usize {
        for round in 0..100 {
            self.round();
            let committed = self.state.committed.as_ref().clone();
            if self.plan_for(&committed).is_settled() {
                return round + 1;
            }
        }
        let committed = self.state.committed.as_ref().clone();
        panic!("not settled: {:#?}", self.plan_for(&committed));
    }

    /// The domain of `member`, for another hand.
    pub(crate) fn domain(&mut self, member: &Member) -> &mut SeenDomain {
        let seen = self.world.get_mut(member).unwrap();
        seen.domain.as_mut().unwrap()
    }

    pub(crate) fn count(&self, test: impl Fn(&KnownDesktop) -> bool) -> usize {
        let desktops = self.state.desktops.values();
        desktops.filter(|desktop| test(desktop)).count()
    }

    pub(crate) fn phases(&self) -> Vec<String> {
        self.state
            .desktops
            .iter()
            .map(|(id, d)| format!("{id}@{} {}", d.incarnation, d.phase.word()))
            .collect()
    }
}

fn domain(spec: &DesktopSpec, stamp: Stamp, power: PowerState) -> SeenDomain {
    let guest = match power {
        PowerState::Running { .. } => GuestState::Answers {
            hostname: spec.hostname.clone(),
            users: Some(0),
        },
        PowerState::Off | PowerState::Paused(_) | PowerState::Crashed => GuestState::Silent,
    };
    SeenDomain {
        uuid: spec.uuid,
        stamp,
        power,
        spec: spec.clone(),
        guest,
        stale_until_reboot: false,
        guarded: false,
        viewers: None,
    }
}

pub(crate) fn config(desktops: u32) -> Desired {
    let mut desired = Desired::default();
    let image: ImageName = "tiny".parse().unwrap();
    let template: TemplateName = "desk".parse().unwrap();
    desired.images.insert(
        image.clone(),
        Image {
            origin: Origin::Version("1".parse().unwrap()),
            digest: None,
            os: Os::Linux,
            copies: Copies::All,
            keep: 2,
            agent: true,
            ready_after: None,
            update: None,
            protect: false,
        },
    );
    desired.templates.insert(
        template.clone(),
        Template {
            image,
            cpus: 1,
            memory: Size::mib(96),
            disk: None,
            disk_limit: None,
            firmware: Firmware::Bios,
            tpm: false,
            networks: vec![],
            displays: BTreeSet::from([Display::Vnc]),
            video: None,
            cache: None,
            guest: None,
            libvirt_xml: None,
        },
    );
    desired.pools.insert(
        "lab".parse().unwrap(),
        Pool {
            template,
            desktops,
            slots: None,
            hostname: HostnamePattern("{pool}-{slot:02}".to_owned()),
            assignment: Assignment::Pooled,
            policies: vec![],
            policy: Policy::default(),
            entitled: vec![],
            hours: None,
            servers: BTreeSet::new(),
            copies: 0,
            max_copy_age: None,
            bookings: BTreeMap::new(),
            protect: false,
        },
    );
    desired
}

pub(crate) fn pool(desired: &mut Desired) -> &mut Pool {
    desired.pools.values_mut().next().unwrap()
}

pub(crate) fn template(desired: &mut Desired) -> &mut Template {
    desired.templates.values_mut().next().unwrap()
}
