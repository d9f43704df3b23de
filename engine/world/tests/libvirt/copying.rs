//! Copies of running desktops' disks, from one store to another, between which an embedded hypervisor runs the guests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::GuestState;
use coppice_schema::units::{Size, Timestamp};
use coppice_world::contract::Outcome;
use coppice_world::contract::replicas::{GUESTS, Means, Subject, guest, run};
use coppice_world::disks::{Disks, LocalDisks, NewOverlay};
use coppice_world::hypervisor::{ByteStream, Definition, Hypervisor, Mark};
use coppice_world::libvirt::{Libvirt, open};
use coppice_world::moves::{Moves, Road};
use coppice_world::peers::PeerError;
use coppice_world::replicas::{LocalReplicas, Original, Replicas};
use futures::future::{BoxFuture, FutureExt};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_util::compat::TokioAsyncReadCompatExt;
use virt::connect::Connect;

use crate::machine::{alone, directory, image, options, ours, skip, uri};
use crate::means::run_on;

/// A server's disks, with the image on them.
async fn disks(place: &Path, name: &str, grid: GridId, image: &Path) -> (LocalDisks, Digest, Size) {
    let disks = LocalDisks::open(place.join(name), grid).await.unwrap();
    let told = Arc::new(|_| {});
    let imported = disks.import_image(image.to_owned(), told).await.unwrap();
    (disks, imported.root, imported.size)
}

/// A desktop with its overlay.
async fn made(
    disks: &LocalDisks,
    grid: GridId,
    number: u32,
    root: Digest,
    size: Size,
) -> Definition {
    let mut guest = guest(grid, number);
    (guest.mark.image, guest.spec.image) = (root, root);
    guest.spec.hardware.disk = size;
    let mark = guest.mark.clone();
    let paths = disks.make_overlays(vec![NewOverlay { mark, size }]).await;
    guest.overlay = paths.unwrap().remove(0);
    guest
}

/// The means for both stores.
struct Both {
    connection: Connect,
    stores: [LocalDisks; 2],
    holder: Arc<LocalReplicas>,
}

struct Way<'a> {
    holder: &'a Arc<LocalReplicas>,
    mark: Mark,
}

impl Road for Way<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        let (mine, theirs) = tokio::io::duplex(1 << 10);
        let (holder, mark) = (Arc::clone(self.holder), self.mark.clone());
        tokio::spawn(async move { holder.take(&mark, Box::pin(theirs.compat())).await });
        async move { Ok(Box::pin(mine.compat()) as ByteStream) }.boxed()
    }
}

const MOUNT: &str = "mkdir -p /mnt; grep -q ' /mnt ' /proc/mounts || mount /dev/vda2 /mnt";

impl Means for Both {
    fn road<'a>(&'a self, mark: &'a Mark) -> Box<dyn Road + 'a> {
        Box::new(Way {
            holder: &self.holder,
            mark: mark.clone(),
        })
    }

    fn write<'a>(
        &'a self,
        guest: &'a Definition,
        written: u64,
    ) -> BoxFuture<'a, Result<(), Outcome>> {
        let command = format!("{MOUNT}; echo {written} >/mnt/letter && sync");
        let said = run_on(self.connection.clone(), guest.spec.uuid, command);
        said.map(|said| said.map(drop).map_err(Outcome::Failed))
            .boxed()
    }

    fn read<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<u64, Outcome>> {
        // What a shell says comes in base64, so it says as many letters as the number.
        let command = format!("{MOUNT}; printf '%*s' $(($(cat /mnt/letter) * 3)) ''");
        let said = run_on(self.connection.clone(), guest.spec.uuid, command);
        said.map(|said| {
            let said = said.map_err(Outcome::Failed)?;
            Ok(said.len() as u64 / 4)
        })
        .boxed()
    }

    fn clear<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), Outcome>> {
        async move {
            for store in &self.stores {
                let gone = store.remove_overlay(member).await;
                gone.map_err(|e| Outcome::Failed(e.to_string()))?;
            }
            Ok(())
        }
        .boxed()
    }
}

