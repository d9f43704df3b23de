//! The simulated server as a hypervisor.

use coppice_schema::desired::{Display, Firmware};
use coppice_schema::ids::GridId;
use coppice_schema::known::{Capacity, Feature, GuestState, PowerState};
use coppice_schema::units::{Size, Span, Timestamp};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::io::Cursor;
use futures::stream::BoxStream;
use uuid::Uuid;

use super::SimServer;
use super::fault::Operation;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimDomain, is_ours};
use crate::hypervisor::{
    ByteStream, Definition, Domain, Hypervisor, HypervisorError, Mark, Written,
};

type Outcome<T> = Result<T, HypervisorError>;

impl Hypervisor for SimServer {
    fn capacity(&self) -> BoxFuture<'_, Outcome<Capacity>> {
        // As with the real ones, the size of the disk is for the disks to tell.
        let capacity = Capacity {
            disk: Size(0),
            ..self.setup.capacity.clone()
        };
        let act = move |_: &mut Machine, _| Ok(capacity);
        Box::pin(self.call(Operation::Capacity, String::new(), None, act))
    }

    fn list(&self) -> BoxFuture<'_, Outcome<Vec<Domain>>> {
        let act = |machine: &mut Machine, _| Ok(machine.domains.values().map(listed).collect());
        Box::pin(self.call(Operation::List, String::new(), None, act))
    }

    fn define<'a>(&'a self, domain: &'a Definition) -> BoxFuture<'a, Outcome<()>> {
        let missing = lacking(domain, &self.setup.capacity);
        if let Some(feature) = missing {
            return Box::pin(async move { Err(HypervisorError::Lacks(feature)) });
        }
        let definition = domain.clone();
        let name = definition.spec.member.desktop.to_string();
        let uuid = definition.spec.uuid;
        let grid = self.setup.grid;
        let asked = self.machine().journal.len();
        let act = move |machine: &mut Machine, now| define(machine, definition, grid, asked, now);
        Box::pin(async move {
            let _turn = self.alone(Operation::Define, uuid);
            self.call(Operation::Define, name, Some(uuid), act).await
        })
    }

    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Outcome<()>> {
        let act = move |machine: &mut Machine, now| {
            if !machine.domains.contains_key(&uuid) {
                // A start that hung may come about when others have undefined its domain meanwhile.
                if !machine.taken_away(uuid) {
                    machine.scold(format!("start of {uuid}, which is not defined"));
                }
                return Err(HypervisorError::Absent(uuid));
            }
            let refused = |cause| HypervisorError::Refused {
                what: "start",
                domain: uuid.to_string(),
                cause,
            };
            machine.switch_on(uuid, now, Hand::Ours).map_err(refused)
        };
        Box::pin(async move {
            let _turn = self.alone(Operation::Start, uuid);
            self.change(Operation::Start, uuid, act).await
        })
    }

    fn stop(&self, uuid: Uuid, patience: Span) -> BoxFuture<'_, Outcome<()>> {
        Box::pin(async move {
            let _turn = self.alone(Operation::Stop, uuid);
            // A guest that answers shuts down at once; in another one the agent is passed over, and the button is
            // waited for in vain.
            let now = self.clock.now();
            let domains = self.domains();
            let domain = domains.iter().find(|d| d.uuid == uuid);
            let deaf = domain.is_some_and(|d| d.runs() && d.answers_at.is_none_or(|at| at > now));
            if deaf {
                self.clock.sleep(patience).await;
            }
            self.end(Operation::Stop, uuid).await
        })
    }

    fn power_off(&self, uuid: Uuid) -> BoxFuture<'_, Outcome<()>> {
        Box::pin(async move {
            let _turn = self.alone(Operation::PowerOff, uuid);
            self.end(Operation::PowerOff, uuid).await
        })
    }

    fn undefine(&self, uuid: Uuid) -> BoxFuture<'_, Outcome<()>> {
        let act = move |machine: &mut Machine, now| {
            let Some(domain) = machine.domains.get(&uuid) else {
                return Ok(());
            };
            if domain.runs() {
                let domain = domain.name.clone();
                machine.scold(format!("undefine of {domain}, which runs"));
                return Err(HypervisorError::Refused {
                    what: "undefine",
                    domain,
                    cause: "it runs".to_owned(),
                });
            }
            let mark = machine.domains.remove(&uuid).and_then(|d| d.mark);
            machine.note(now, Hand::Ours, Deed::Undefined { uuid, mark });
            Ok(())
        };
        Box::pin(async move {
            let _turn = self.alone(Operation::Undefine, uuid);
            self.change(Operation::Undefine, uuid, act).await
        })
    }

    fn ask_guest(&self, uuid: Uuid) -> BoxFuture<'_, Outcome<GuestState>> {
        let act = move |machine: &mut Machine, now: Timestamp| {
            let Some(domain) = machine.domains.get(&uuid) else {
                return Err(HypervisorError::Absent(uuid));
            };
            let answers = domain.answers_at.is_some_and(|at| at <= now);
            let runs = matches!(domain.power, PowerState::Running { .. });
            let with = domain.running_with.as_ref();
            Ok(
                match with.filter(|(_, hardware)| answers && runs && hardware.agent) {
                    Some((hostname, _)) => GuestState::Answers {
                        hostname: hostname.clone(),
                        users: Some(domain.users),
                    },
                    None => GuestState::Silent,
                },
            )
        };
        Box::pin(self.call(Operation::AskGuest, uuid.to_string(), None, act))
    }

    fn console(&self, uuid: Uuid, display: Display) -> BoxFuture<'_, Outcome<ByteStream>> {
        let act = move |machine: &mut Machine, _| {
            let domain = running(machine, uuid, "open the console of")?;
            let hardware = domain.hardware.as_ref();
            if !hardware.is_some_and(|h| h.displays.contains(&display)) {
                let domain = uuid.to_string();
                return Err(HypervisorError::NoDisplay { domain, display });
            }
            Ok(())
        };
        Box::pin(async move {
            self.call(Operation::Console, uuid.to_string(), None, act)
                .await?;
            // It greets as a VNC server does, and takes whatever it is told.
            let stream: ByteStream = Box::pin(Cursor::new(b"RFB 003.008\n".to_vec()));
            Ok(stream)
        })
    }

    fn screenshot(&self, uuid: Uuid) -> BoxFuture<'_, Outcome<Vec<u8>>> {
        let act = move |machine: &mut Machine, _| {
            running(machine, uuid, "take a picture of").map(|_| ONE_PIXEL.to_vec())
        };
        Box::pin(self.call(Operation::Screenshot, uuid.to_string(), None, act))
    }

    fn watch(&self) -> BoxStream<'static, ()> {
        let (sender, receiver) = mpsc::channel(1);
        self.machine().watchers.push(sender);
        Box::pin(receiver)
    }
}

