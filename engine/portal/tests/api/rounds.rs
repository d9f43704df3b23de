//! What the rest of the grid does after an apply: rounds of a leader and of an ideal server.

use std::collections::BTreeMap;

use coppice_portal::api::{Bundle, SourceText};
use coppice_schema::Digest;
use coppice_schema::ids::{Member, Stamp};
use coppice_schema::known::{
    CopyState, DesktopSpec, DiskLevel, GuestState, Health, ImageVersion, PowerState, Seen,
    SeenDomain, SeenOverlay, Task,
};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::Agreement;
use coppice_state::entry::{Attempt, Entry, NewOrder, Outcome, Report};
use coppice_world::clock::Clock;

use crate::world::{TERM, World};

/// A configuration with pool `lab` of so many desktops, and whatever else is to be in it.
pub(crate) fn bundle(desktops: u32, more: &str) -> Bundle {
    let text = format!(
        r#"
        image "tiny" {{
          version = "1"
          os      = "linux"
        }}
        template "small" {{
          image   = image.tiny
          cpus    = 1
          memory  = "96MiB"
          display = ["vnc"]
        }}
        pool "lab" {{
          template = template.small
          desktops = {desktops}
        }}
        {more}
        "#
    );
    of_text(&text)
}

pub(crate) fn of_text(text: &str) -> Bundle {
    let path = "main.hcl".to_owned();
    let text = text.to_owned();
    Bundle {
        texts: vec![SourceText { path, text }],
        ..Default::default()
    }
}

impl World {
    /// Version 1 of image `tiny` is in the catalogue and on the server.
    pub(crate) fn import_tiny(&self) {
        let root = Digest([7; 32]);
        let record = ImageVersion {
            source: Digest([6; 32]),
            root,
            size: Size::mib(64),
            data: Size::mib(16),
            imported: Timestamp(0),
        };
        self.grid.agree(Entry::ImageImported {
            image: "tiny".parse().unwrap(),
            version: "1".parse().unwrap(),
            record,
            server: self.grid.server(),
            author: "test".to_owned(),
        });
        self.grid.report([(root, Some(CopyState::Verified))].into());
    }

    /// Rounds until nothing is left to do; `users` people are signed in at each desktop then.
    pub(crate) fn settle(&self, users: u32) {
        for _ in 0..20 {
            let state = self.grid.now();
            let known = state.known(TERM);
            let plan = coppice_plans::plan(&state.committed, &known, self.clock.now());
            if plan.is_settled() {
                return;
            }
            let due = plan.actions.iter().filter(|action| action.waits.is_empty());
            let orders = due.filter_map(|action| Some((action.server?, action.step.clone()?)));
            let now = self.clock.now();
            let orders = orders.map(|(server, step)| NewOrder {
                server,
                task: step.task,
                not_before: now,
                deadline: now.after(Span::hours(1)),
                memory: step.memory,
            });
            let planned = Entry::Planned {
                term: 0,
                orders: orders.collect(),
                findings: plan.remembered(),
                settled: plan.is_settled(),
                base: plan.base,
            };
            assert_eq!(self.grid.agree(planned), Outcome::Done);
            self.carry_out(users);
            self.clock.pass(Span::seconds(5));
        }
        panic!("the grid does not settle");
    }

    fn carry_out(&self, users: u32) {
        let mut members: BTreeMap<Member, Option<Seen>> = BTreeMap::new();
        let orders = self.grid.local().orders.clone();
        for (stamp, order) in orders.iter() {
            if let Task::Create { spec, .. } = &order.task {
                let seen = seen(spec, *stamp, users, self.clock.now());
                members.insert(spec.member.clone(), Some(seen));
            } else if let Task::Remove { member } = &order.task {
                members.insert(member.clone(), None);
            } else {
                panic!("no test asks for that: {:?}", order.task);
            }
            self.grid.agree(Entry::Receipt {
                server: order.server,
                stamp: *stamp,
                result: Attempt::Done,
            });
        }
        self.report(members);
    }

    /// Somebody removes the overlay of the first desktop, and its server sees it.
    pub(crate) fn lose_overlay(&self) {
        let look = self.grid.now().servers[&self.grid.server()]
            .look
            .clone()
            .unwrap();
        let (member, seen) = look.members.first_key_value().unwrap();
        let seen = Seen {
            overlay: None,
            ..seen.clone()
        };
        self.report([(member.clone(), Some(seen))].into());
    }

    fn report(&self, members: BTreeMap<Member, Option<Seen>>) {
        let server = self.grid.server();
        let look = self.grid.now().servers[&server].look.clone().unwrap();
        let reported = self.grid.agree(Entry::Reported(Box::new(Report {
            server,
            boot: look.boot,
            sequence: look.sequence + 1,
            members,
            images: BTreeMap::new(),
            foreign: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            replicas: BTreeMap::new(),
            disk: DiskLevel::Fine,
            hypervisor: Health::Well,
        })));
        assert_eq!(reported, Outcome::Done);
    }
}

fn seen(spec: &DesktopSpec, stamp: Stamp, users: u32, since: Timestamp) -> Seen {
    Seen {
        domain: Some(SeenDomain {
            uuid: spec.uuid,
            stamp,
            power: PowerState::Running { since },
            spec: spec.clone(),
            guest: GuestState::Answers {
                hostname: spec.hostname.clone(),
                users: Some(users),
            },
            stale_until_reboot: false,
            guarded: false,
            viewers: None,
        }),
        overlay: Some(SeenOverlay {
            image: spec.image,
            sound: true,
            stamp,
            over_limit: false,
            bulk: 0,
        }),
    }
}
