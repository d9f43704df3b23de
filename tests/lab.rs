//! The two commands of the lab, and its packages, with every program that they call replaced by a stand-in: what
//! they do, refuse and leave behind. With the real programs they run in the tests end to end.

#![cfg(test)] // all of it, which clippy only believes when told

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A machine made of stand-ins: programs that come first in PATH, and an `/etc` of its own.
struct Machine {
    folder: TempDir,
}

/// Debian 12 with all packages, a new enough cargo, and root at the keyboard. Calls of apt are written down.
impl Machine {
    fn new() -> Self {
        // In /tmp whatever TMPDIR says: the lab's directory has to be short.
        let machine = Self {
            folder: tempfile::Builder::new()
                .prefix("cl")
                .tempdir_in("/tmp")
                .unwrap(),
        };
        let rust = manifest_value("rust-version");
        machine.etc("os-release", "ID=debian\nVERSION_ID=\"12\"\n");
        machine.program("id", "echo 0");
        machine.program("cargo", &format!("echo 'cargo {rust}.0 (stand-in)'"));
        machine.program(
            "dpkg-query",
            &format!(
                r#"for last; do :; done
                case "$*" in *source:Package*) echo "qemu installed qemu-utils"; exit 0 ;; esac
                [ "$last" != pve-manager ] || exit 1
                ! grep -qx "$last" {missing} 2>/dev/null || exit 1
                printf installed"#,
                missing = machine.path("missing").display()
            ),
        );
        machine.program(
            "apt-get",
            &format!(
                r#"echo "$@" >>{calls}
                case "$*" in *" install "*) rm -f {missing} ;; esac"#,
                calls = machine.path("apt.calls").display(),
                missing = machine.path("missing").display()
            ),
        );
        machine.program(
            "apt-cache",
            r#"case "$1" in
                policy) printf '%s:\n  Candidate: 1:7.2+deb12u9+b3\n' "$2" ;;
                madison) printf ' %s | 1:10.0~bpo12 | backports\n %s | 1:7.2+deb12u9+b3 | main\n' "$2" "$2" ;;
            esac"#,
        );
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn etc(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path("etc")).unwrap();
        fs::write(self.path("etc").join(name), text).unwrap();
    }

    fn program(&self, name: &str, body: &str) -> PathBuf {
        fs::create_dir_all(self.path("bin")).unwrap();
        let file = self.path("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn lab(&self) -> PathBuf {
        self.path("lab")
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let path = format!(
            "{}:{}",
            self.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        Command::new("sh")
            .arg(root().join("examples/lab").join(script))
            .args(arguments)
            .env("PATH", path)
            .env("COPPICE_PACKAGES_SYSTEM", self.folder.path())
            .env("COPPICE_LAB_DIR", self.lab())
            .env("COPPICE_LAB_BINARY", self.path("bin/coppice"))
            .env("COPPICE_LAB_IMAGE", self.path("etc/os-release"))
            .env_remove("COPPICE_LAB_PORT")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn apt_calls(&self) -> String {
        fs::read_to_string(self.path("apt.calls")).unwrap_or_default()
    }

    /// A `coppice` that has three desktops available a few questions after it began to serve.
    fn with_coppice(self) -> Self {
        let calls = self.path("coppice.calls").display().to_string();
        self.program(
            "coppice",
            &format!(
                r#"echo "$@" >>{calls}
                case $1 in
                    init) mkdir -p "$3"; : >"$3/coppice.toml" ;;
                    serve) echo 'a word of the server'; : >"$COPPICE_LAB_DIR/serves"; exec sleep 1000 ;;
                    status)
                        [ -e "$COPPICE_LAB_DIR/serves" ] || exit 1
                        [ "$#" = 2 ] || exit 0
                        asked=$(cat "$COPPICE_LAB_DIR/asked" 2>/dev/null || echo 0)
                        [ "$asked" = 3 ] || echo $((asked + 1)) >"$COPPICE_LAB_DIR/asked"
                        printf '{{"servers": [{{"name": "lab", "state": "up"}}],\n "pools": [{{"available": %s, "desired": 3, "name": "lab"}}]}}' "$asked" ;;
                esac"#
            ),
        );
        self
    }

    fn coppice_calls(&self, verb: &str) -> usize {
        let calls = fs::read_to_string(self.path("coppice.calls")).unwrap_or_default();
        calls.lines().filter(|line| line.starts_with(verb)).count()
    }

    fn server(&self) -> Option<String> {
        let recorded = fs::read_to_string(self.lab().join("serve.pid")).ok()?;
        recorded.split(' ').next().map(str::to_owned)
    }
}

