//! What people do to servers in a storm.

use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Incarnation, Member, ServerId, Stamp};
use coppice_schema::known::{Request, ServerState};
use coppice_schema::units::{Size, Span};
use coppice_state::Entry;
use coppice_world::clock::Clock;
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{SimDomain, SimServer};
use uuid::Uuid;

use super::Storm;
use crate::configs;
use crate::judge::Verdict;

/// Whether a desktop there is a clone of the image.
fn cloned(sim: &SimServer, root: Digest) -> bool {
    let mut overlays = sim.overlay_files().into_iter();
    overlays.any(|(_, overlay)| overlay.mark.is_some_and(|mark| mark.image == root))
}

impl Storm {
    /// Something happens to a server as a whole, or a person decides about it.
    pub(super) fn fate(&mut self, index: usize) -> Verdict {
        let machine = self.world.machines.get(index);
        let Some((name, id)) = machine.and_then(|m| Some((m.name.clone(), m.id(&self.world.log)?)))
        else {
            return Ok(());
        };
        let author = "test".to_owned();
        let set = |server, state, author| Entry::ServerSet {
            server,
            state,
            author,
        };
        let power = self.chance.per_mille(500);
        let away = !self.world.reaches(index);
        if !away && !power {
            self.somebody_asks(id);
            self.leader_round()?;
        }
        let what = match self.chance.below(8) {
            0..=2 if away => {
                self.world.join(index);
                "is reached again"
            }
            // In the dark nobody can tell.
            3 | 4 if away => "is away",
            0..=3 if self.world.part(index, power) => {
                if power {
                    "loses its power"
                } else {
                    "is out of reach"
                }
            }
            4 => {
                self.world
                    .log
                    .append(set(id, ServerState::Cordoned, author));
                "is cordoned"
            }
            5 | 6 => {
                self.somebody_comes(index)?;
                let force = self.chance.per_mille(300);
                let minutes = self.chance.between(0, 60);
                self.world.log.append(Entry::ServerDrained {
                    server: id,
                    force_after: force.then(|| Span::minutes(minutes)),
                    author,
                });
                "is to be emptied"
            }
            _ => {
                self.world.log.append(set(id, ServerState::Ready, author));
                "is to be ready"
            }
        };
        self.note(format!("{name} {what}"));
        // What it was told just before it does not begin when nobody can take it back.
        if what == "is out of reach" {
            self.server_round(index)?;
        }
        if what == "is to be emptied" {
            self.go_on()?;
        }
        Ok(())
    }

    /// A few passes in which nothing else happens.
    fn go_on(&mut self) -> Verdict {
        for _ in 0..4 {
            self.leader_round()?;
            for index in 0..self.world.machines.len() {
                self.server_round(index)?;
            }
            self.world.pass(Span::seconds(10));
        }
        Ok(())
    }

    /// A person wants a desktop of a server to be restarted.
    fn somebody_asks(&mut self, server: ServerId) {
        let state = self.world.log.state();
        let here = state.desktops.values().filter(|d| d.server == server);
        let here: Vec<Member> = here.map(|desktop| desktop.spec.member.clone()).collect();
        if let Some(member) = self.chance.pick(&here) {
            self.note(format!("a restart of {member} is asked for"));
            self.world.log.append(Entry::Requested {
                request: Request::Restart(member.clone()),
                author: "test".to_owned(),
            });
        }
    }

    /// A person lets desktops move: what is worth it, or else whatever they like to a server that they like.
    pub(super) fn somebody_levels(&mut self, index: usize) -> Verdict {
        let machine = self.world.machines.get(index);
        let machine = machine.and_then(|m| Some((Arc::clone(&m.sim), m.id(&self.world.log)?)));
        let Some((sim, to)) = machine else {
            return Ok(());
        };
        let state = self.world.log.state();
        let known = state.known(self.world.log.term());
        let now = self.world.clock.now().max(state.time);
        let mut moves = coppice_plans::rebalance(&state.committed, &known, now);
        if moves.is_empty() {
            let all: Vec<Member> = state
                .desktops
                .values()
                .map(|d| d.spec.member.clone())
                .collect();
            for member in all {
                if self.chance.per_mille(500) {
                    moves.insert(member, to);
                }
            }
        }
        let mut asked = known.clone();
        asked.ask_to_move(&moves);
        let base = coppice_plans::plan(&state.committed, &asked, now).base;
        let author = "test".to_owned();
        let entry = Entry::Rebalanced {
            base,
            moves,
            author,
        };
        let outcome = self.world.log.append(entry.clone());
        self.note(format!("{entry:?}: {outcome:?}"));
        // Others take a name that was needed, and people come to what was to move.
        if self.chance.per_mille(500) {
            let what = self.foreign_domain(&sim, None);
            self.note(what);
        }
        self.somebody_comes(index)?;
        self.go_on()
    }

    /// A person signs in on a server, and it is found out.
    fn somebody_comes(&mut self, index: usize) -> Verdict {
        let Some(machine) = self.world.machines.get(index) else {
            return Ok(());
        };
        let running = machine.sim.domains();
        let running: Vec<SimDomain> = running.into_iter().filter(SimDomain::runs).collect();
        if let Some(domain) = self.chance.pick(&running) {
            machine.sim.sign_in(domain.uuid, 1);
            let what = format!("somebody is signed in to {}", domain.name);
            self.note(what);
        }
        self.judge.others_acted(&self.world);
        self.world.pass(Span::seconds(31));
        self.server_round(index)
    }