/// A changing call of a domain is under way, until this is dropped.
pub(super) struct Turn<'a> {
    server: &'a SimServer,
    uuid: Uuid,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.server.machine().called.remove(&self.uuid);
    }
}

impl SimServer {
    /// Whoever carries orders out does one thing to a domain at a time, and waits for its end.
    pub(super) fn alone(&self, operation: Operation, uuid: Uuid) -> Turn<'_> {
        let mut machine = self.machine();
        if let Some(first) = machine.called.insert(uuid, operation) {
            machine.scold(format!("{operation:?} of {uuid} during its {first:?}"));
        }
        drop(machine);
        Turn { server: self, uuid }
    }

    /// A changing call on a domain, which must be ours.
    fn change<F>(&self, operation: Operation, uuid: Uuid, act: F) -> BoxFuture<'_, Outcome<()>>
    where
        F: FnOnce(&mut Machine, Timestamp) -> Outcome<()> + Send + 'static,
    {
        let grid = self.setup.grid;
        let guarded = move |machine: &mut Machine, now| {
            if let Some(domain) = machine.domains.get(&uuid)
                && !is_ours(grid, domain.mark.as_ref())
            {
                let (domain, mark) = (domain.name.clone(), domain.mark.clone());
                machine.scold(format!("{operation:?} of {domain}, which is not ours"));
                return Err(not_ours(domain, mark.as_ref()));
            }
            act(machine, now)
        };
        Box::pin(self.call(operation, uuid.to_string(), Some(uuid), guarded))
    }

    fn end(&self, operation: Operation, uuid: Uuid) -> BoxFuture<'_, Outcome<()>> {
        self.change(operation, uuid, move |machine, now| {
            if !machine.domains.contains_key(&uuid) {
                return Err(HypervisorError::Absent(uuid));
            }
            machine.switch_off(uuid, PowerState::Off, now, Hand::Ours);
            Ok(())
        })
    }
}

