//! Where a scenario plays: a simulated grid, and the files that are being edited.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use coppice_plans::document::{self, Document};
use coppice_plans::plan::{GateKind, Memory, Plan, Verdict, Wait};
use coppice_plans::{check, markdown, placement, plan, text};
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, ServerId};
use coppice_schema::known::{Capacity, ImageVersion, Phase, Task};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_schema::{Bundle, Digest, Known, SourceText};
use coppice_state::entry::{Commit, NewOrder};
use coppice_state::state::Happening;
use coppice_state::{Entry, Outcome, State};
use coppice_world::clock::Clock;
use coppice_world::sim::{Chance, Setup};

use crate::agreement::Logged;
use crate::world::World;

/// Passes in which a grid must settle; one that does not is told to.
const PASSES: u32 = 300;

pub(super) struct Stage {
    pub(super) world: World,
    /// When a server was last parted from the others.
    pub(super) parted: Option<Timestamp>,
    texts: String,
    /// The state that `backup` kept.
    pub(super) kept: Option<State>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            world: World::new(&mut Chance::new(7), 1, None),
            parted: None,
            texts: String::new(),
            kept: None,
        }
    }
}

fn new_world(servers: u64, sizes: &[&str]) -> Result<World, String> {
    let mut capacity = Capacity {
        disk: Size::gib(64),
        moves: None,
        ..Setup::default().capacity
    };
    for size in sizes {
        let (field, value) = size.split_once('=').ok_or("FIELD=NUMBER")?;
        let number: u32 = value.parse().map_err(|_| "not a number")?;
        match field {
            "cpus" => capacity.cpus = number,
            "memory" => capacity.memory = Size::mib(number.into()),
            "disk" => capacity.disk = Size::mib(number.into()),
            "moves" => {
                capacity.moves = (number > 0).then(|| format!("simulated {number}"));
            }
            _ => return Err("servers have cpus, memory, disk and moves".to_owned()),
        }
    }
    Ok(World::of(&mut Chance::new(7), servers, &capacity, None))
}