/// A test that fails half way leaves no server behind.
impl Drop for Machine {
    fn drop(&mut self) {
        self.run("down.sh", &[]);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn manifest_value(key: &str) -> String {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let line = manifest.lines().find(|line| line.starts_with(key)).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

fn words(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", words(&output));
    words(&output)
}

#[track_caller]
fn refuses(output: Output) -> String {
    assert!(!output.status.success(), "{}", words(&output));
    words(&output)
}

fn runs(process: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn nothing_is_called_when_every_package_is_there() {
    let machine = Machine::new();
    assert!(succeeds(machine.run("packages.sh", &[])).contains("all are installed"));
    assert_eq!(machine.apt_calls(), "");
}

#[test]
fn the_packages_of_qemu_are_installed_in_one_version_of_debian() {
    let machine = Machine::new();
    fs::write(machine.path("missing"), "qemu-system-x86\nmtools\n").unwrap();
    succeeds(machine.run("packages.sh", &[]));
    let calls = machine.apt_calls();
    let install = calls
        .lines()
        .find(|line| line.contains(" install "))
        .unwrap();
    for word in [
        "--allow-downgrades",
        "mtools",
        "qemu-system-x86=1:7.2+deb12u9+b3",
        "qemu-utils=1:7.2+deb12u9+b3",
    ] {
        assert!(
            install.split(' ').any(|each| each == word),
            "{word} is not in: {install}"
        );
    }
}

#[test]
fn only_root_installs() {
    let machine = Machine::new();
    machine.program("id", "echo 1000");
    fs::write(machine.path("missing"), "mtools\n").unwrap();
    let words = refuses(machine.run("packages.sh", &[]));
    assert!(
        words.contains("only root") && words.contains("mtools"),
        "{words}"
    );
    assert_eq!(machine.apt_calls(), "");
}

/// A mirror that has another version of a package than this machine's lists say.
const MIRROR: &str = r#"case "$*" in
    *update*) touch {fresh} ;;
    *download*) [ -e {fresh} ] || { echo '404 Not Found'; exit 100; }
        for last; do :; done
        : >"${last%=*}_$(echo "${last#*=}" | sed 's/:/%3a/g')_amd64.deb" ;;
esac"#;

#[test]
fn an_image_is_built_also_when_the_package_lists_are_older_than_the_archive() {
    let machine = Machine::new();
    let fresh = machine.path("fresh").display().to_string();
    machine.program("apt-get", &MIRROR.replace("{fresh}", &fresh));
    machine.program(
        "apt-cache",
        &r#"[ -e {fresh} ] && version=1:2 || version=1:1
        case "$1" in
            depends) echo '  Depends: linux-image-6.1-cloud-amd64' ;;
            policy) shift; for name; do printf '%s:\n  Candidate: %s\n' "$name" "$version"; done ;;
        esac"#
            .replace("{fresh}", &fresh),
    );
    // Far enough: all packages are there, and are unpacked next.
    machine.program("dpkg", "echo amd64");
    machine.program("dpkg-deb", "echo 'unpacks'; exit 1");
    let (out, cache) = (machine.path("tiny.qcow2"), machine.path("cache"));
    let arguments = [
        "--out",
        out.to_str().unwrap(),
        "--cache",
        cache.to_str().unwrap(),
    ];
    let words = refuses(machine.run("image/build.sh", &arguments));
    let kept: Vec<_> = fs::read_dir(&cache).unwrap().collect();
    assert_eq!(
        (kept.len(), words.contains("unpacks")),
        (9, true),
        "{words}"
    );

    machine.program("id", "echo 1000");
    fs::remove_dir_all(&cache).unwrap();
    fs::remove_file(machine.path("fresh")).unwrap();
    let words = refuses(machine.run("image/build.sh", &arguments));
    assert!(words.contains("run apt-get update as root"), "{words}");
}

#[test]
fn a_proxmox_host_is_refused_untouched() {
    let machine = Machine::new();
    fs::write(machine.path("missing"), "qemu-system-x86\n").unwrap();
    fs::create_dir_all(machine.path("etc/pve")).unwrap();
    let words = refuses(machine.run("up.sh", &[]));
    assert!(
        words.contains("Proxmox") && words.contains("Nothing was changed"),
        "{words}"
    );
    assert_eq!(machine.apt_calls(), "");
    assert!(!machine.lab().exists());
}

#[test]
fn another_system_is_refused_untouched() {
    let machine = Machine::new();
    fs::write(machine.path("missing"), "qemu-system-x86\n").unwrap();
    machine.etc("os-release", "ID=ubuntu\nVERSION_ID=\"24.04\"\n");
    let words = refuses(machine.run("packages.sh", &[]));
    assert!(
        words.contains("not Debian 12") && words.contains("ubuntu"),
        "{words}"
    );
    assert_eq!(machine.apt_calls(), "");
}

#[test]
fn an_old_cargo_is_refused_with_the_way_to_a_newer_one() {
    let machine = Machine::new();
    machine.program("cargo", "echo 'cargo 1.63.0'");
    let words = refuses(machine.run("packages.sh", &[]));
    assert!(
        words.contains("1.63.0")
            && words.contains("rustup")
            && words.contains(&manifest_value("rust-version")),
        "{words}"
    );
}

#[test]
fn up_runs_again_and_down_leaves_nothing() {
    let machine = Machine::new().with_coppice();
    let words = succeeds(machine.run("up.sh", &[]));
    assert!(words.contains("3 of 3 are available"), "{words}");
    let server = machine.server().unwrap();
    assert!(runs(&server));
    for line in [
        "COPPICE_LAB_DIR=",
        "COPPICE_SERVER=https://127.0.0.1:",
        "COPPICE_TOKEN_FILE=",
        "COPPICE_CA_FILE=",
    ] {
        let env = fs::read_to_string(machine.lab().join("env")).unwrap();
        assert!(
            env.contains(&format!("export {line}")),
            "{line} is not in:\n{env}"
        );
    }
    let found = Command::new("sh")
        .args([
            "-euc",
            &format!(". {}/env; command -v coppice", machine.lab().display()),
        ])
        .output()
        .unwrap();
    assert_eq!(
        succeeds(found).trim(),
        machine.lab().join("bin/coppice").display().to_string()
    );

    let again = succeeds(machine.run("up.sh", &[]));
    assert!(
        again.contains(&format!("runs already, process {server}")),
        "{again}"
    );
    assert_eq!(
        (
            machine.coppice_calls("init"),
            machine.coppice_calls("image import")
        ),
        (1, 1)
    );
    assert_eq!(machine.coppice_calls("apply"), 2);

    succeeds(machine.run("down.sh", &[]));
    assert!(!machine.lab().exists());
    assert!(!runs(&server));
    assert!(succeeds(machine.run("down.sh", &[])).contains("nothing to remove"));
}

#[test]
fn a_new_binary_takes_the_place_of_the_running_one() {
    let machine = Machine::new().with_coppice();
    succeeds(machine.run("up.sh", &[]));
    let former = machine.server().unwrap();
    let binary = machine.path("bin/coppice");
    fs::write(
        &binary,
        format!("{}# newer\n", fs::read_to_string(&binary).unwrap()),
    )
    .unwrap();
    succeeds(machine.run("up.sh", &[]));
    let server = machine.server().unwrap();
    assert_ne!(server, former);
    assert!(runs(&server) && !runs(&former));
}

#[test]
fn a_server_that_ends_is_shown_with_its_last_words() {
    let machine = Machine::new().with_coppice();
    let binary = machine.path("bin/coppice");
    let text = fs::read_to_string(&binary)
        .unwrap()
        .replace("exec sleep 1000", "echo 'the port is taken'; exit 1");
    fs::write(&binary, text.replace(": >\"$COPPICE_LAB_DIR/serves\"", ":")).unwrap();
    let words = refuses(machine.run("up.sh", &[]));
    assert!(
        words.contains("the port is taken") && words.contains("serve.log"),
        "{words}"
    );
}

#[test]
fn a_folder_that_is_no_lab_is_neither_filled_nor_removed() {
    let machine = Machine::new().with_coppice();
    fs::create_dir(machine.lab()).unwrap();
    fs::write(machine.lab().join("letters"), "of love").unwrap();
    assert!(refuses(machine.run("up.sh", &[])).contains("holds something else"));
    assert!(refuses(machine.run("down.sh", &[])).contains("nothing was removed"));
    assert_eq!(fs::read_dir(machine.lab()).unwrap().count(), 1);
}

#[test]
fn a_process_that_took_the_number_of_the_server_is_left_alone() {
    let machine = Machine::new().with_coppice();
    succeeds(machine.run("up.sh", &[]));
    let server = machine.server().unwrap();
    let record = machine.lab().join("serve.pid");
    let recorded = fs::read_to_string(&record).unwrap();
    let stranger = Stranger(Command::new("sleep").arg("1000").spawn().unwrap());
    let parts: Vec<&str> = recorded.split(' ').collect();
    fs::write(
        &record,
        format!("{} {} {}", stranger.0.id(), parts[1], parts[2]),
    )
    .unwrap();
    // The start is what tells them apart; in the same hundredth of a second it could not.
    let start = |process: &str| {
        fs::read_to_string(format!("/proc/{process}/stat"))
            .unwrap()
            .split(' ')
            .nth(21)
            .unwrap()
            .to_owned()
    };
    assert_ne!(start(&server), start(&stranger.0.id().to_string()));
    succeeds(machine.run("down.sh", &[]));
    assert!(runs(&stranger.0.id().to_string()));
    succeeds(Command::new("kill").arg(&server).output().unwrap());
}

/// A process of the test's own, ended with it.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it was started");
    }
}

#[test]
fn only_this_labs_desktops_are_stopped() {
    let machine = Machine::new().with_coppice();
    succeeds(machine.run("up.sh", &[]));
    let qemu = machine.path("qemu-system-x86_64");
    fs::copy("/usr/bin/tail", &qemu).unwrap();
    let desktop = |folder: PathBuf| {
        fs::create_dir_all(&folder).unwrap();
        let disk = folder.join("disk");
        fs::write(&disk, "").unwrap();
        Stranger(
            Command::new(&qemu)
                .arg("-f")
                .arg(&disk)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let ours = desktop(machine.lab().join("hv"));
    // Another lab, in a folder whose path holds ours.
    let other = desktop(
        machine
            .path("other")
            .join(machine.lab().strip_prefix("/").unwrap()),
    );
    let words = succeeds(machine.run("down.sh", &[]));
    assert!(!runs(&ours.0.id().to_string()), "{words}");
    assert!(runs(&other.0.id().to_string()), "{words}");
}
