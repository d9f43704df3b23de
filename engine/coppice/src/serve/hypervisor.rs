//! Which hypervisor, and with it which disks: a simulated server has its own.

use std::sync::Arc;

use coppice_schema::ids::GridId;
use coppice_world::clock::Clock;
use coppice_world::disks::{Disks, LocalDisks};
use coppice_world::hypervisor::Hypervisor;
use coppice_world::libvirt::{self, HypervisorUri, Limits, Options};
use coppice_world::moves::Moves;
use coppice_world::peers::Serves;
use coppice_world::replicas::{LocalReplicas, Replicas};
use coppice_world::sim::{Setup, SimServer};
use coppice_world::watchdog::{LinuxWatchdog, NoWatchdog, Watchdog};

use crate::config::{Accelerate, Config};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::layout::Layout;

/// What carries desktops.
pub(crate) struct World {
    /// Domains.
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// Images and overlays.
    pub(crate) disks: Arc<dyn Disks>,
    /// Desktops that leave and come, running.
    pub(crate) moves: Arc<dyn Moves>,
    /// Copies of personal desktops.
    pub(crate) replicas: Arc<dyn Replicas>,
    /// What ends desktops when the grid may have given this server up.
    pub(crate) watchdog: Arc<dyn Watchdog>,
    /// What gives other servers the images of this one.
    pub(crate) images: Arc<dyn Serves>,
}

/// Whether `uri` is the address of a hypervisor; if not, why, in words.
pub(crate) fn check(uri: &str) -> Result<(), String> {
    match uri.parse::<HypervisorUri>() {
        Ok(HypervisorUri::Sim(_)) => uri.parse::<Setup>().map(drop).map_err(|e| e.to_string()),
        Ok(HypervisorUri::Embedded { .. } | HypervisorUri::Libvirt(_)) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Opens the hypervisor and the disks that `config` names.
pub(crate) async fn open(
    config: &Config,
    layout: &Layout,
    grid: GridId,
    clock: Arc<dyn Clock>,
) -> Result<World, Failure> {
    let uri = &config.hypervisor;
    let wrong = |why: String| {
        Failure::new(format!(
            "`hypervisor` in coppice.toml is {uri:?}, which cannot be used"
        ))
        .cause(why)
        .hint("correct that line, and start `coppice serve` again")
        .exit(Exit::Invalid)
    };
    let parsed: HypervisorUri = uri
        .parse()
        .map_err(|e: libvirt::BadUri| wrong(e.to_string()))?;
    if let HypervisorUri::Sim(_) = parsed {
        let setup: Setup = uri
            .parse()
            .map_err(|e: coppice_world::sim::BadSimUri| wrong(e.to_string()))?;
        tracing::warn!(
            "the hypervisor is simulated: nothing runs, and all of it is gone when this process ends"
        );
        let server = SimServer::new(
            Setup {
                grid: Some(grid),
                ..setup
            },
            clock,
        );
        return Ok(World {
            hypervisor: server.clone(),
            moves: server.clone(),
            replicas: server.clone(),
            watchdog: server.watchdog(),
            images: server.giver(),
            disks: server,
        });
    }
    let disks = LocalDisks::open(layout.disks(), grid)
        .await
        .map_err(|e| Failure::new("cannot open this server's images").because(&e))?;
    if matches!(parsed, HypervisorUri::Libvirt(_)) && parsed.is_local() {
        let_qemu_pass(layout)?;
    }
    let options = Options {
        grid,
        accelerate: match config.accelerate {
            Accelerate::Auto => libvirt::Accelerate::Auto,
            Accelerate::Kvm => libvirt::Accelerate::Kvm,
            Accelerate::Emulated => libvirt::Accelerate::Emulated,
        },
        seeds: layout.seeds(),
        limits: Limits::default(),
    };
    let hypervisor = libvirt::open(&parsed, options).await.map_err(|e| {
        Failure::new(format!("cannot open the hypervisor {uri}"))
            .because(&e)
            .hint("one process at a time can have its directory open: is another `coppice serve` running?")
            .hint("are QEMU and libvirt's QEMU driver installed? on Debian: apt install qemu-system-x86 libvirt-daemon-driver-qemu")
            .hint(format!("try it by hand, while no server runs: virsh -c '{uri}' version"))
    })?;
    Ok(World {
        moves: hypervisor.clone(),
        watchdog: watchdog(&parsed, layout),
        replicas: Arc::new(LocalReplicas::new(hypervisor.clone(), disks.clone())),
        hypervisor,
        images: Arc::new(disks.clone()),
        disks: Arc::new(disks),
    })
}

/// The process that ends desktops here; none where they are no processes of this machine.
fn watchdog(uri: &HypervisorUri, layout: &Layout) -> Arc<dyn Watchdog> {
    if !uri.is_local_qemu() {
        return Arc::new(NoWatchdog::new(
            "its desktops are no processes of QEMU on this machine",
        ));
    }
    let socket = layout.watchdog();
    let arguments = ["watchdog".into(), "--socket".into(), socket.clone().into()];
    Arc::new(LinuxWatchdog::new(
        socket,
        // Also after an upgrade has replaced it.
        "/proc/self/exe".into(),
        arguments.into(),
    ))
}

/// A daemon's QEMU is another user, and comes to its disks through our directories. What is secret in them is closed
/// by itself: keys, log, snapshots and uploads in directories of mode 0700, the first token in a file of mode 0600.
fn let_qemu_pass(layout: &Layout) -> Result<(), Failure> {
    let disks = layout.disks();
    let way = [
        layout.data(),
        disks.clone(),
        disks.join("images"),
        disks.join("overlays"),
        layout.seeds(),
    ];
    libvirt::let_pass(&way).map_err(|e| {
        Failure::new(format!(
            "cannot let the hypervisor's user pass through {}",
            layout.data().display()
        ))
        .because(&e)
        .hint("run `coppice serve` as the user whom that directory belongs to")
    })?;
    if let Some(shut) = libvirt::barred(&disks) {
        let shut = shut.display();
        tracing::warn!(
            "the user that runs QEMU cannot pass {shut}, so desktops will not start if it is another than ours: chmod o+x {shut}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn others_pass_to_the_disks_and_to_nothing_that_is_secret() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let layout = Layout::new(&place.path().join("d"));
        let private = [layout.identity(), layout.grid(), layout.uploads()];
        for directory in &private {
            std::fs::create_dir_all(directory).unwrap();
            let mode = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(directory, mode).unwrap();
        }
        std::fs::set_permissions(layout.data(), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir_all(layout.disks()).unwrap();
        let_qemu_pass(&layout).unwrap();
        let mode =
            |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let disks = layout.disks();
        let overlays = disks.join("overlays");
        for passed in [&layout.data(), &disks, &overlays, &layout.seeds()] {
            assert_eq!(mode(passed), 0o711, "{}", passed.display());
        }
        for closed in &private {
            assert_eq!(mode(closed), 0o700, "{}", closed.display());
        }
        // The test's own directory is above them, and closed.
        assert_eq!(libvirt::barred(&disks).as_deref(), Some(place.path()));
    }
}