#[test]
fn disks_of_running_desktops_are_copied() {
    const NAME: &str = "copying::disks_of_running_desktops_are_copied";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let place = directory();
    let (place, grid) = (place.path(), ours(place.path()));
    Runtime::new().unwrap().block_on(async {
        let address = format!("qemu:///embed?root={}", place.join("q").display());
        let libvirt = open(&uri(&address), options(grid, place)).await.unwrap();
        let (here, root, size) = disks(place, "a", grid, &image).await;
        let (there, _, _) = disks(place, "b", grid, &image).await;
        let mut guests = Vec::new();
        for number in (1..).take(GUESTS) {
            guests.push(made(&here, grid, number, root, size).await);
        }
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
        let holder = Arc::new(LocalReplicas::new(libvirt.clone(), there.clone()));
        let subject = Subject {
            hypervisor: libvirt.clone(),
            home: Arc::new(LocalReplicas::new(libvirt.clone(), here.clone())),
            elsewhere: libvirt,
            holder: holder.clone(),
            means: Box::new(Both {
                connection,
                stores: [here, there],
                holder,
            }),
            guests,
            foreign: Some(foreign),
        };
        let report = run(&subject).await;
        eprintln!("{report}");
        assert!(report.holds(), "{report}");
        assert_eq!(report.skipped, []);
        let left = std::fs::read_dir(place.join("a/outgoing")).unwrap();
        assert_eq!(left.count(), 0, "something is left of what was sent");
        let left = std::fs::read_dir(place.join("b/replicas")).unwrap();
        assert_eq!(left.count(), 0, "something is left of what came");
        let left = std::fs::read_dir(place.join("q/frozen")).unwrap();
        assert_eq!(left.count(), 0, "a guest may be frozen");
    });
}

/// Puts a command to a domain's QEMU, or a question to its agent, which must both end well.
fn told(connection: &Connect, uuid: uuid::Uuid, agent: bool, command: &serde_json::Value) {
    let domain = connection.lookup_domain_by_uuid(uuid).unwrap();
    let command = command.to_string();
    let said = if agent {
        domain.qemu_agent_command(&command, 5, 0)
    } else {
        domain.qemu_monitor_command(&command, 0)
    };
    let said = said.unwrap();
    assert!(!said.contains("\"error\""), "{command}: {said}");
}

/// A way on which a desktop is started.
struct Starting<'a> {
    way: &'a Way<'a>,
    hypervisor: Arc<Libvirt>,
    uuid: uuid::Uuid,
}

impl Road for Starting<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        async move {
            self.hypervisor.start(self.uuid).await.unwrap();
            self.way.open().await
        }
        .boxed()
    }
}

