//! Running desktops between two embedded hypervisors, each in a process of its own, as on two servers.

mod far;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coppice_schema::known::GuestState;
use coppice_world::contract::moves::{GUESTS, Receiver, Subject, run};
use coppice_world::hypervisor::{Definition, Hypervisor};
use coppice_world::libvirt::{HypervisorUri, Libvirt, open};
use coppice_world::moves::Moves;
use tokio::runtime::Runtime;
use virt::connect::Connect;

use self::far::Far;
use crate::machine::{alone, directory, image, options, ours, skip, uri};
use crate::means::{definition, overlay, run_in};

/// The end of a server's directory: both are in one place, and share nothing below it but the image.
#[derive(Clone, Copy)]
enum End {
    Sender,
    Receiver,
}

impl End {
    fn directory(self, place: &Path) -> std::path::PathBuf {
        place.join(match self {
            Self::Sender => "a",
            Self::Receiver => "b",
        })
    }

    fn address(self, place: &Path) -> HypervisorUri {
        let root = self.directory(place).join("q");
        uri(&format!("qemu:///embed?root={}", root.display()))
    }

    async fn open(self, place: &Path) -> Arc<Libvirt> {
        let directory = self.directory(place);
        std::fs::create_dir_all(&directory).unwrap();
        open(&self.address(place), options(ours(place), &directory))
            .await
            .unwrap()
    }

    /// A desktop, as it is defined on this server.
    fn guest(self, place: &Path, number: u32) -> Definition {
        let file = self.directory(place).join(format!("{number}.qcow2"));
        definition(ours(place), number, file)
    }
}

#[test]
fn desktops_move_between_embedded_hypervisors() {
    const NAME: &str = "moving::desktops_move_between_embedded_hypervisors";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let place = directory();
    let place = place.path();
    Runtime::new().unwrap().block_on(async {
        let sender = End::Sender.open(place).await;
        let far = Far::start(place, &image).await;
        let guests = (1..).take(GUESTS);
        let guests: Vec<Definition> = guests
            .map(|number| End::Sender.guest(place, number))
            .collect();
        for guest in &guests {
            overlay(&image, &guest.overlay).unwrap();
        }
        let address = End::Sender.address(place).to_string();
        let foreign = uuid::Uuid::from_u128(0xf0);
        let connection = Connect::open(Some(&address)).unwrap();
        connection
            .create_domain_xml(
                &format!(
                    "<domain type='qemu'><name>foreign</name><uuid>{foreign}</uuid><memory unit='MiB'>16</memory>\
                     <os><type arch='x86_64'>hvm</type></os></domain>"
                ),
                0,
            )
            .unwrap();
        let subject = Subject {
            hypervisor: sender.clone(),
            moves: sender,
            receiver: Box::new(far),
            guests,
            foreign: Some(foreign),
        };
        let report = run(&subject).await;
        eprintln!("{report}");
        assert!(report.holds(), "{report}");
        assert_eq!(report.skipped, []);
    });
}

/// What a guest is asked that has something on its disk and something in its memory.
const WRITE: &str = "mount /dev/vda2 /mnt 2>/dev/null; dd if=/dev/urandom of=/mnt/letter bs=64k count=64 2>/dev/null && \
    sync && sha256sum /mnt/letter && cat /proc/sys/kernel/random/boot_id && cat /proc/sys/kernel/random/uuid | tee /dev/note";
const READ: &str = "echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/letter && cat /proc/sys/kernel/random/boot_id && \
    cat /dev/note";

#[test]
fn a_guest_keeps_what_it_has_and_answers_after_a_short_gap() {
    const NAME: &str = "moving::a_guest_keeps_what_it_has_and_answers_after_a_short_gap";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let place = directory();
    let place = place.path();
    Runtime::new().unwrap().block_on(async {
        let sender = End::Sender.open(place).await;
        let far = Far::start(place, &image).await;
        let (here, there) = (End::Sender.guest(place, 1), End::Receiver.guest(place, 1));
        let uuid = here.spec.uuid;
        overlay(&image, &here.overlay).unwrap();
        sender.define(&here).await.unwrap();
        sender.start(uuid).await.unwrap();
        while !answers(&sender, uuid).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let address = End::Sender.address(place).to_string();
        let before = run_in(address, uuid, WRITE.to_owned()).await.unwrap();

        far.prepare(&here).await.unwrap();
        let road = far.road(&here);
        let last = Mutex::new(Instant::now());
        let asking = async {
            loop {
                if answers(&sender, uuid).await {
                    *last.lock().unwrap() = Instant::now();
                }
            }
        };
        let began = Instant::now();
        tokio::select! {
            sent = sender.send(uuid, road.as_ref()) => sent.unwrap(),
            () = asking => unreachable!(),
        }
        // Whatever was written here is there, on a clone of the same image.
        let compared = qemu_img(
            &["compare", "-U", "-f", "qcow2", "-F", "qcow2"],
            &[&here, &there],
        );
        assert!(compared.contains("Images are identical"), "{compared}");
        far.enter(&here).await.unwrap();
        let running = Instant::now();
        while !far.answers(uuid).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let last = *last.lock().unwrap();
        eprintln!(
            "moved in {:?}; the guest's last answer here and its first there are {:?} apart",
            running.duration_since(began),
            last.elapsed()
        );

        sender.power_off(uuid).await.unwrap();
        sender.undefine(uuid).await.unwrap();
        std::fs::remove_file(&here.overlay).unwrap();
        let after = far.run(uuid, READ).await.unwrap();
        assert_eq!(after, before, "it is not the same guest with the same disk");
        let chain = qemu_img(
            &["info", "-U", "--backing-chain", "--output", "json"],
            &[&there],
        );
        assert!(
            chain.contains(&format!(
                "\"full-backing-filename\": {:?}",
                image.display().to_string()
            )),
            "{chain}"
        );
        // It can be started anew there: nothing of the way is left in its definition.
        far.run(uuid, "sync; busybox umount /mnt").await.unwrap();
        far.restart(&there).await.unwrap();
        while !far.answers(uuid).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let sum = far
            .run(
                uuid,
                "mount /dev/vda2 /mnt 2>/dev/null; sha256sum /mnt/letter",
            )
            .await
            .unwrap();
        assert!(!sum.is_empty());
        let checked = qemu_img(&["check", "-U", "-f", "qcow2"], &[&there]);
        assert!(checked.contains("No errors were found"), "{checked}");
    });
}

async fn answers(hypervisor: &Libvirt, uuid: uuid::Uuid) -> bool {
    matches!(
        hypervisor.ask_guest(uuid).await,
        Ok(GuestState::Answers { .. })
    )
}

/// What `qemu-img` says of overlays.
fn qemu_img(words: &[&str], guests: &[&Definition]) -> String {
    let files = guests.iter().map(|guest| &guest.overlay);
    let output = Command::new("qemu-img").args(words).args(files).output();
    let output = output.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
