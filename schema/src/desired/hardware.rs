//! Images, networks and the machines that are made of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::calendar::Recurrence;
use crate::digest::Digest;
use crate::ids::{DirectoryName, ImageName, NetworkName, VersionName};
use crate::units::{Size, Span};

/// What a virtual network card is plugged into.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Network {
    /// The far end, unless a server maps the name otherwise.
    pub target: NetworkTarget,
}

/// The far end of a virtual cable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkTarget {
    /// A bridge of the host.
    Bridge {
        /// Its interface name.
        bridge: String,
        /// VLAN tag, 1 to 4094.
        vlan: Option<u16>,
    },
    /// A network of libvirt.
    Libvirt {
        /// Its name there.
        network: String,
        /// VLAN tag, 1 to 4094.
        vlan: Option<u16>,
    },
    /// Emulated in user space; needs no privileges and is not reachable from outside.
    User,
}

/// A golden image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Which bytes are meant.
    pub origin: Origin,
    /// What the source's BLAKE3 must be.
    pub digest: Option<Digest>,
    /// What runs in it.
    pub os: Os,
    /// How many servers hold a verified copy.
    pub copies: Copies,
    /// Earlier versions kept for going back.
    pub keep: u32,
    /// Whether qemu-guest-agent answers in it.
    pub agent: bool,
    /// For guests without the agent: how long after its start a desktop counts as ready.
    pub ready_after: Option<Span>,
    /// How it keeps itself patched.
    pub update: Option<ImageUpdate>,
    /// No plan may destroy it without approval.
    pub protect: bool,
}

/// Which bytes an image block means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A version that was, or will be, imported under that name.
    Version(VersionName),
    /// A file beside the configuration.
    Source {
        /// Its path as written.
        path: String,
        /// The BLAKE3 of its bytes, where the plan was made; `None` when it is not there.
        digest: Option<Digest>,
    },
}

/// What runs in a guest: decides defaults and the rules for host names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// Any Linux.
    Linux,
    /// Any Windows: host names of at most 15 characters.
    Windows,
    /// Anything else.
    Other,
}

/// On how many servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copies {
    /// Each server that could run a desktop of it.
    All,
    /// That many.
    Count(u32),
}

/// How an image keeps itself patched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageUpdate {
    /// When.
    pub at: Recurrence,
    /// Script run in the guest.
    pub script: String,
    /// Script that must succeed before the result is published.
    pub test: Option<String>,
    /// Limit for both.
    pub timeout: Span,
}

/// The hardware that desktops of a kind have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Template {
    /// The image its desktops are clones of.
    pub image: ImageName,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Size,
    /// Virtual size of the disk; the image's without.
    pub disk: Option<Size>,
    /// Size to which an overlay may grow.
    pub disk_limit: Option<Size>,
    /// Firmware; by the image's `os` without.
    pub firmware: Firmware,
    /// A virtual TPM.
    pub tpm: bool,
    /// Network cards in order.
    pub networks: Vec<NetworkName>,
    /// How its screen is reached.
    pub displays: BTreeSet<Display>,
    /// Video hardware; by display without.
    pub video: Option<Video>,
    /// Host caching; by the pool's assignment without.
    pub cache: Option<Cache>,
    /// What is done inside the guest.
    pub guest: Option<Guest>,
    /// XML merged into the domain, at own risk.
    pub libvirt_xml: Option<String>,
}

/// How a machine boots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// UEFI with secure boot.
    UefiSecure,
}

/// How a screen is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// From the hypervisor.
    Vnc,
    /// From the hypervisor.
    Spice,
    /// From inside the guest.
    Rdp,
}

/// Video hardware.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Video {
    /// Standard VGA.
    Vga,
    /// virtio-gpu.
    Virtio,
    /// QXL, for SPICE.
    Qxl,
}

/// Host caching of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Through the host's page cache: for desktops that can be regrown.
    Writeback,
    /// Around it: for desktops whose disk matters.
    None,
}

/// What is done inside the guest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Guest {
    /// Whether the guest's host name is set.
    pub hostname: bool,
    /// Script run at first boot.
    pub script: Option<String>,
    /// Directory whose domain it joins.
    pub join: Option<DirectoryName>,
    /// Profile path, with `{user}`.
    pub profile_path: Option<String>,
    /// Windows answer file.
    pub specialize: Option<String>,
}
