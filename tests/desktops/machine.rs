//! What these tests need of the machine: programs, root, the image, and their turn.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coppice_schema::Digest;

/// How long anything may take that will happen: emulated guests on a loaded machine are slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until `look` finds something, and fails with what it saw last.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(
                begun.elapsed() < PATIENCE,
                "after {} s there is not: {what}\n{seen}",
                PATIENCE.as_secs()
            ),
        }
        // Between two looks; what is awaited is the look.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Why guests cannot be run here, if so; fails where they must be.
pub(crate) fn lacks() -> Option<String> {
    let why = missing()?;
    assert!(
        std::env::var_os("COPPICE_REQUIRE_VIRT").is_none(),
        "these tests cannot be made: {why}"
    );
    crate::skip::skip(&why);
    Some(why)
}

fn missing() -> Option<String> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("qemu-io", "qemu-utils"),
        ("virsh", "libvirt-clients"),
    ] {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !version.is_ok_and(|status| status.success()) {
            return Some(format!("{program} is not there (apt install {package})"));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Some("only root runs QEMU by the embedded libvirt as the lab does".to_owned());
    }
    None
}

/// The directory that cargo builds these tests into, `target/debug` or the like.
fn built() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().to_path_buf()
}

/// The program under test.
pub(crate) fn binary() -> PathBuf {
    let path = std::env::var_os("COPPICE_TEST_BINARY")
        .map_or_else(|| built().join("coppice"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {}: build it first (cargo build -p coppice), or name another with COPPICE_TEST_BINARY",
        path.display()
    );
    path
}

/// The lab's image: a disk that boots in seconds and answers the guest agent.
pub(crate) fn image() -> PathBuf {
    if let Some(path) = std::env::var_os("COPPICE_TEST_IMAGE") {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "COPPICE_TEST_IMAGE is {}, which is no file",
            path.display()
        );
        return path;
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab/image");
    // Of another recipe, another file.
    let texts = ["build.sh", "init"].map(|name| std::fs::read(recipe.join(name)).unwrap());
    let folder = built().join("desktops");
    let image = folder.join(format!(
        "tiny-{}.qcow2",
        Digest::of(&texts.concat()).short()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if !image.is_file() {
        let fresh = folder.join("fresh.qcow2");
        let made = Command::new("sh")
            .arg(recipe.join("build.sh"))
            .arg("--out")
            .arg(&fresh)
            .arg("--cache")
            .arg(folder.join("packages"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "the image cannot be built: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        std::fs::rename(&fresh, &image).unwrap();
    }
    image
}

/// The right to run guests, which one test on this machine has at a time.
pub(crate) fn turn() -> File {
    let lock = File::create("/tmp/coppice-desktops.lock").unwrap();
    lock.lock().unwrap();
    lock
}