#[test]
fn what_a_copy_left_that_was_cut_off_is_taken_back() {
    const NAME: &str = "copying::what_a_copy_left_that_was_cut_off_is_taken_back";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let place = directory();
    let (place, grid) = (place.path(), ours(place.path()));
    Runtime::new().unwrap().block_on(async {
        let address = format!("qemu:///embed?root={}", place.join("q").display());
        let libvirt = open(&uri(&address), options(grid, place)).await.unwrap();
        let (here, root, size) = disks(place, "a", grid, &image).await;
        let (there, _, _) = disks(place, "b", grid, &image).await;
        let guest = made(&here, grid, 1, root, size).await;
        let uuid = guest.spec.uuid;
        let connection = Connect::open(Some(&address)).unwrap();
        let home = LocalReplicas::new(libvirt.clone(), here);
        let holder = Arc::new(LocalReplicas::new(libvirt.clone(), there));
        let original = Original {
            uuid,
            mark: guest.mark.clone(),
            overlay: guest.overlay.clone(),
        };
        let way = Way {
            holder: &holder,
            mark: guest.mark.clone(),
        };
        libvirt.define(&guest).await.unwrap();
        libvirt.start(uuid).await.unwrap();
        let answered = async || {
            while !matches!(
                libvirt.ask_guest(uuid).await,
                Ok(GuestState::Answers { .. })
            ) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        answered().await;

        // The daemon died while its file systems were at rest.
        let note = place.join("q/frozen").join(uuid.to_string());
        std::fs::create_dir_all(note.parent().unwrap()).unwrap();
        std::fs::write(&note, b"").unwrap();
        told(
            &connection,
            uuid,
            true,
            &json!({"execute": "guest-fsfreeze-freeze"}),
        );
        answered().await;
        assert!(!note.exists());
        let write = format!("{MOUNT}; echo 1 >/mnt/letter && sync");
        run_on(connection.clone(), uuid, write).await.unwrap();

        // The daemon died while the disk was copied, which takes as long as that.
        let slow = json!({"execute": "blockdev-backup", "arguments": {
            "job-id": "coppice-copy", "device": "libvirt-2-format", "target": "coppice-copy-far",
            "sync": "full", "speed": 1, "auto-dismiss": false,
        }});
        let target = place.join("left.qcow2");
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args([target.as_os_str(), size.0.to_string().as_ref()])
            .status();
        assert!(made.unwrap().success());
        let far = json!({"execute": "blockdev-add", "arguments": {
            "driver": "qcow2", "node-name": "coppice-copy-far",
            "file": {"driver": "file", "filename": target},
        }});
        for command in [&far, &slow] {
            told(&connection, uuid, false, command);
        }
        let sent = home.send(&original, Timestamp(1), &way).await.unwrap();
        assert!(sent.at_rest);
        // Of what the holder has, nothing is sent again.
        let first = sent.bytes;
        let write = format!("{MOUNT}; head -c 3000000 /dev/urandom >/mnt/letter && sync");
        run_on(connection.clone(), uuid, write).await.unwrap();
        let sent = home.send(&original, Timestamp(2), &way).await.unwrap();
        let second = sent.bytes;
        assert!(second.0 > 3_000_000, "{second}");
        let sent = home.send(&original, Timestamp(3), &way).await.unwrap();
        eprintln!("sent {first}, then {second}, then {}", sent.bytes);
        assert!(sent.bytes.0 < second.0 / 4, "{}", sent.bytes);

        // And one that is being made when it is to move ends, whatever becomes of the move.
        for command in [&far, &slow] {
            told(&connection, uuid, false, command);
        }
        assert!(Moves::send(&*libvirt, uuid, &way).await.is_err());
        told(&connection, uuid, false, &far);
        let del =
            json!({"execute": "blockdev-del", "arguments": {"node-name": "coppice-copy-far"}});
        told(&connection, uuid, false, &del);

        // Without an agent that answers it is copied as it is.
        let hang = "sleep 1; /bin/busybox killall -STOP qemu-ga";
        let begun = json!({"execute": "guest-exec", "arguments":
            {"path": "/bin/busybox", "arg": ["sh", "-c", hang]}});
        told(&connection, uuid, true, &begun);
        while matches!(
            libvirt.ask_guest(uuid).await,
            Ok(GuestState::Answers { .. })
        ) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let sent = home.send(&original, Timestamp(4), &way).await.unwrap();
        assert!(!sent.at_rest);
        let kept = holder.replicas().await.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((&kept[0].mark, kept[0].taken), (&guest.mark, Timestamp(4)));
        // One that is off is started while it is copied.
        libvirt.power_off(uuid).await.unwrap();
        let starting = Starting {
            way: &way,
            hypervisor: libvirt.clone(),
            uuid,
        };
        let sent = home.send(&original, Timestamp(5), &starting).await;
        let why = sent.unwrap_err().to_string();
        assert!(why.contains("started meanwhile"), "{why}");
        let kept = holder.replicas().await.unwrap();
        assert_eq!(kept[0].taken, Timestamp(4));

        // What came in pieces is the disk, piece by piece.
        libvirt.power_off(uuid).await.unwrap();
        home.send(&original, Timestamp(5), &way).await.unwrap();
        let mut mark = guest.mark.clone();
        mark.member = "contract-001@2".parse().unwrap();
        let new = NewOverlay { mark, size };
        let from = &guest.mark.member;
        let restored = holder.restore(from, new).await.unwrap();
        let compared = std::process::Command::new("qemu-img")
            .args(["compare", "-f", "qcow2", "-F", "qcow2"])
            .args([&guest.overlay, &restored])
            .output()
            .unwrap();
        assert!(compared.status.success(), "{compared:?}");
    });
}
