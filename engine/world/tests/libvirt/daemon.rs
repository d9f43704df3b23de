//! A libvirt daemon, started for the test in a mount namespace of its own, beside whatever the machine runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coppice_schema::units::Span;
use coppice_world::contract::hypervisor::{Subject, run};
use coppice_world::hypervisor::{Hypervisor, HypervisorError};
use coppice_world::libvirt::{Limits, Options, open};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{directory, has, image, options, ours, skip, theirs, uri};
use crate::means::Qemu;

/// A daemon of ours. It ends with this.
struct Daemon {
    place: PathBuf,
    process: Child,
}

const SETTINGS: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
    security_driver = \"none\"\nstdio_handler = \"file\"\nnamespaces = [ ]\ncgroup_controllers = [ ]\n";

impl Daemon {
    fn start(place: &Path) -> Self {
        for part in ["run", "lib", "etc", "log", "cache"] {
            std::fs::create_dir_all(place.join(part)).unwrap();
        }
        std::fs::write(place.join("etc/qemu.conf"), SETTINGS).unwrap();
        std::fs::write(place.join("etc/libvirtd.conf"), "auth_unix_rw=\"none\"\n").unwrap();
        // libvirtd has these paths built in, so it gets its own view of them. The socket is reached from outside.
        let script = "set -e; for pair in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt \
            log:/var/log/libvirt cache:/var/cache/libvirt; do mkdir -p ${pair#*:}; mount --bind $0/${pair%%:*} ${pair#*:}; \
            done; exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file $0/run/libvirtd.pid";
        let process = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script])
            .arg(place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(place.join("log/said")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Self {
            place: place.to_owned(),
            process,
        };
        let socket = daemon.socket();
        for _ in 0..600 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return daemon;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = std::fs::read_to_string(place.join("log/said")).unwrap();
        panic!("libvirtd does not listen at {}: {said}", socket.display());
    }

    fn socket(&self) -> PathBuf {
        Self::socket_in(&self.place)
    }

    fn socket_in(place: &Path) -> PathBuf {
        place.join("run/libvirt-sock")
    }

    fn address(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// `unshare` and the shell became the daemon.
    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _running = kill_process(self.pid(), Signal::CONT);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Whether a daemon can be started here.
fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can start a daemon of its own".to_owned());
    }
    for command in ["libvirtd", "unshare"] {
        if !has(command) {
            return Err(format!("{command} is not installed"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_keeps_the_contract() {
    const NAME: &str = "daemon::a_daemon_keeps_the_contract";
    let image = match possible().and_then(|()| image()) {
        Ok(image) => image,
        Err(why) => return skip(NAME, &why),
    };
    let place = directory();
    let daemon = Daemon::start(place.path());
    let at = uri(&daemon.address());
    let mine = options(ours(place.path()), place.path());
    let subject = Subject {
        hypervisor: open(&at, mine.clone()).await.unwrap(),
        grid: ours(place.path()),
        other: Some((
            open(&at, options(theirs(place.path()), place.path()))
                .await
                .unwrap(),
            theirs(place.path()),
        )),
        means: Box::new(Qemu {
            uri: daemon.address(),
            disks: place.path().to_owned(),
            image,
            traces: [
                place.path().join("lib"),
                place.path().join("run"),
                mine.seeds,
            ]
            .into(),
        }),
        boots: true,
    };
    let report = run(&subject).await;
    eprintln!("{report}");
    assert!(report.holds(), "{report}");
    assert_eq!(report.skipped, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_hangs_or_goes_is_away_and_back_when_it_returns() {
    const NAME: &str = "daemon::a_daemon_that_hangs_or_goes_is_away_and_back_when_it_returns";
    if let Err(why) = possible() {
        return skip(NAME, &why);
    }
    let place = directory();
    let daemon = Daemon::start(place.path());
    let impatient = Options {
        limits: Limits {
            look: Span::seconds(2),
            ..Limits::default()
        },
        ..options(ours(place.path()), place.path())
    };
    let hypervisor = open(&uri(&daemon.address()), impatient).await.unwrap();
    assert_eq!(hypervisor.list().await, Ok(Vec::new()));

    kill_process(daemon.pid(), Signal::STOP).unwrap();
    let hangs = hypervisor.list().await;
    assert!(
        matches!(&hangs, Err(HypervisorError::Away { cause, .. }) if cause.contains("within 2s")),
        "{hangs:?}"
    );
    kill_process(daemon.pid(), Signal::CONT).unwrap();
    listed(hypervisor.as_ref()).await;

    let mut changes = hypervisor.watch();
    drop(daemon);
    assert_eq!(
        changes.next().await,
        Some(()),
        "nobody is told that it went"
    );
    let gone = hypervisor.list().await;
    assert!(
        matches!(gone, Err(HypervisorError::Away { .. })),
        "{gone:?}"
    );
    let _daemon = Daemon::start(place.path());
    listed(hypervisor.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_comes_up_after_us_is_away_until_then() {
    const NAME: &str = "daemon::a_daemon_that_comes_up_after_us_is_away_until_then";
    if let Err(why) = possible() {
        return skip(NAME, &why);
    }
    let place = directory();
    let socket = Daemon::socket_in(place.path());
    let address = format!("qemu+unix:///system?socket={}", socket.display());
    let hypervisor = open(&uri(&address), options(ours(place.path()), place.path()))
        .await
        .unwrap();
    let away = hypervisor.capacity().await;
    assert!(
        matches!(away, Err(HypervisorError::Away { .. })),
        "{away:?}"
    );
    let _daemon = Daemon::start(place.path());
    listed(hypervisor.as_ref()).await;
    assert!(hypervisor.capacity().await.is_ok());
}

/// Waits until it answers.
async fn listed(hypervisor: &dyn coppice_world::hypervisor::Hypervisor) {
    let answers = async {
        while hypervisor.list().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answers)
        .await
        .unwrap();
}
