//! Running desktops between two embedded hypervisors, each in a process of its own, as on two servers.

mod far;

use std::path::Path;
use std::sync::Arc;

use coppice_world::contract::moves::{GUESTS, Subject, run};
use coppice_world::hypervisor::Definition;
use coppice_world::libvirt::{HypervisorUri, Libvirt, open};
use tokio::runtime::Runtime;
use virt::connect::Connect;

use self::far::Far;
use crate::machine::{alone, directory, image, options, ours, skip, uri};
use crate::means::{definition, overlay};

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
