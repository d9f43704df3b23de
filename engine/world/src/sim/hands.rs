//! What people and chance do to a simulated server, past the ports.

use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::ids::Member;
use coppice_schema::known::{CopyState, Hardware, PowerState};
use coppice_schema::units::{Size, Timestamp};
use uuid::Uuid;

use super::SimServer;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimDomain, SimOverlay, overlay_path};
use crate::hypervisor::Mark;

impl SimServer {
    /// Kills what runs a domain.
    pub fn kill(&self, uuid: Uuid) {
        self.end_by_hand(uuid, PowerState::Crashed);
    }

    /// Switches a domain off.
    pub fn switch_off(&self, uuid: Uuid) {
        self.end_by_hand(uuid, PowerState::Off);
    }

    /// Makes a running domain stand still, `why` in the hypervisor's words.
    pub fn pause(&self, uuid: Uuid, why: &str) {
        self.meddle(|machine| {
            if let Some(domain) = machine.domains.get_mut(&uuid)
                && domain.runs()
            {
                domain.power = PowerState::Paused(why.to_owned());
            }
        });
    }

    /// Makes a guest fall silent for good, until it is started again.
    pub fn mute(&self, uuid: Uuid) {
        self.meddle(|machine| {
            if let Some(domain) = machine.domains.get_mut(&uuid) {
                domain.answers_at = None;
            }
        });
    }

    /// So many people are signed in from now on, if its guest is up.
    pub fn sign_in(&self, uuid: Uuid, users: u32) {
        let now = self.clock.now();
        self.meddle(|machine| {
            if let Some(domain) = machine.domains.get_mut(&uuid)
                && domain.runs()
                && domain.answers_at.is_some_and(|at| at <= now)
            {
                domain.users = users;
            }
        });
    }

    /// So many clients have its display open from now on, if it runs.
    pub fn open_screen(&self, uuid: Uuid, viewers: u32) {
        self.meddle(|machine| {
            if let Some(domain) = machine.domains.get_mut(&uuid)
                && domain.runs()
            {
                domain.viewers = viewers;
            }
        });
    }

    /// The machine loses its power. Its disk stays as it is.
    pub fn black_out(&self) {
        let now = self.clock.now();
        self.meddle(|machine| machine.black_out(now));
    }

    /// Ends a domain and forgets it.
    pub fn undefine_by_hand(&self, uuid: Uuid) {
        self.end_by_hand(uuid, PowerState::Off);
        let now = self.clock.now();
        self.meddle(|machine| {
            if let Some(domain) = machine.domains.remove(&uuid) {
                let mark = domain.mark;
                machine.note(now, Hand::Other, Deed::Undefined { uuid, mark });
            }
        });
    }

    /// Writes other hardware into a domain's persistent form.
    pub fn redefine_by_hand(&self, uuid: Uuid, change: impl FnOnce(&mut Hardware)) {
        let now = self.clock.now();
        self.meddle(|machine| {
            let Some(domain) = machine.domains.get_mut(&uuid) else {
                return;
            };
            let Some(hardware) = domain.hardware.as_mut() else {
                return;
            };
            change(hardware);
            let mark = domain.mark.clone();
            machine.note(now, Hand::Other, Deed::Defined { uuid, mark });
        });
    }

    /// Defines a domain that is not ours, or another grid's; it is off. One of that name or UUID stays as it is.
    pub fn define_foreign(&self, name: &str, uuid: Uuid, mark: Option<Mark>) {
        let now = self.clock.now();
        self.meddle(|machine| {
            let mut there = machine.domains.values();
            if there.any(|d| d.name == name || d.uuid == uuid) {
                return;
            }
            let domain = SimDomain {
                name: name.to_owned(),
                uuid,
                mark: mark.clone(),
                hostname: name.to_owned(),
                hardware: None,
                disk: PathBuf::from(format!("/elsewhere/{name}.img")),
                power: PowerState::Off,
                running_with: None,
                answers_at: None,
                users: 0,
                viewers: 0,
            };
            machine.domains.insert(uuid, domain);
            machine.note(now, Hand::Other, Deed::Defined { uuid, mark });
        });
    }