    /// Somebody changes something on a server.
    pub(super) fn meddle(&mut self, index: usize) -> Verdict {
        let Some(machine) = self.world.machines.get(index) else {
            return Ok(());
        };
        let sim = Arc::clone(&machine.sim);
        let name = machine.name.clone();
        let ours: Vec<SimDomain> = sim
            .domains()
            .into_iter()
            .filter(|d| d.mark.as_ref().is_some_and(|m| m.grid == self.world.grid))
            .collect();
        let victim = self.chance.pick(&ours).cloned();
        let what = match (self.chance.below(24), victim) {
            (0, Some(domain)) => {
                sim.kill(domain.uuid);
                format!("{} is killed", domain.name)
            }
            (1, Some(domain)) => {
                sim.switch_off(domain.uuid);
                format!("{} is switched off", domain.name)
            }
            (2, Some(domain)) => {
                sim.pause(domain.uuid, "I/O error");
                format!("{} stands still", domain.name)
            }
            (3, Some(domain)) => {
                sim.mute(domain.uuid);
                format!("{} falls silent", domain.name)
            }
            (4, Some(domain)) => {
                sim.undefine_by_hand(domain.uuid);
                format!("{} is undefined", domain.name)
            }
            (5, Some(domain)) => {
                sim.redefine_by_hand(domain.uuid, |h| h.cpus += 1);
                format!("{} gets another processor", domain.name)
            }
            (6, Some(domain)) => self.meddle_with_disk(&sim, &domain, |sim, member| {
                sim.delete_overlay(member);
                "deleted"
            }),
            (7, Some(domain)) => self.meddle_with_disk(&sim, &domain, |sim, member| {
                sim.spoil_overlay(member);
                "spoilt"
            }),
            (8, _) => self.foreign_domain(&sim, None),
            (9, _) => self.foreign_domain(&sim, Some(GridId([9; 16]))),
            (10, _) => {
                let used = Size::gib(self.chance.below(70));
                sim.others_use(used);
                format!("others use {used} of the disk")
            }
            (11, _) => {
                let all: Vec<_> = configs::catalogue().collect();
                let noticed = self.chance.per_mille(500);
                let deleted = self.chance.per_mille(300);
                match self.chance.pick(&all) {
                    // Under a clone it would be a disk that is spoilt, which others do above.
                    Some((image, version, record)) if deleted && !cloned(&sim, record.root) => {
                        sim.delete_image(record.root);
                        format!("image {image}@{version} is deleted")
                    }
                    Some((image, version, record)) => {
                        sim.spoil_image(record.root, noticed);
                        format!("image {image}@{version} is spoilt, noticed {noticed}")
                    }
                    None => String::new(),
                }
            }
            (12, _) => {
                let now = self.world.clock.now();
                let span = Span::seconds(self.chance.between(1, 120));
                sim.away_until(Some(now.after(span)));
                format!("the hypervisor is away for {span}")
            }
            (13, Some(domain)) => {
                sim.undefine_by_hand(domain.uuid);
                let uuid = Uuid::from_u64_pair(self.chance.bits(), self.chance.bits());
                sim.define_foreign(&domain.name, uuid, None);
                format!("{} is replaced by another of that name", domain.name)
            }
            (14..=16 | 21..=23, Some(domain)) => {
                let users = u32::try_from(self.chance.below(4)).unwrap_or(0);
                sim.sign_in(domain.uuid, users);
                format!("{users} people are signed in to {}", domain.name)
            }
            (19, Some(domain)) => {
                let viewers = u32::try_from(self.chance.below(2)).unwrap_or(0);
                sim.open_screen(domain.uuid, viewers);
                format!("{viewers} look at {}", domain.name)
            }
            (17 | 18, _) => {
                let all: Vec<_> = configs::catalogue().collect();
                let silent = self.chance.per_mille(700);
                match self.chance.pick(&all) {
                    Some((image, version, record)) => {
                        sim.silence_image(record.root, silent);
                        format!("guests of {image}@{version} do not come up: {silent}")
                    }
                    None => String::new(),
                }
            }
            (19, _) => {
                let ends = self.world.machines.get(index).map(|m| m.raft_id);
                let other = self.chance.pick(&self.world.machines).map(|m| m.raft_id);
                let cut = self.chance.per_mille(700);
                if let (Some(from), Some(to)) = (ends, other) {
                    self.world.wires.cut(ServerId(from), ServerId(to), cut);
                }
                format!("the wire to server {other:?} is cut: {cut}")
            }
            _ => return Ok(()),
        };
        self.note(format!("on {name}: {what}"));
        self.judge.others_acted(&self.world);
        Ok(())
    }

    fn meddle_with_disk(
        &mut self,
        sim: &SimServer,
        domain: &SimDomain,
        deed: impl FnOnce(&SimServer, &Member) -> &'static str,
    ) -> String {
        match &domain.mark {
            Some(mark) => {
                let done = deed(sim, &mark.member);
                format!("the overlay of {} is {done}", mark.member)
            }
            None => String::new(),
        }
    }

    /// A domain that is not ours appears, as often as not with a name that we need.
    fn foreign_domain(&mut self, sim: &SimServer, owner: Option<GridId>) -> String {
        let pool = *self.chance.pick(&configs::POOLS).unwrap_or(&"lab");
        let slot = self.chance.between(1, 6);
        let name = format!("{pool}-{slot:03}");
        let uuid = Uuid::from_u64_pair(self.chance.bits(), self.chance.bits());
        let mark = owner.and_then(|grid| {
            Some(Mark {
                grid,
                epoch: self.world.log.state().epoch,
                member: Member {
                    desktop: name.parse().ok()?,
                    incarnation: Incarnation(1),
                },
                image: configs::version("debian", "1").root,
                stamp: Stamp::default(),
            })
        });
        sim.define_foreign(&name, uuid, mark);
        format!("{name} of {owner:?} appears")
    }
}
