//! Desktops outlive the process that started them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coppice_schema::known::{GuestState, PowerState};
use coppice_schema::units::Span;
use coppice_world::hypervisor::{Definition, Domain, Hypervisor, HypervisorError};
use coppice_world::libvirt::open;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

use crate::machine::{again, alone, directory, image, options, ours, skip, uri};
use crate::means::{definition, overlay, process};

/// Where the process that is killed finds its directory.
const PLACE: &str = "COPPICE_TEST_PLACE";
/// What it says when its desktops run.
const RUNNING: &str = "two desktops run";

fn address(place: &Path) -> coppice_world::libvirt::HypervisorUri {
    uri(&format!("qemu:///embed?root={}", place.join("q").display()))
}

fn desktops(place: &Path) -> [Definition; 2] {
    [1, 2].map(|number| definition(ours(place), number, place.join(format!("{number}.qcow2"))))
}

fn running(domains: &[Domain]) -> Vec<PowerState> {
    let powers = domains.iter().map(|domain| domain.power.clone());
    powers
        .filter(|power| matches!(power, PowerState::Running { .. }))
        .collect()
}

/// Not a test of its own: the process that starts desktops and is killed. Without a place it does nothing.
#[test]
fn keeper() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    Runtime::new().unwrap().block_on(async {
        let hypervisor = open(&address(&place), options(ours(&place), &place))
            .await
            .unwrap();
        for desktop in desktops(&place) {
            hypervisor.define(&desktop).await.unwrap();
            hypervisor.start(desktop.spec.uuid).await.unwrap();
        }
        let seen = hypervisor.list().await.unwrap();
        eprintln!("{RUNNING} {:?}", running(&seen));
        std::future::pending::<()>().await;
    });
}

#[test]
fn desktops_outlive_a_killed_process_and_are_adopted() {
    const NAME: &str = "adoption::desktops_outlive_a_killed_process_and_are_adopted";
    let image = match image() {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    if !alone(NAME) {
        return;
    }
    let place = directory();
    let place = place.path();
    for desktop in desktops(place) {
        overlay(&image, &desktop.overlay).unwrap();
    }
    let mut keeper = again("adoption::keeper");
    let mut keeper = keeper
        .env(PLACE, place)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(keeper.stderr.take().unwrap()).lines();
    let told = lines
        .map_while(Result::ok)
        .find(|line| line.contains(RUNNING))
        .unwrap();

    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        // While it lives, nobody else can open the directory, and is told who has it.
        let second = open(&address(place), options(ours(place), place))
            .await
            .err();
        let Some(HypervisorError::Away { cause, .. }) = &second else {
            panic!("opened twice: {second:?}");
        };
        assert!(
            cause.contains(&format!("process {} (", keeper.id())),
            "{cause}"
        );
        assert!(cause.contains("stop it"), "{cause}");

        keeper.kill().unwrap();
        keeper.wait().unwrap();

        let hypervisor = open(&address(place), options(ours(place), place))
            .await
            .unwrap();
        let seen = hypervisor.list().await.unwrap();
        let still = running(&seen);
        assert_eq!(still.len(), 2, "{seen:?}");
        assert_eq!(
            told,
            format!("{RUNNING} {still:?}"),
            "a start of ours looks like a start of the guest"
        );
        for (domain, desktop) in seen.iter().zip(desktops(place)) {
            assert_eq!(domain.mark, Some(desktop.mark));
            let written = domain.written.as_ref().unwrap();
            assert_eq!(written.hardware, desktop.spec.hardware);
            assert!(!written.stale_until_reboot);
        }
        answers(hypervisor.as_ref(), &desktops(place)[0]).await;
        ends(hypervisor.as_ref(), place).await;
    });
}

/// The guest can be asked again.
async fn answers(hypervisor: &dyn Hypervisor, desktop: &Definition) {
    let answer = async {
        loop {
            if let GuestState::Answers { hostname, .. } =
                hypervisor.ask_guest(desktop.spec.uuid).await.unwrap()
            {
                break hostname;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let hostname = tokio::time::timeout(Duration::from_secs(120), answer)
        .await
        .unwrap();
    assert_eq!(hostname, desktop.spec.hostname);
}

/// Adopted desktops are ended as any other; one dies while nobody looks.
async fn ends(hypervisor: &dyn Hypervisor, place: &Path) {
    let [first, second] = desktops(place).map(|desktop| desktop.spec.uuid);
    hypervisor.stop(first, Span::seconds(60)).await.unwrap();
    hypervisor.undefine(first).await.unwrap();
    let pid: Pid = process(second).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let crashed = async {
        while hypervisor.list().await.unwrap()[0].power != PowerState::Crashed {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), crashed)
        .await
        .unwrap();
    hypervisor.undefine(second).await.unwrap();
    assert_eq!(hypervisor.list().await.unwrap(), []);
}
