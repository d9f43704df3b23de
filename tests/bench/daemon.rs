//! A libvirt daemon of our own, in a mount namespace of its own, beside whatever the machine runs.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

const SETTINGS: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nsecurity_driver = \"none\"\n\
    stdio_handler = \"file\"\nnamespaces = [ ]\ncgroup_controllers = [ ]\n";

/// libvirtd has its paths built in, so it gets its own view of them; the socket is reached from outside. `unshare`
/// and the shell become the daemon, so that their process is its process.
const SCRIPT: &str = "set -e; for pair in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt \
    log:/var/log/libvirt cache:/var/cache/libvirt; do mkdir -p ${pair#*:}; mount --bind $0/${pair%%:*} ${pair#*:}; \
    done; exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file $0/run/libvirtd.pid";

/// It ends with this.
pub(crate) struct Daemon {
    place: PathBuf,
    process: Child,
}

impl Daemon {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// In words, why there can be none here.
    pub(crate) fn start(place: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can start a libvirtd of its own".to_owned());
        }
        let cannot = |what: &str, e: std::io::Error| format!("cannot {what} for libvirtd: {e}");
        for part in ["run", "lib", "etc", "log", "cache"] {
            std::fs::create_dir_all(place.join(part)).map_err(|e| cannot("make directories", e))?;
        }
        let files = [
            ("etc/qemu.conf", SETTINGS),
            ("etc/libvirtd.conf", "auth_unix_rw=\"none\"\n"),
        ];
        for (name, text) in files {
            std::fs::write(place.join(name), text).map_err(|e| cannot("write settings", e))?;
        }
        let said = place.join("log/said");
        let log = std::fs::File::create(&said).map_err(|e| cannot("make a log", e))?;
        let process = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", SCRIPT])
            .arg(place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| cannot("run unshare", e))?;
        let mut daemon = Self {
            place: place.to_owned(),
            process,
        };
        let begun = Instant::now();
        while UnixStream::connect(daemon.socket()).is_err() {
            let ended = daemon.process.try_wait().ok().flatten().is_some();
            if ended || begun.elapsed() > Duration::from_secs(60) {
                let said = std::fs::read_to_string(said).unwrap_or_default();
                return Err(format!("libvirtd does not listen: {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.place.join("run/libvirt-sock")
    }

    pub(crate) fn address(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}