    /// Defines a domain as given, whoever's it says it is, in place of one of its UUID.
    pub fn define_by_hand(&self, domain: SimDomain) {
        let now = self.clock.now();
        self.meddle(|machine| {
            let (uuid, mark) = (domain.uuid, domain.mark.clone());
            machine.domains.insert(uuid, domain);
            machine.note(now, Hand::Other, Deed::Defined { uuid, mark });
        });
    }

    /// Leaves an overlay with a mark behind, as a removal does that was cut off.
    pub fn leave_overlay(&self, mark: Mark, size: Size) {
        let now = self.clock.now();
        self.meddle(|machine| {
            let path = overlay_path(&mark.member);
            let mark = Some(mark);
            let overlay = SimOverlay {
                mark: mark.clone(),
                readable: true,
                size,
                allocated: size,
                written: 0,
            };
            machine.overlays.insert(path.clone(), overlay);
            machine.note(now, Hand::Other, Deed::OverlayMade { path, mark });
        });
    }

    /// Deletes an overlay's file; a domain that has it open runs on.
    pub fn delete_overlay(&self, member: &Member) {
        let now = self.clock.now();
        self.meddle(|machine| {
            let path = overlay_path(member);
            if let Some(overlay) = machine.overlays.remove(&path) {
                let mark = overlay.mark;
                machine.note(now, Hand::Other, Deed::OverlayRemoved { path, mark });
            }
        });
    }

    /// Overwrites an overlay's header.
    pub fn spoil_overlay(&self, member: &Member) {
        self.meddle(|machine| {
            if let Some(overlay) = machine.overlays.get_mut(&overlay_path(member)) {
                overlay.readable = false;
            }
        });
    }

    /// Lets an overlay grow by `bytes`, as a guest does that writes.
    pub fn grow_overlay(&self, member: &Member, bytes: Size) {
        self.meddle(|machine| {
            let free = machine.free();
            if let Some(overlay) = machine.overlays.get_mut(&overlay_path(member)) {
                overlay.allocated.0 += bytes.0.min(free.0);
            }
        });
    }

    /// Its guest writes that: whoever has its disk, or a copy of it from then on, can tell.
    pub fn write_to_overlay(&self, member: &Member, written: u64) {
        self.meddle(|machine| {
            if let Some(overlay) = machine.overlays.get_mut(&overlay_path(member)) {
                overlay.written = written;
            }
        });
    }

    /// Deletes the copy of a desktop.
    pub fn delete_replica(&self, member: &Member) {
        self.meddle(|machine| {
            machine.replicas.remove(member);
        });
    }

    /// Others use so many bytes of the disk from now on.
    pub fn others_use(&self, bytes: Size) {
        self.meddle(|machine| machine.others = bytes);
    }

    /// Spoils an image. `noticed`: whoever lists images sees it; otherwise only who reads it back.
    pub fn spoil_image(&self, root: Digest, noticed: bool) {
        let now = self.clock.now();
        self.meddle(|machine| {
            if let Some(image) = machine.images.get_mut(&root) {
                image.rotten = true;
                image.read = Timestamp(0);
                if noticed {
                    image.state = CopyState::Bad;
                }
                machine.note(now, Hand::Other, Deed::ImageGone(root));
            }
        });
    }

    /// Deletes an image.
    pub fn delete_image(&self, root: Digest) {
        let now = self.clock.now();
        self.meddle(|machine| {
            machine.images.remove(&root);
            machine.note(now, Hand::Other, Deed::ImageGone(root));
        });
    }

    /// Guests of an image do not come up when they are started from now on, or do again.
    pub fn silence_image(&self, root: Digest, silent: bool) {
        self.meddle(|machine| {
            if silent {
                machine.silent.insert(root);
            } else {
                machine.silent.remove(&root);
            }
        });
    }

    /// Starts a domain past the ports.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start_by_hand(&self, uuid: Uuid) -> Result<(), String> {
        let now = self.clock.now();
        let mut outcome = Ok(());
        self.meddle(|machine| outcome = machine.switch_on(uuid, now, Hand::Other));
        outcome
    }

    fn end_by_hand(&self, uuid: Uuid, left: PowerState) {
        let now = self.clock.now();
        self.meddle(|machine| machine.switch_off(uuid, left, now, Hand::Other));
    }

    fn meddle(&self, change: impl FnOnce(&mut Machine)) {
        let mut machine = self.settled();
        change(&mut machine);
        machine.wake();
    }
}
