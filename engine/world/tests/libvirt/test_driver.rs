//! `test:///default`.

use coppice_world::contract::hypervisor::{Subject, run};
use coppice_world::libvirt::open;

use crate::machine::{directory, options, ours, theirs, uri};
use crate::means::TestDriver;

#[tokio::test(flavor = "multi_thread")]
async fn the_test_driver_keeps_the_contract() {
    let directory = directory();
    let at = uri("test:///default");
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
        means: Box::new(TestDriver { seeds: mine.seeds }),
        boots: false,
    };
    let report = run(&subject).await;
    eprintln!("{report}");
    assert!(report.holds(), "{report}");
    let skipped: Vec<&str> = report.skipped.iter().map(|(name, _)| *name).collect();
    // The driver runs nothing: what needs a process, a disk or a guest cannot be tried with it, and only that.
    assert_eq!(
        skipped,
        [
            "a domain that hangs holds up no other",
            "a domain without its disk does not start",
            "a guest answers with its own name",
            "a guest shuts down when asked, by agent or button",
            "a guest whose agent hangs is asked by its button",
            "a display can be reached and pictured",
        ]
    );
    // The domain with which the driver begins is still as it was.
    let all = subject.hypervisor.list().await.unwrap();
    let theirs: Vec<_> = all
        .iter()
        .map(|domain| (domain.name.as_str(), &domain.mark))
        .collect();
    assert_eq!(theirs, [("test", &None)]);
}
