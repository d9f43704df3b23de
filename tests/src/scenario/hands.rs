//! What others do: people at a hypervisor, faults, and people who ask.

use coppice_schema::Digest;
use coppice_schema::ids::{Address, DesktopId, ServerId, Stamp};
use coppice_schema::known::{KnownDesktop, Request, ServerState};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::{Entry, Outcome};
use coppice_world::clock::Clock;
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{Fault, Operation, SimServer};
use coppice_world::watchdog::WatchdogError;
use std::sync::Arc;

use super::stage::Stage;
use crate::world::Machine;

impl Stage {
    fn watchdog(&mut self, server: &str, why: Option<WatchdogError>) -> Result<String, String> {
        let index = self.index(server)?;
        let machine = self.world.machines.get(index).ok_or("no such server")?;
        machine.sim.break_watchdog(why);
        Ok(String::new())
    }

    pub(super) fn others(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["kill", "server", server] => self.part(server, true),
            ["cut", server] => self.part(server, false),
            ["cordon", server] => self.set(server, ServerState::Cordoned),
            ["uncordon" | "undrain", server] => self.set(server, ServerState::Ready),
            ["skew", server, seconds] => {
                let seconds: i64 = seconds.parse().map_err(|_| "not a number")?;
                let raft_id = u64::try_from(self.index(server)?).map_err(|e| e.to_string())? + 1;
                self.world.log.skew(raft_id, seconds * 1_000);
                Ok(String::new())
            }
            ["drain", server] => self.drain(server, None),
            ["drain", server, span] => self.drain(server, Some(read_span(span)?)),
            ["screen", desktop, count] => {
                let viewers: u32 = count.parse().map_err(|_| "not a number")?;
                self.meddle(desktop, |sim, d| sim.open_screen(d.spec.uuid, viewers))
            }
            ["kill", desktop] => self.meddle(desktop, |sim, d| sim.kill(d.spec.uuid)),
            ["off", desktop] => self.meddle(desktop, |sim, d| sim.switch_off(d.spec.uuid)),
            ["mute", desktops @ ..] => {
                for desktop in desktops {
                    self.touch(desktop, |sim, d| sim.mute(d.spec.uuid))?;
                }
                self.look()
            }
            ["people", desktop, count] => {
                let users: u32 = count.parse().map_err(|_| "not a number")?;
                self.meddle(desktop, |sim, d| sim.sign_in(d.spec.uuid, users))
            }
            ["undefine", desktop] => {
                self.meddle(desktop, |sim, d| sim.undefine_by_hand(d.spec.uuid))
            }
            ["unlink", desktop] => self.meddle(desktop, |sim, d| {
                // A file can be unlinked while it is used; the guest ends when it is next read.
                sim.kill(d.spec.uuid);
                sim.delete_overlay(&d.spec.member);
            }),
            ["change", desktop, change] => self.change(desktop, change),
            ["foreign", name] => self.foreign(name, 0),
            ["foreign", name, server] => {
                let index = self.index(server)?;
                self.foreign(name, index)
            }
            ["spoil", name, version] => {
                self.image(name, version, |sim, root| sim.spoil_image(root, true))
            }
            ["spoil", name, version, server] => {
                self.image_on(name, version, server, |sim, root| {
                    sim.spoil_image(root, true)
                })
            }
            ["lose-copy", name, version, server] => {
                self.image_on(name, version, server, SimServer::delete_image)
            }
            ["watchdog", server, "gone"] => {
                let why = WatchdogError::Away("it was killed".to_owned());
                self.watchdog(server, Some(why))
            }
            ["watchdog", server, "back"] => self.watchdog(server, None),
            ["wire", from, to, "cut"] => self.wire(from, to, true),
            ["wire", from, to, "whole"] => self.wire(from, to, false),
            ["fill", percent, server] => self.fill(percent, Some(server)),
            ["dead", name, version] => {
                self.image(name, version, |sim, root| sim.silence_image(root, true))
            }
            ["mended", name, version] => {
                self.image(name, version, |sim, root| sim.silence_image(root, false))
            }
            ["spoil", desktop] => self.meddle(desktop, |sim, d| sim.spoil_overlay(&d.spec.member)),
            ["grow", desktop, mib] => {
                let mib = mib.parse().map_err(|_| "not a number")?;
                let grown = Size::mib(mib);
                self.meddle(desktop, |sim, d| sim.grow_overlay(&d.spec.member, grown))
            }
            ["stray", member] => self.stray(member),
            ["fill", percent] => self.fill(percent, None),
            ["away", server] => self.away(server, Some(Timestamp(u64::MAX))),
            ["back", server] => {
                let index = self.index(server)?;
                self.world.join(index);
                self.away(server, None)
            }
            ["slow", server, operation, span] => self.slow(server, operation, span),
            ["crash", server] => {
                let index = self.index(server)?;
                self.machine(index)?.restart();
                self.look()
            }
            ["elect", server] => {
                let index = self.index(server)?;
                self.world
                    .log
                    .elect(u64::try_from(index).map_err(|e| e.to_string())? + 1);
                Ok(String::new())
            }
            ["restart", desktop] => self.ask(desktop, Request::Restart),
            ["regrow", desktop] => self.ask(desktop, Request::Regrow),
            ["pause", address] => self.pause(address, None),
            ["pause", address, until] => {
                let until = self.world.clock.now().after(read_span(until)?);
                self.pause(address, Some(until))
            }
            ["resume", address] => {
                let address = self.address(address)?;
                Ok(said(&self.world.log.append(Entry::Resumed {
                    address,
                    author: "ada".to_owned(),
                })))
            }
            ["turn-back", span] => {
                self.world.clock.turn_back(read_span(span)?);
                Ok(String::new())
            }
            ["wait", span] => self.wait(span),
            ["live", span] => {
                self.world.live(read_span(span)?);
                self.look()
            }
            _ => Err("no such command".to_owned()),
        }
    }

    pub(super) fn desktop(&self, desktop: &str) -> Result<KnownDesktop, String> {
        let id: DesktopId = desktop.parse().map_err(|e| format!("{e}"))?;
        self.world
            .log
            .state()
            .desktops
            .get(&id)
            .cloned()
            .ok_or_else(|| format!("no desktop {id}"))
    }

    fn address(&self, text: &str) -> Result<Address, String> {
        text.parse().map_err(|e| format!("{e}"))
    }

    fn index(&self, server: &str) -> Result<usize, String> {
        let found = self
            .world
            .machines
            .iter()
            .position(|machine| machine.name.as_str() == server);
        found.ok_or_else(|| format!("no server {server}"))
    }

    fn machine(&mut self, index: usize) -> Result<&mut Machine, String> {
        self.world
            .machines
            .get_mut(index)
            .ok_or_else(|| "no such server".to_owned())
    }

    /// Servers look, so that the next command sees what was done.
    pub(super) fn look(&mut self) -> Result<String, String> {
        self.servers_round();
        Ok(String::new())
    }

    fn meddle(
        &mut self,
        desktop: &str,
        act: impl FnOnce(&Arc<SimServer>, &KnownDesktop),
    ) -> Result<String, String> {
        self.touch(desktop, act)?;
        self.look()
    }

    fn touch(
        &self,
        desktop: &str,
        act: impl FnOnce(&Arc<SimServer>, &KnownDesktop),
    ) -> Result<(), String> {
        let known = self.desktop(desktop)?;
        let log = Arc::clone(&self.world.log);
        let home = self
            .world
            .machines
            .iter()
            .find(|machine| machine.id(&log) == Some(known.server));
        act(&home.ok_or("its server is not here")?.sim, &known);
        Ok(())
    }

    fn change(&mut self, desktop: &str, change: &str) -> Result<String, String> {
        let (field, value) = change.split_once('=').ok_or("FIELD=VALUE")?;
        let number: u32 = value.parse().map_err(|_| "not a number")?;
        let (cpus, memory) = (field == "cpus", field == "memory");
        if !cpus && !memory {
            return Err("only cpus and memory can be changed".to_owned());
        }
        self.meddle(desktop, |sim, known| {
            sim.redefine_by_hand(known.spec.uuid, |hardware| {
                if cpus {
                    hardware.cpus = number;
                } else {
                    hardware.memory = Size::mib(u64::from(number));
                }
            });
        })
    }

    fn foreign(&mut self, name: &str, index: usize) -> Result<String, String> {
        let mut bytes = [0; 16];
        bytes
            .iter_mut()
            .zip(name.bytes())
            .for_each(|(to, from)| *to = from);
        let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        self.machine(index)?.sim.define_foreign(name, uuid, None);
        self.look()
    }

    fn image(
        &mut self,
        name: &str,
        version: &str,
        act: impl Fn(&SimServer, Digest),
    ) -> Result<String, String> {
        let root = self.root(name, version)?;
        self.world
            .machines
            .iter()
            .for_each(|machine| act(&machine.sim, root));
        self.look()
    }

    fn image_on(
        &mut self,
        name: &str,
        version: &str,
        server: &str,
        act: impl Fn(&SimServer, Digest),
    ) -> Result<String, String> {
        let root = self.root(name, version)?;
        let index = self.index(server)?;
        act(&self.machine(index)?.sim, root);
        self.look()
    }

    /// Nothing new gets from one to the other any more, or does again.
    fn wire(&mut self, from: &str, to: &str, cut: bool) -> Result<String, String> {
        let id = |index: usize| u64::try_from(index).map(|n| ServerId(n + 1));
        let ends = (id(self.index(from)?), id(self.index(to)?));
        if let (Ok(from), Ok(to)) = ends {
            self.world.wires.cut(from, to, cut);
        }
        Ok(String::new())
    }

    fn root(&self, name: &str, version: &str) -> Result<Digest, String> {
        let state = self.world.log.state();
        let all = state
            .images
            .iter()
            .find(|(image, _)| image.as_str() == name);
        let record = all.and_then(|(_, all)| all.iter().find(|(v, _)| v.as_str() == version));
        Ok(record.ok_or("no such image")?.1.root)
    }

    fn fill(&mut self, percent: &str, server: Option<&str>) -> Result<String, String> {
        let percent: u64 = percent
            .trim_end_matches('%')
            .parse()
            .map_err(|_| "not a number")?;
        let here = |machine: &&Machine| server.is_none_or(|server| machine.name.as_str() == server);
        for machine in self.world.machines.iter().filter(here) {
            let all = machine.sim.setup().capacity.disk.0;
            machine.sim.others_use(Size(all / 100 * percent));
        }
        self.look()
    }

    fn part(&mut self, server: &str, power: bool) -> Result<String, String> {
        let index = self.index(server)?;
        self.parted = Some(self.world.clock.now());
        if self.world.part(index, power) {
            Ok(String::new())
        } else {
            Err("it is the last one that can be reached".to_owned())
        }
    }

    fn member(&self, server: &str) -> Result<ServerId, String> {
        let machine = self.world.machines.get(self.index(server)?);
        let id = machine.and_then(|machine| machine.id(&self.world.log));
        id.ok_or_else(|| "it is no member".to_owned())
    }

    fn set(&mut self, server: &str, state: ServerState) -> Result<String, String> {
        let server = self.member(server)?;
        Ok(said(&self.world.log.append(Entry::ServerSet {
            server,
            state,
            author: "ada".to_owned(),
        })))
    }

    fn drain(&mut self, server: &str, force_after: Option<Span>) -> Result<String, String> {
        let server = self.member(server)?;
        Ok(said(&self.world.log.append(Entry::ServerDrained {
            server,
            force_after,
            author: "ada".to_owned(),
        })))
    }

    fn away(&mut self, server: &str, until: Option<Timestamp>) -> Result<String, String> {
        let index = self.index(server)?;
        self.machine(index)?.sim.away_until(until);
        self.look()
    }

    /// Nobody looks afterwards: what is slow is still to be asked for.
    fn slow(&mut self, server: &str, operation: &str, span: &str) -> Result<String, String> {
        let operation = match operation {
            "start" => Operation::Start,
            "stop" => Operation::Stop,
            "define" => Operation::Define,
            _ => return Err("the operation is start, stop or define".to_owned()),
        };
        let (index, span) = (self.index(server)?, read_span(span)?);
        let sim = &self.machine(index)?.sim;
        sim.next_fault(operation, Fault::Slow(span));
        Ok(String::new())
    }

    fn ask(
        &mut self,
        desktop: &str,
        request: impl FnOnce(coppice_schema::ids::Member) -> Request,
    ) -> Result<String, String> {
        let member = self.desktop(desktop)?.spec.member;
        let entry = Entry::Requested {
            request: request(member),
            author: "ada".to_owned(),
        };
        Ok(said(&self.world.log.append(entry)))
    }

    fn pause(&mut self, address: &str, until: Option<Timestamp>) -> Result<String, String> {
        let address = self.address(address)?;
        let author = "ada".to_owned();
        let entry = Entry::Paused {
            address,
            until,
            author,
        };
        Ok(said(&self.world.log.append(entry)))
    }

    /// A disk of a life that the grid does not have.
    fn stray(&mut self, member: &str) -> Result<String, String> {
        let state = self.world.log.state();
        let versions = state.images.values().flat_map(|all| all.values());
        let mark = Mark {
            grid: self.world.grid,
            epoch: state.epoch,
            member: member.parse().map_err(|e| format!("{e}"))?,
            image: versions.last().ok_or("no image")?.root,
            stamp: Stamp::default(),
        };
        self.machine(0)?.sim.leave_overlay(mark, Size::mib(64));
        self.look()
    }

    fn wait(&mut self, span: &str) -> Result<String, String> {
        let span = read_span(span)?;
        self.world.pass(span);
        self.pass()?;
        Ok(String::new())
    }
}

fn read_span(text: &str) -> Result<Span, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or("a number and a unit")?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "not a number")?;
    match unit {
        "s" => Ok(Span::seconds(number)),
        "m" => Ok(Span::minutes(number)),
        "h" => Ok(Span::hours(number)),
        "d" => Ok(Span::hours(number * 24)),
        _ => Err("the unit is s, m, h or d".to_owned()),
    }
}

pub(super) fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. } => String::new(),
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
    }
}
