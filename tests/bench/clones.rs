//! Row 1: durable linked clones a second, beside `qemu-img create -b` and `virsh vol-create-as`.
//!
//! Who syncs what: Coppice writes a batch under temporary names, syncs the file system once, gives the names and
//! syncs the directory. qemu-img syncs each of its files itself; virsh has libvirtd run qemu-img. The names that
//! these two made are made durable by one sync of the file system at the end of each turn, which counts. So all
//! that is counted is on the disk, and all of it passed `qemu-img check`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coppice_golden::{Cancel, Mark, Options, Store};
use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, Stamp};
use coppice_schema::units::Size;

use crate::cost::{self, By, Turns, Whose};
use crate::daemon::Daemon;
use crate::line::{Comparison, Line};
use crate::{Bench, Row, say};

pub(crate) const ROW: Row = Row {
    number: 1,
    // qemu-img and libvirt are what Coppice itself needs.
    packages: &[],
    measure,
};

/// Virtual size of each clone's disk.
const DISK: u64 = 60 << 30;

fn measure(bench: &Bench) -> Result<Vec<Line>, String> {
    let base = base(&bench.place)?;
    let (ours_each, image_each, virsh_each) = (bench.size(1000), bench.size(200), bench.size(100));
    let mut ours = Turns::new("Coppice", f64::from(ours_each));
    let mut limit = Turns::new(
        "the same bytes, written and synced once",
        f64::from(ours_each),
    );
    let mut image = Turns::new("qemu-img", f64::from(image_each));
    let mut virsh = Turns::new("virsh", f64::from(virsh_each));
    spread(&bench.place);
    let daemon = Daemon::start(&bench.place.join("daemon"));
    if let Err(why) = &daemon {
        say(&format!("row 1: no comparison with virsh: {why}"));
    }
    for round in 1..=bench.rounds {
        say(&format!("row 1: round {round} of {}", bench.rounds));
        let place = |side: &str| fresh(&bench.place, &format!("{side}-{round}"));
        limit.costs.push(written(&place("limit")?, ours_each)?);
        ours.costs
            .push(coppice(&place("store")?, &base, ours_each)?);
        image
            .costs
            .push(qemu_img(&place("image")?, &base, image_each)?);
        if let Ok(daemon) = &daemon {
            let place = place("virsh")?;
            virsh
                .costs
                .push(volumes(daemon, &place, &base, virsh_each)?);
        }
    }
    for turns in [&ours, &image, &virsh, &limit] {
        say(&format!("row 1: {}", turns.describe("clones a second")));
    }
    let virsh = (!virsh.costs.is_empty()).then_some(&virsh);
    let line = |metric, by, peer, target| {
        Comparison {
            row: ROW.number,
            metric,
            unit: "clones/s",
            by,
            ours: &ours,
            peer,
            limit: Some(&limit),
            target,
        }
        .line()
    };
    Ok(vec![
        line(
            "durable linked clones, wall, beside qemu-img",
            By::Wall,
            Some(&image),
            50.0,
        )?,
        line(
            "durable linked clones, CPU, beside qemu-img",
            By::Processors,
            Some(&image),
            100.0,
        )?,
        line(
            "durable linked clones, wall, beside virsh",
            By::Wall,
            virsh,
            100.0,
        )?,
        line(
            "durable linked clones, CPU, beside virsh",
            By::Processors,
            virsh,
            100.0,
        )?,
    ])
}

