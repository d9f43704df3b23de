//! What the tests need of the machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_world::libvirt::{Accelerate, HypervisorUri, Limits, Options};
use rustix::process::{Pid, Signal, kill_process};

/// Our grid: of each place another one, so that tests beside each other have desktops of different UUIDs.
pub(crate) fn ours(place: &Path) -> GridId {
    GridId(*uuid::Uuid::from_u64_pair(1, seed(place)).as_bytes())
}

/// Another's.
pub(crate) fn theirs(place: &Path) -> GridId {
    GridId(*uuid::Uuid::from_u64_pair(2, seed(place)).as_bytes())
}

fn seed(place: &Path) -> u64 {
    let digest = Digest::of(place.as_os_str().as_encoded_bytes());
    u64::from_le_bytes(digest.0[..8].try_into().unwrap())
}

/// The name of the test that runs in this process alone.
const ALONE: &str = "COPPICE_TEST_ALONE";

/// Says that a test cannot be made here; fails it where it must be made.
pub(crate) fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("COPPICE_REQUIRE_VIRT").is_none(),
        "{test} cannot be made: {why}"
    );
    crate::skip::skip(why);
}

/// Whether a command is there.
pub(crate) fn has(command: &str) -> bool {
    let version = Command::new(command).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Runs `test` in a process of its own, since only one embedded hypervisor can be open in each. `true`: this is it.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return true;
    }
    let output = again(test).output().unwrap();
    assert!(output.status.success(), "{test} failed:\n{}", said(&output));
    eprintln!("{}", said(&output));
    false
}

/// This program, to run one test by itself.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, test);
    command
}

fn said(output: &Output) -> String {
    let texts =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    texts.concat()
}

/// A directory short enough for sockets. At the end it is removed, and with it every guest that still runs from it:
/// a test that fails leaves nothing on the machine.
pub(crate) struct Place(tempfile::TempDir);

pub(crate) fn directory() -> Place {
    Place(
        tempfile::Builder::new()
            .prefix("cw-")
            .tempdir_in("/tmp")
            .unwrap(),
    )
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let here = self.path().as_os_str().as_encoded_bytes();
        for (pid, words) in guests() {
            if words
                .iter()
                .any(|word| word.windows(here.len()).any(|part| part == here))
            {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The processes of QEMU's guests, with their command lines.
pub(crate) fn guests() -> impl Iterator<Item = (Pid, Vec<Vec<u8>>)> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<Vec<u8>> = line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
            words.contains(&b"-uuid".to_vec()).then_some((pid, words))
        })
}

/// Options for a test: always emulated, so that it means the same on every machine.
pub(crate) fn options(grid: GridId, directory: &Path) -> Options {
    Options {
        grid,
        accelerate: Accelerate::Emulated,
        seeds: directory.join(format!("seeds-{grid}")),
        limits: Limits::default(),
    }
}

/// An address.
pub(crate) fn uri(text: &str) -> HypervisorUri {
    text.parse().unwrap()
}

/// A bootable image, or why there is none. Built once, by whichever test comes first.
pub(crate) fn image() -> Result<PathBuf, String> {
    for command in ["qemu-img", "qemu-system-x86_64"] {
        if !has(command) {
            return Err(format!("{command} is not installed"));
        }
    }
    if let Some(given) = std::env::var_os("COPPICE_TEST_IMAGE") {
        return Ok(given.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/lab/image/build.sh");
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab-image");
    std::fs::create_dir_all(&kept).unwrap();
    let turn = File::create(kept.join("lock")).unwrap();
    turn.lock().unwrap();
    // Built again when the recipe changed.
    let recipe = std::fs::read(&script).map_err(|_| format!("{} is missing", script.display()))?;
    let image = kept.join("golden.qcow2");
    if image.exists() && std::fs::read(kept.join("recipe")).is_ok_and(|known| known == recipe) {
        return Ok(image);
    }
    let mut build = Command::new("sh");
    build
        .arg(&script)
        .arg("--out")
        .arg(&image)
        .arg("--cache")
        .arg(kept.join("cache"));
    let output = build.output().unwrap();
    if !output.status.success() {
        return Err(format!("no image: {}", said(&output)));
    }
    std::fs::write(kept.join("recipe"), recipe).unwrap();
    Ok(image)
}
