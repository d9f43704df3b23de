//! Where a hypervisor is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::hypervisor::short_enough;

/// The address of a hypervisor, as an admin writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HypervisorUri {
    /// `sim://…`: the simulated one. What follows `sim://` is its own business.
    Sim(String),
    /// `qemu:///embed?root=DIR`: libvirt's QEMU driver inside this process, with all its state below `DIR`.
    Embedded {
        /// Absolute, and short enough for the sockets below it: see [`short_enough`].
        root: PathBuf,
    },
    /// Any other address that libvirt knows: `qemu:///system`, `test:///default`, …
    Libvirt(String),
}

/// A text that is not the address of a hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the address of a hypervisor: {why}")]
pub struct BadUri {
    /// The text.
    pub text: String,
    /// Why not, and what would be.
    pub why: &'static str,
}

/// What libvirt drives, by the scheme of its addresses; `+TRANSPORT` may follow.
const DRIVERS: [&str; 12] = [
    "bhyve", "ch", "esx", "gsx", "hyperv", "lxc", "openvz", "qemu", "test", "vbox", "vz", "xen",
];

const EXPECTED: &str = "expected qemu:///embed?root=DIR, qemu:///system, test:///default, sim:// or another libvirt URI";

impl HypervisorUri {
    /// Whether its domains run on this machine, so that their sockets, processes and disks are within reach.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Sim(_) | Self::Embedded { .. } => true,
            Self::Libvirt(text) => text
                .split_once("://")
                .is_some_and(|(_, rest)| rest.starts_with('/')),
        }
    }

    /// Whether its domains are processes of QEMU on this machine.
    #[must_use]
    pub fn is_local_qemu(&self) -> bool {
        match self {
            Self::Sim(_) => false,
            Self::Embedded { .. } => true,
            Self::Libvirt(text) => {
                text.starts_with("qemu:///") || text.starts_with("qemu+unix:///")
            }
        }
    }

    /// Where libvirt keeps the process ids of its domains, where that is known.
    pub(super) fn pid_files(&self) -> Option<PathBuf> {
        match self {
            Self::Embedded { root } => Some(root.join("run/qemu")),
            Self::Libvirt(text) if text == "qemu:///system" => Some("/run/libvirt/qemu".into()),
            Self::Libvirt(_) | Self::Sim(_) => None,
        }
    }
}

fn embedded(text: &str, query: &str) -> Result<HypervisorUri, BadUri> {
    let bad = |why| BadUri {
        text: text.chars().take(200).collect(),
        why,
    };
    let root = query
        .strip_prefix("root=")
        .ok_or_else(|| bad("the embedded hypervisor needs a directory: qemu:///embed?root=DIR"))?;
    if !root.starts_with('/') {
        return Err(bad(
            "its directory must be absolute: qemu:///embed?root=/var/lib/coppice/qemu",
        ));
    }
    // Within a URI these stand for themselves, so nothing has to be decoded, by us or by libvirt.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if !root.chars().all(plain) {
        return Err(bad(
            "its directory may hold only ASCII letters, digits and /-._~",
        ));
    }
    let root = Path::new(root).components().collect::<PathBuf>();
    if !short_enough(&root) {
        return Err(bad(
            "its directory is too long: 54 bytes at most, since the paths of unix sockets below it end at 107; choose a shorter one",
        ));
    }
    Ok(HypervisorUri::Embedded { root })
}

impl FromStr for HypervisorUri {
    type Err = BadUri;

    fn from_str(text: &str) -> Result<Self, BadUri> {
        let bad = |why| BadUri {
            text: text.chars().take(200).collect(),
            why,
        };
        if let Some(rest) = text.strip_prefix("sim://") {
            return Ok(Self::Sim(rest.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("qemu:///embed") {
            return embedded(text, rest.strip_prefix('?').unwrap_or_default());
        }
        let (scheme, _) = text.split_once("://").ok_or_else(|| bad(EXPECTED))?;
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '+';
        if scheme.is_empty() || !scheme.chars().all(fine) || text.chars().any(char::is_control) {
            return Err(bad(EXPECTED));
        }
        let driver = scheme.split('+').next().unwrap_or_default();
        if !DRIVERS.contains(&driver) {
            return Err(bad(EXPECTED));
        }
        Ok(Self::Libvirt(text.to_owned()))
    }
}

impl fmt::Display for HypervisorUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sim(rest) => write!(f, "sim://{rest}"),
            Self::Embedded { root } => write!(f, "qemu:///embed?root={}", root.display()),
            Self::Libvirt(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "sim://",
            "sim://seed=7",
            "qemu:///embed?root=/var/lib/coppice/qemu",
            "qemu:///system",
            "test:///default",
            "qemu+unix:///system?socket=/run/x",
        ] {
            assert_eq!(text.parse::<HypervisorUri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_address_says_what_would_be_right() {
        let why = |text: &str| text.parse::<HypervisorUri>().unwrap_err().to_string();
        assert!(why("qemu").contains("expected qemu:///embed?root=DIR"));
        assert!(why("").contains("expected qemu:///embed?root=DIR"));
        assert!(why("quemu:///system").contains("expected qemu:///embed?root=DIR"));
        assert!(why("qemu:///embed").contains("needs a directory"));
        assert!(why("qemu:///embed?root=here").contains("absolute"));
        assert!(why("qemu:///embed?root=/a&b").contains("ASCII"));
        assert!(why(&format!("qemu:///embed?root=/{}", "x".repeat(54))).contains("too long"));
        assert!(
            format!("qemu:///embed?root=/{}", "x".repeat(53))
                .parse::<HypervisorUri>()
                .is_ok()
        );
    }

    #[test]
    fn an_address_with_a_host_is_not_local() {
        let local = |text: &str| text.parse::<HypervisorUri>().unwrap().is_local();
        assert!(local("qemu:///system"));
        assert!(!local("qemu+ssh://root@far/system"));
    }
}