/// The image that all clone: 1 MiB, since its size costs nobody anything.
fn base(place: &Path) -> Result<PathBuf, String> {
    let path = place.join("base.raw");
    let bytes: Vec<u8> = (0u8..=255).cycle().take(1 << 20).collect();
    std::fs::write(&path, bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

/// Has ext4 spread the directories in `place` over the disk. It keeps the files of one directory together, and when it
/// makes a file there it passes, one by one, over the inodes of files that were deleted in the last minutes: a turn
/// would pay for what other turns, or other programs, have removed. So nothing is removed before the end either.
fn spread(place: &Path) {
    // Another file system has no such flag, and no need of it.
    let _other = done(Command::new("chattr").arg("+T").arg(place));
}

/// An empty directory, and nothing left to write on its file system that another turn has caused.
fn fresh(place: &Path, name: &str) -> Result<PathBuf, String> {
    let path = place.join(name);
    std::fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    sync(&path)?;
    Ok(path)
}

fn sync(place: &Path) -> Result<(), String> {
    let synced = File::open(place).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(|e| format!("cannot sync {}: {e}", place.display()))
}

fn coppice(place: &Path, base: &Path, many: u32) -> Result<cost::Cost, String> {
    let store = Store::open(place).map_err(|e| e.to_string())?;
    let options = Options {
        keep_free: Size(0),
        ..Options::default()
    };
    let image = store
        .import(base, &options, &mut |_| {}, &Cancel::new())
        .map_err(|e| e.to_string())?;
    let specs: Vec<Mark> = (1..=many)
        .map(|n| mark(n, image.root))
        .collect::<Result<_, _>>()?;
    sync(place)?;
    let (cost, written) = cost::of(Whose::Mine, || {
        store.write_overlays(&specs).map_err(|e| e.to_string())
    })?;
    let paths: Result<Vec<PathBuf>, _> =
        written.into_iter().map(|one| one.map(|w| w.path)).collect();
    check(&paths.map_err(|e| e.to_string())?, many)?;
    Ok(cost)
}

fn mark(n: u32, image: Digest) -> Result<Mark, String> {
    let member = format!("bench-{n:03}@1");
    Ok(Mark {
        grid: GridId([7; 16]),
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        member: member
            .parse()
            .map_err(|_| format!("{member} is no desktop"))?,
        image,
        size: Size(DISK),
        stamp: Stamp {
            epoch: 1,
            term: 1,
            index: u64::from(n),
            ordinal: 0,
        },
    })
}

/// What the disk allows: as many files as clones, each with the bytes of one, and one sync.
fn written(place: &Path, many: u32) -> Result<cost::Cost, String> {
    let (cost, ()) = cost::of(Whose::Mine, || {
        for n in 1..=many {
            let made = File::create(place.join(n.to_string())).and_then(|file| {
                for cluster in 0..3 {
                    file.write_all_at(&[1; 200], cluster << 16)?;
                }
                file.set_len(4 << 16)
            });
            made.map_err(|e| format!("cannot write into {}: {e}", place.display()))?;
        }
        sync(place)
    })?;
    Ok(cost)
}

fn qemu_img(place: &Path, base: &Path, many: u32) -> Result<cost::Cost, String> {
    let names: Vec<PathBuf> = (1..=many)
        .map(|n| place.join(format!("{n}.qcow2")))
        .collect();
    let (cost, ()) = cost::of(Whose::Programs, || {
        for name in &names {
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
            done(create.arg(base).arg(name).arg(DISK.to_string()))?;
        }
        sync(place)
    })?;
    check(&names, many)?;
    Ok(cost)
}

/// All by one virsh, which is the kindest to it.
fn volumes(daemon: &Daemon, place: &Path, base: &Path, many: u32) -> Result<cost::Cost, String> {
    let local = place.join("base.raw");
    std::fs::copy(base, &local).map_err(|e| format!("cannot copy the image: {e}"))?;
    let virsh = |commands: &str| {
        let mut virsh = Command::new("virsh");
        done(virsh.args(["-q", "-c", &daemon.address(), commands]))
    };
    virsh(&format!(
        "pool-create-as bench dir --target {}",
        place.display()
    ))?;
    let create = |n| {
        format!(
            "vol-create-as bench {n}.qcow2 {DISK} --format qcow2 --backing-vol base.raw --backing-vol-format raw"
        )
    };
    let commands: Vec<String> = (1..=many).map(create).collect();
    let commands = commands.join("; ");
    let (cost, ()) = cost::of(Whose::ProgramsAnd(daemon.pid()), || {
        virsh(&commands)?;
        sync(place)
    })?;
    virsh("pool-destroy bench")?;
    let names: Vec<PathBuf> = (1..=many)
        .map(|n| place.join(format!("{n}.qcow2")))
        .collect();
    check(&names, many)?;
    Ok(cost)
}

/// Runs a program that must succeed.
fn done(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed: {}", said.trim()))
}

/// Every clone is one, or none of the turn counts.
fn check(clones: &[PathBuf], many: u32) -> Result<(), String> {
    if u32::try_from(clones.len()) != Ok(many) {
        return Err(format!(
            "{many} clones were asked for, {} made",
            clones.len()
        ));
    }
    for clone in clones {
        done(
            Command::new("qemu-img")
                .args(["check", "-q", "-f", "qcow2"])
                .arg(clone),
        )?;
    }
    Ok(())
}
