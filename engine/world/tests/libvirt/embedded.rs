//! `qemu:///embed?root=DIR`.

use coppice_world::contract::hypervisor::{Subject, run};
use coppice_world::libvirt::open;

use crate::machine::{alone, directory, image, options, ours, skip, theirs, uri};
use crate::means::Qemu;

#[test]
fn the_embedded_hypervisor_keeps_the_contract() {
    const NAME: &str = "embedded::the_embedded_hypervisor_keeps_the_contract";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let directory = directory();
        let root = directory.path().join("q");
        let address = format!("qemu:///embed?root={}", root.display());
        let at = uri(&address);
        let mine = options(ours(directory.path()), directory.path());
        let subject = Subject {
            hypervisor: open(&at, mine.clone()).await.unwrap(),
            grid: ours(directory.path()),
            other: Some((
                open(&at, options(theirs(directory.path()), directory.path()))
                    .await
                    .unwrap(),
                theirs(directory.path()),
            )),
            means: Box::new(Qemu {
                uri: address,
                disks: directory.path().to_owned(),
                image,
                traces: vec![root, mine.seeds.clone()],
            }),
            boots: true,
        };
        let report = run(&subject).await;
        eprintln!("{report}");
        assert!(report.holds(), "{report}");
        assert_eq!(report.skipped, []);
    });
}