impl Stage {
    pub(super) fn command(&mut self, line: &str, block: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["servers", count, sizes @ ..] => {
                self.world = new_world(count.parse().map_err(|_| "not a number")?, sizes)?;
                Ok(String::new())
            }
            ["image", name, version, servers @ ..] => self.import(name, version, servers),
            ["copies", name] => Ok(self.copies(name)),
            ["replicas"] => Ok(self.replicas()),
            ["orders"] => Ok(self.orders()),
            ["remove", name, version] => self.remove(name, version),
            ["config"] => self.configure(block),
            ["edit", ..] => self.edit(line),
            ["plan"] => {
                let (_, document) = self.preview(&self.desired()?)?;
                Ok(show(&document))
            }
            ["plan", "markdown"] => {
                let (_, document) = self.preview(&self.desired()?)?;
                Ok(markdown::render(&document).replace(&document.plan_id.short(), "PLAN"))
            }
            ["rebalance" | "lose" | "lose-markdown", ..] => self.what_if(&words),
            ["apply", gates @ ..] => self.apply(gates),
            ["settle"] => self.settle(),
            ["rounds", count] => {
                for _ in 0..count.parse::<u32>().map_err(|_| "not a number")? {
                    self.pass()?;
                }
                Ok(self.desktops())
            }
            ["lead"] => {
                self.world.leader_round();
                Ok(String::new())
            }
            ["desktops"] => Ok(self.desktops()),
            ["servers"] => Ok(self.servers()),
            ["told", server] => self.told(server),
            ["takeover"] => self.takeover(),
            ["domain", desktop] => self.domain(desktop),
            ["revisions"] => Ok(self.revisions()),
            ["findings"] => self.findings(),
            ["waits"] => self.waits(),
            ["place", address] => self.place(address),
            ["drift"] => self.drift(),
            ["backup" | "restore" | "recover" | "discard", ..] => self.lives(&words),
            other => self.others(other),
        }
    }

    fn import(&mut self, name: &str, version: &str, only: &[&str]) -> Result<String, String> {
        let record = ImageVersion {
            source: Digest::of(format!("source {name} {version}").as_bytes()),
            root: Digest::of(format!("root {name} {version}").as_bytes()),
            size: Size::mib(64),
            data: Size::mib(16),
            imported: Timestamp(0),
        };
        let on = |name: &str| only.is_empty() || only.contains(&name);
        let machines = self.world.machines.iter();
        for machine in machines.filter(|machine| on(machine.name.as_str())) {
            machine.sim.put_image(record.root, record.size, record.data);
        }
        let server = self
            .world
            .log
            .state()
            .servers
            .iter()
            .find(|(_, server)| on(server.name.as_str()))
            .map(|(id, _)| *id)
            .ok_or("no server")?;
        let outcome = self.world.log.append(Entry::ImageImported {
            image: name.parse().map_err(|e| format!("{e}"))?,
            version: version.parse().map_err(|e| format!("{e}"))?,
            record,
            server,
            author: "ada".to_owned(),
        });
        self.pass()?;
        Ok(if outcome == Outcome::Done {
            String::new()
        } else {
            format!("{outcome:?}")
        })
    }

    fn remove(&mut self, name: &str, version: &str) -> Result<String, String> {
        let outcome = self.world.log.append(Entry::ImageRemoved {
            image: name.parse().map_err(|e| format!("{e}"))?,
            version: version.parse().map_err(|e| format!("{e}"))?,
            author: "ada".to_owned(),
        });
        Ok(match outcome {
            Outcome::Refused(refusal) => format!("refused: {refusal}"),
            Outcome::Done | Outcome::Already { .. } | Outcome::Committed { .. } => String::new(),
        })
    }

    fn configure(&mut self, block: &str) -> Result<String, String> {
        self.texts = block.to_owned();
        let loaded = coppice_schema::load(&self.bundle());
        let texts = self.bundle().texts;
        Ok(coppice_schema::render(
            &loaded.diagnostics,
            &texts,
            false,
            100,
        ))
    }

    fn edit(&mut self, line: &str) -> Result<String, String> {
        let change = line.trim_start_matches("edit").trim();
        let (old, new) = change.split_once("->").ok_or("OLD -> NEW")?;
        let text = |written: &str| written.trim().replace("\\n", "\n");
        let (old, new) = (text(old), text(new));
        if !self.texts.contains(&old) {
            return Err(format!("no `{old}` in the files"));
        }
        self.configure(&self.texts.replace(&old, &new))
    }

    fn bundle(&self) -> Bundle {
        let text = SourceText {
            path: "grid.hcl".to_owned(),
            text: self.texts.clone(),
        };
        Bundle {
            texts: vec![text],
            ..Bundle::default()
        }
    }

    pub(super) fn desired(&self) -> Result<Desired, String> {
        coppice_schema::load(&self.bundle())
            .desired
            .ok_or_else(|| "the configuration has errors".to_owned())
    }

    /// What is shown before it is applied: then it is reviewed.
    fn preview(&self, desired: &Desired) -> Result<(Plan, Document), String> {
        let mut known = self.world.log.state().known(self.world.log.term());
        known.runs.clear();
        self.make(desired, &known)
    }

    /// What is committed, as a round sees it.
    fn committed(&self) -> Result<(Plan, Document), String> {
        let state = self.world.log.state();
        self.make(&state.committed, &state.known(self.world.log.term()))
    }

    pub(super) fn make(
        &self,
        desired: &Desired,
        known: &Known,
    ) -> Result<(Plan, Document), String> {
        let now = self.world.clock.now();
        let plan = plan(desired, known, now);
        let violations = check(&plan, desired, known);
        if !violations.is_empty() {
            return Err(format!("the plan breaks rules: {violations:#?}"));
        }
        let document = document::of(&plan, known, &desired.grid.name, now);
        Ok((plan, document))
    }

    fn apply(&mut self, gates: &[&str]) -> Result<String, String> {
        let loaded = coppice_schema::load(&self.bundle());
        let desired = loaded.desired.ok_or("the configuration has errors")?;
        let (plan, document) = self.preview(&desired)?;
        let waits = |plan: &Plan| plan.actions.iter().any(|a| a.waits.iter().any(is_approval));
        if plan.changes.is_empty() && !waits(&self.committed()?.0) {
            return Ok("nothing to commit".to_owned());
        }
        let approved: BTreeSet<GateKind> = gates
            .iter()
            .map(|gate| {
                serde_json::from_value(serde_json::Value::from(*gate)).map_err(|e| e.to_string())
            })
            .collect::<Result<_, _>>()?;
        for gate in &plan.gates {
            let open = gate.verdict == Verdict::NeedsApproval && approved.contains(&gate.kind);
            if !open {
                return Ok(format!("refused by gate {:?}: {}", gate.kind, gate.reason));
            }
        }
        let outcome = self.world.log.append(Entry::Committed(Box::new(Commit {
            reviewed: coppice_plans::reviewed(&document, &desired),
            desired,
            texts: loaded.digest,
            base: plan.base,
            plan: document.plan_id,
            bounds: coppice_plans::plan::Bounds {
                approved,
                ..Default::default()
            },
            author: "ada".to_owned(),
            changes: plan.changes,
        })));
        Ok(match outcome {
            Outcome::Committed { revision } => format!("committed as revision {revision}"),
            Outcome::Already { revision } => format!("was committed as revision {revision}"),
            Outcome::Refused(refusal) => format!("refused: {refusal}"),
            Outcome::Done => "done".to_owned(),
        })
    }

    /// The leader, then every server, then five seconds.
    pub(super) fn pass(&mut self) -> Result<(), String> {
        if let Some(report) = self.world.leader_round()
            && !report.violations.is_empty()
        {
            return Err(format!(
                "the leader's plan breaks rules: {:#?}",
                report.violations
            ));
        }
        self.servers_round();
        for machine in &self.world.machines {
            if let Some(misuse) = machine.sim.misuse().first() {
                return Err(format!("misuse of {}: {misuse}", machine.name));
            }
        }
        self.world.pass(Span::seconds(5));
        Ok(())
    }

    /// Every server hears of what was agreed, looks and acts.
    pub(super) fn servers_round(&mut self) {
        for index in 0..self.world.machines.len() {
            if let Some(machine) = self.world.machines.get(index) {
                machine.agreement.catch_up();
            }
            self.world.server_round(index);
        }
    }

    fn settle(&mut self) -> Result<String, String> {
        for _ in 0..PASSES {
            self.pass()?;
            let (plan, _) = self.committed()?;
            if plan.is_settled() {
                return Ok(format!("settled\n{}", self.desktops()));
            }
            // What waits for a person or an hour is as settled as it gets.
            let moving = plan.actions.iter().any(|action| action.waits.is_empty());
            if !moving && plan.under_way.is_empty() && plan.next.is_none_or(|at| at > self.soon()) {
                return Ok(format!("waits\n{}", self.desktops()));
            }
        }
        Ok(format!(
            "not settled after {PASSES} passes\n{}",
            self.desktops()
        ))
    }

    fn soon(&self) -> Timestamp {
        self.world.clock.now().after(Span::minutes(10))
    }

    fn desktops(&self) -> String {
        let state = self.world.log.state();
        let mut lines = String::new();
        for (id, desktop) in state.desktops.iter() {
            let server = state
                .servers
                .get(&desktop.server)
                .map(|server| server.name.to_string());
            let server = server.unwrap_or_default();
            let why = if let Phase::Broken { reason, .. } = &desktop.phase {
                format!(" {reason:?}")
            } else {
                String::new()
            };
            let _ = writeln!(
                lines,
                "{id}@{} {server} {}{why}",
                desktop.incarnation,
                desktop.phase.word()
            );
        }
        if lines.is_empty() {
            "no desktops".to_owned()
        } else {
            lines
        }
    }

    /// How long after a server was last reached its loss was agreed on, and others were ordered in place of its desktops.
    fn takeover(&self) -> Result<String, String> {
        let parted = self.parted.ok_or("no server was parted")?;
        let entries = self.world.log.since(0);
        let after = entries.iter().filter(|logged| logged.envelope.at > parted);
        let lost = after
            .clone()
            .find(|logged| matches!(logged.envelope.entry, Entry::ServerLost { .. }));
        let grows = |order: &NewOrder| matches!(order.memory, Memory::Grown { .. });
        let grown = after.clone().find(|logged| {
            matches!(&logged.envelope.entry, Entry::Planned { orders, .. } if orders.iter().any(grows))
        });
        let when = |logged: Option<&Logged>| match logged {
            Some(logged) => format!("after {}", logged.envelope.at.since(parted)),
            None => "not yet".to_owned(),
        };
        Ok(format!(
            "lost {}, replacements ordered {}",
            when(lost),
            when(grown)
        ))
    }

    fn servers(&self) -> String {
        let state = self.world.log.state();
        let each = state.servers.iter().map(|(id, server)| {
            let here = state.desktops.values().filter(|d| d.server == *id).count();
            let part = format!("{:?}", server.state).to_lowercase();
            format!("{} {part}, {here} desktops", server.name)
        });
        each.collect::<Vec<_>>().join("\n")
    }

    /// What the history tells of a server.
    fn told(&self, server: &str) -> Result<String, String> {
        let address: Address = format!("server.{server}")
            .parse()
            .map_err(|e| format!("{e}"))?;
        let state = self.world.log.state();
        let mine = state.history.iter().filter(|event| event.about == address);
        let lines = mine.filter_map(|event| match &event.what {
            Happening::Server { what } => Some(format!("it {what}")),
            Happening::Changed { what, author } => Some(format!("it {what} ({author})")),
            Happening::Applied { .. }
            | Happening::Ordered { .. }
            | Happening::Done { .. }
            | Happening::Failed { .. }
            | Happening::Became { .. }
            | Happening::Image { .. } => None,
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// Every copy of every version of an image, by server.
    fn copies(&self, name: &str) -> String {
        let state = self.world.log.state();
        let mut lines = String::new();
        let images = state
            .images
            .iter()
            .filter(|(image, _)| image.as_str() == name);
        for (image, versions) in images {
            for (version, record) in versions {
                let copies = state.servers.values().map(|server| {
                    let look = server.look.as_ref();
                    let copy = look.and_then(|look| look.images.get(&record.root));
                    let copy = copy.map_or("absent".to_owned(), |copy| format!("{copy:?}"));
                    format!("{} {}", server.name, copy.to_lowercase())
                });
                let copies: Vec<String> = copies.collect();
                let _ = writeln!(lines, "{image}@{version}: {}", copies.join(", "));
            }
        }
        lines
    }

    /// The copies of personal desktops that servers show, and how old each is.
    fn replicas(&self) -> String {
        let state = self.world.log.state();
        let now = self.world.clock.now();
        let mut lines = String::new();
        for server in state.servers.values() {
            let look = server.look.iter().flat_map(|look| &look.replicas);
            for (member, copy) in look {
                let age = Span::minutes(now.since(copy.taken).0 / 60_000);
                let _ = writeln!(lines, "{member} on {}, {age} old", server.name);
            }
        }
        lines
    }

    /// What servers were told to copy, and whom to ask.
    fn orders(&self) -> String {
        let state = self.world.log.state();
        let name = |id: &ServerId| {
            let server = state.servers.get(id);
            server.map_or("?".to_owned(), |server| server.name.to_string())
        };
        let mut lines = String::new();
        for order in state.orders.values() {
            if let Task::CopyImage { from, .. } = &order.task {
                let from: Vec<String> = from.iter().map(name).collect();
                let _ = writeln!(lines, "{} from {}", name(&order.server), from.join(", "));
            }
        }
        if lines.is_empty() {
            "no copies are ordered".to_owned()
        } else {
            lines
        }
    }

    fn domain(&self, desktop: &str) -> Result<String, String> {
        let uuid = self.desktop(desktop)?.spec.uuid;
        let mut domains = self.world.machines.iter().flat_map(|m| m.sim.domains());
        let domain = domains
            .find(|domain| domain.uuid == uuid)
            .ok_or("no such domain")?;
        let hardware = domain.hardware.ok_or("it has no hardware")?;
        Ok(format!(
            "hostname {}\ncpus {}, memory {}, disk {}, cache {:?}",
            domain.hostname, hardware.cpus, hardware.memory, hardware.disk, hardware.cache
        ))
    }

    fn revisions(&self) -> String {
        let state = self.world.log.state();
        let kept: Vec<String> = state.revisions.keys().map(ToString::to_string).collect();
        kept.join(" ")
    }

    fn findings(&self) -> Result<String, String> {
        let (plan, _) = self.committed()?;
        let lines: Vec<String> = plan
            .findings
            .iter()
            .map(|f| format!("{}: {}", f.object, text::finding(&f.kind)))
            .collect();
        Ok(if lines.is_empty() {
            "no findings".to_owned()
        } else {
            lines.join("\n")
        })
    }

    /// What is done later, and what for.
    fn waits(&self) -> Result<String, String> {
        let (plan, _) = self.committed()?;
        let mut lines = Vec::new();
        for action in plan
            .actions
            .iter()
            .filter(|action| !action.waits.is_empty())
        {
            let (what, about) = (text::kind_word(action.kind), &action.object);
            let waits: Vec<String> = action.waits.iter().map(text::wait).collect();
            lines.push(format!("{what} {about}: {}", waits.join(", and for ")));
        }
        Ok(if lines.is_empty() {
            "nothing waits".to_owned()
        } else {
            lines.join("\n")
        })
    }

    /// Where it would go, or the next of it, and why there.
    fn place(&self, address: &str) -> Result<String, String> {
        let address = address.parse().map_err(|e| format!("{e}"))?;
        let state = self.world.log.state();
        let known = state.known(self.world.log.term());
        let placement = placement(&state.committed, &known, &address);
        let mut lines = String::new();
        for candidate in placement.ok_or("it is not placed")?.candidates {
            let shares = candidate.shares;
            let whole = |share: u64| share / 10_000;
            let _ = write!(
                lines,
                "{} {} %: cpus {} %, memory {} %, disk {} %, sessions {} %",
                candidate.server,
                whole(candidate.dominant),
                whole(shares.cpus),
                whole(shares.memory),
                whole(shares.disk),
                whole(shares.sessions)
            );
            let here = candidate.here.then(|| "it is here".to_owned());
            let chosen = candidate.chosen.then(|| "chosen".to_owned());
            let lacks = candidate.lacks.map(|lack| lack.detail());
            for word in here.into_iter().chain(chosen).chain(lacks) {
                let _ = write!(lines, "; {word}");
            }
            lines.push('\n');
        }
        Ok(lines)
    }

    fn drift(&self) -> Result<String, String> {
        let (_, mut document) = self.committed()?;
        if document.drift.is_empty() {
            return Ok("no drift".to_owned());
        }
        document.findings.clear();
        Ok(show(&document))
    }
}

fn is_approval(wait: &Wait) -> bool {
    matches!(wait, Wait::Approval { .. })
}

/// The document's text. Its number depends on every word of it, and says nothing to a reader.
pub(super) fn show(document: &Document) -> String {
    text_of(document).replace(&document.plan_id.short(), "PLAN")
}

pub(super) fn text_of(document: &Document) -> String {
    let options = text::Options {
        colour: false,
        detail: text::Detail::Normal,
    };
    text::render(document, options)
}