/// `asked`: how long the journal was when this was asked for.
fn define(
    machine: &mut Machine,
    definition: Definition,
    grid: Option<GridId>,
    asked: usize,
    now: Timestamp,
) -> Outcome<()> {
    let Definition {
        spec,
        mark,
        overlay,
    } = definition;
    let name = spec.member.desktop.to_string();
    let uuid = spec.uuid;
    let refused = |cause: String| HypervisorError::Refused {
        what: "define",
        domain: name.clone(),
        cause,
    };
    let named = machine.domains.values().find(|d| d.name == name);
    let stands = machine.domains.get(&uuid).or(named);
    if let Some(there) = stands {
        if !is_ours(grid, there.mark.as_ref()) {
            let (domain, owner, theirs) = (there.name.clone(), there.mark.clone(), there.uuid);
            // Others may define one while ours is slow to come about.
            if !machine.appeared(theirs, asked) {
                machine.scold(format!("define over {domain}, which is not ours"));
            }
            return Err(not_ours(domain, owner.as_ref()));
        }
        if there.uuid != uuid {
            let other = there.uuid;
            machine.scold(format!("define of {uuid} as {name}, which is {other}"));
            return Err(refused(format!("{other} has that name")));
        }
    }
    if mark.member != spec.member {
        machine.scold(format!(
            "define of {} with a mark of {}",
            spec.member, mark.member
        ));
        return Err(refused("its mark names another".to_owned()));
    }
    let old = machine.domains.get(&uuid);
    let domain = SimDomain {
        name,
        uuid,
        mark: Some(mark.clone()),
        hostname: spec.hostname,
        hardware: Some(spec.hardware),
        disk: overlay,
        power: old.map_or(PowerState::Off, |d| d.power.clone()),
        running_with: old.and_then(|d| d.running_with.clone()),
        answers_at: old.and_then(|d| d.answers_at),
        users: old.map_or(0, |d| d.users),
        viewers: old.map_or(0, |d| d.viewers),
    };
    if old != Some(&domain) {
        machine.domains.insert(uuid, domain);
        let mark = Some(mark);
        machine.note(now, Hand::Ours, Deed::Defined { uuid, mark });
    }
    Ok(())
}

fn listed(domain: &SimDomain) -> Domain {
    let stale = |(hostname, hardware): &(String, _)| {
        let written = domain.hardware.as_ref();
        *hostname != domain.hostname || !written.is_some_and(|written| written.runs_as(hardware))
    };
    let written = domain.hardware.clone().map(|hardware| Written {
        hostname: domain.hostname.clone(),
        hardware,
        disk: domain.disk.clone(),
        stale_until_reboot: domain.running_with.as_ref().is_some_and(stale),
    });
    Domain {
        name: domain.name.clone(),
        uuid: domain.uuid,
        mark: domain.mark.clone(),
        power: domain.power.clone(),
        written: written.filter(|_| domain.mark.is_some()),
        viewers: domain.runs().then_some(domain.viewers),
    }
}

fn running<'a>(machine: &'a Machine, uuid: Uuid, what: &'static str) -> Outcome<&'a SimDomain> {
    let domain = machine.domains.get(&uuid);
    let domain = domain.ok_or(HypervisorError::Absent(uuid))?;
    if domain.runs() {
        return Ok(domain);
    }
    Err(HypervisorError::Refused {
        what,
        domain: domain.name.clone(),
        cause: "it does not run".to_owned(),
    })
}

fn not_ours(domain: String, mark: Option<&Mark>) -> HypervisorError {
    HypervisorError::NotOurs {
        domain,
        owner: mark.map(|m| m.grid),
    }
}

fn lacking(definition: &Definition, capacity: &Capacity) -> Option<Feature> {
    let hardware = &definition.spec.hardware;
    let firmware = match hardware.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(Feature::Uefi),
        Firmware::UefiSecure => Some(Feature::SecureBoot),
    };
    let spice = hardware.displays.contains(&Display::Spice);
    let agent = hardware.agent;
    firmware
        .into_iter()
        .chain(spice.then_some(Feature::Spice))
        .chain(agent.then_some(Feature::Agent))
        .find(|feature| capacity.missing.contains(feature))
}

/// A screen of one pixel, as PNG.
const ONE_PIXEL: [u8; 70] = [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52,
    0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4,
    0x89, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x64, 0x60, 0xf8, 0x5f,
    0x0f, 0x00, 0x02, 0x87, 0x01, 0x80, 0xeb, 0x47, 0xba, 0x92, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45,
    0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];
