//! `qemu:///embed?root=DIR`.

use coppice_world::contract::hypervisor::{Subject, run};
use coppice_world::libvirt::open;

use crate::machine::{OURS, THEIRS, alone, directory, image, options, skip, uri};
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
        let subject = Subject {
            hypervisor: open(&at, options(OURS, directory.path())).await.unwrap(),
            grid: OURS,
            other: Some((
                open(&at, options(THEIRS, directory.path())).await.unwrap(),
                THEIRS,
            )),
            means: Box::new(Qemu {
                uri: address,
                disks: directory.path().to_owned(),
                image,
                traces: vec![root, directory.path().join(format!("seeds-{OURS}"))],
            }),
            boots: true,
        };
        let report = run(&subject).await;
        eprintln!("{report}");
        assert!(report.holds(), "{report}");
        assert_eq!(report.skipped, []);
    });
}
