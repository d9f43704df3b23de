//! What the admins asked for: a configuration, read, evaluated and resolved.
//!
//! Every value has its type and unit, every reference is known to lead somewhere, every default stands here and
//! nowhere else. Fields that no issue carries out yet are here too: they were said, so they are kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{
    Address, DirectoryName, ImageName, LocationName, NetworkName, PolicyName, PoolName, SecretName,
    Slot, TemplateName, VersionName, WindowName,
};
use crate::units::{Share, Size, Span};

/// A whole configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Desired {
    /// The `grid` block; its defaults when there is none.
    pub grid: Grid,
    /// `window` blocks.
    pub windows: BTreeMap<WindowName, Window>,
    /// `network` blocks.
    pub networks: BTreeMap<NetworkName, Network>,
    /// `directory` blocks.
    pub directories: BTreeMap<DirectoryName, Directory>,
    /// `location` blocks.
    pub locations: BTreeMap<LocationName, Location>,
    /// `image` blocks.
    pub images: BTreeMap<ImageName, Image>,
    /// `template` blocks.
    pub templates: BTreeMap<TemplateName, Template>,
    /// `policy` blocks as written; a pool's effective policy is in [`Pool::policy`].
    pub policies: BTreeMap<PolicyName, Policy>,
    /// `pool` blocks.
    pub pools: BTreeMap<PoolName, Pool>,
    /// `server` blocks in the order of their patterns.
    pub servers: BTreeMap<String, ServerRule>,
    /// `moved` blocks.
    pub moved: BTreeSet<Moved>,
}

/// The `grid` block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Grid {
    /// Its label.
    pub name: String,
    /// IANA time zone in which clocks and days are meant.
    pub timezone: String,
    /// How many servers may be lost with all pools still carried, 0 to 2.
    pub tolerate_server_loss: u8,
    /// Silence after which a server counts as lost.
    pub lost_after: Span,
    /// Bytes per second that image copies may use in the grid; unlimited without.
    pub image_bandwidth: Option<Size>,
    /// One address for the whole grid.
    pub address: Option<std::net::IpAddr>,
    /// The portal's certificate; the grid's own CA without.
    pub certificate: Option<Certificate>,
    /// How many revisions are kept to go back to.
    pub keep_revisions: u32,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            name: "grid".to_owned(),
            timezone: "UTC".to_owned(),
            tolerate_server_loss: 0,
            lost_after: Span::seconds(5),
            image_bandwidth: None,
            address: None,
            certificate: None,
            keep_revisions: 50,
        }
    }
}

/// Where the portal's certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certificate {
    /// PEM texts brought along with the configuration; the key is a secret.
    Files {
        /// The chain, leaf first.
        certificate: String,
        /// The secret that holds the private key.
        key: SecretName,
    },
    /// An ACME account.
    Acme {
        /// Directory URL.
        directory: String,
        /// Contact address.
        email: String,
        /// Names that the certificate is for.
        domains: Vec<String>,
    },
}

/// A time at which something may, or may not, be done: repeated clock times or cron with a length.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Window {
    /// When it is open.
    pub opening: Opening,
    /// Within it disruptive work is refused.
    pub deny: bool,
}

/// When a window is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opening {
    /// On each of `days` from `from` until `to`, over midnight when `to` is not later.
    Weekly(Weekly),
    /// At each time of `cron`, for `duration`.
    Cron {
        /// The times.
        cron: Cron,
        /// How long it stays open.
        duration: Span,
    },
}

/// Clock times on some days of each week, in the grid's time zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Weekly {
    /// On which days it begins.
    pub days: Days,
    /// Begin, minutes after midnight, 0 to 1439.
    pub from: ClockTime,
    /// End; not later than `from`: on the next day.
    pub to: ClockTime,
}

/// A time of day: minutes after midnight, 0 to 1439; written "07:30".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockTime(pub u16);

/// Days of a week; bit 0 is Monday. Never empty once resolved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Days(pub u8);

/// A cron expression of five fields, expanded to what matches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cron {
    /// The text as written.
    pub text: String,
    /// Minutes 0 to 59.
    pub minutes: BTreeSet<u8>,
    /// Hours 0 to 23.
    pub hours: BTreeSet<u8>,
    /// Days of the month 1 to 31.
    pub days: BTreeSet<u8>,
    /// Months 1 to 12.
    pub months: BTreeSet<u8>,
    /// Days of the week, 0 is Monday.
    pub weekdays: BTreeSet<u8>,
    /// Both day fields were restricted: a day matches when either does, as in Vixie cron.
    pub either_day: bool,
}

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

/// A directory of people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Directory {
    /// What it is.
    pub kind: DirectoryKind,
    /// Servers in the order in which they are tried.
    pub uri: Vec<String>,
    /// DNS domain, for discovery.
    pub domain: Option<String>,
    /// PEM text of the CA that its certificates must chain to; the system's without.
    pub ca: Option<String>,
    /// Begin TLS on a plain connection.
    pub start_tls: bool,
    /// Who looks people up.
    pub bind_user: Option<String>,
    /// The secret with that user's password.
    pub bind_password: Option<SecretName>,
    /// Where people are.
    pub base_dn: Option<String>,
    /// Which entries are people.
    pub user_filter: Option<String>,
    /// The attribute that holds the login.
    pub user_attr: Option<String>,
    /// The attribute that never changes.
    pub id_attr: Option<String>,
    /// Where groups are.
    pub group_base_dn: Option<String>,
    /// Which entries are groups.
    pub group_filter: Option<String>,
    /// The attribute that holds members.
    pub member_attr: Option<String>,
    /// Whether groups in groups count.
    pub nested_groups: bool,
    /// Group without which nobody signs in.
    pub require_group: Option<String>,
    /// Limit for a connection.
    pub connect_timeout: Span,
    /// Limit for an answer.
    pub timeout: Span,
    /// Entries asked for at once.
    pub page_size: u32,
    /// How long an answer is believed.
    pub cache_ttl: Span,
    /// One-time codes.
    pub totp: Totp,
    /// Where computer accounts are made.
    pub computers: Option<Computers>,
}

/// Kinds of directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryKind {
    /// Microsoft Active Directory, or Samba as one.
    Ad,
    /// OpenLDAP.
    OpenLdap,
    /// FreeIPA.
    FreeIpa,
    /// Any other LDAP server.
    Ldap,
    /// Users in the grid's own state.
    Local,
    /// OpenID Connect.
    Oidc,
}

/// Whether one-time codes are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Totp {
    /// Never.
    Off,
    /// From those who enrolled.
    Optional,
    /// From everyone.
    Required,
}

/// Where and as whom computer accounts are made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Computers {
    /// Organisational unit.
    pub ou: String,
    /// Who makes them.
    pub bind_user: String,
    /// The secret with that user's password.
    pub bind_password: SecretName,
}

/// A place from which people come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Location {
    /// Networks in CIDR notation.
    pub clients: Vec<String>,
    /// Printers there.
    pub printers: Vec<String>,
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

/// A repeated moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// On each of these days at that time.
    Weekly {
        /// The days.
        days: Days,
        /// The time.
        at: ClockTime,
    },
    /// At each time of a cron expression.
    Cron(Cron),
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

/// Rules for a pool's desktops. Attributes that were not set are `None`, so that several policies can be merged;
/// [`Pool::policy`] is the merged one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// When desktops are regrown.
    pub refresh: Option<Refresh>,
    /// How a change reaches desktops; [`Rollout::default`] without.
    pub rollout: Rollout,
    /// How many are running; all without.
    pub power: Option<Power>,
    /// Limits of sessions.
    pub session: Option<SessionRules>,
    /// What passes between client and desktop.
    pub channels: Option<Channels>,
    /// What is done about changes made by others.
    pub drift: DriftRules,
}

/// When desktops are regrown. Any trigger fires.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// The end of a session.
    pub on: Option<RefreshOn>,
    /// That long after it was grown.
    pub every: Option<Span>,
    /// At repeated moments.
    pub at: Option<Recurrence>,
    /// Never older than that.
    pub max_age: Option<Span>,
    /// A used desktop is regrown anyway, that long after the trigger.
    pub deadline: Option<Span>,
    /// Its user is warned that long before.
    pub warn: Option<Span>,
}

/// Ends of a session that regrow a desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefreshOn {
    /// At log-off.
    Logoff,
    /// At disconnect.
    Disconnect,
    /// Never.
    Never,
}

/// How a change reaches the desktops of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// At most so many are taken away at once.
    pub max_unavailable: Share,
    /// So many may be made beyond the pool's size.
    pub max_surge: Share,
    /// So many first, and only when they are well the rest.
    pub canary: u32,
    /// How long a changed desktop must be well before the next.
    pub healthy_after: Span,
    /// After so many failures it stops.
    pub pause_after_failures: u32,
    /// When it stops, it goes back.
    pub rollback: bool,
    /// Only within that window.
    pub window: Option<WindowName>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            max_unavailable: Share::Percent(10),
            max_surge: Share::Count(0),
            canary: 0,
            healthy_after: Span(0),
            pause_after_failures: 1,
            rollback: true,
            window: None,
        }
    }
}

/// How many desktops are running. A pool without this keeps all of them on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    /// Booted, unassigned, refilled.
    pub spare: u32,
    /// At most so many run.
    pub powered_on_max: Option<u32>,
    /// Other figures at other times; they never overlap.
    pub schedules: BTreeMap<String, PowerSchedule>,
}

/// Figures for some hours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PowerSchedule {
    /// When.
    pub hours: Weekly,
    /// Then [`Power::spare`] is this.
    pub spare: u32,
    /// Then [`Power::powered_on_max`] is this.
    pub powered_on_max: Option<u32>,
}

/// Limits of sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRules {
    /// Disconnect after that long without input.
    pub idle_disconnect: Option<Span>,
    /// Log off after that long disconnected.
    pub disconnected_logoff: Option<Span>,
    /// Log off after that long.
    pub max_duration: Option<Span>,
    /// Warn that long before.
    pub warn: Option<Span>,
    /// Desktops of the pool that one person may have.
    pub per_user: u32,
}

impl Default for SessionRules {
    fn default() -> Self {
        Self {
            idle_disconnect: None,
            disconnected_logoff: None,
            max_duration: None,
            warn: None,
            per_user: 1,
        }
    }
}

/// What passes between client and desktop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Channels {
    /// The clipboard.
    pub clipboard: Clipboard,
    /// USB devices, `VENDOR:PRODUCT`.
    pub usb: Vec<String>,
    /// Printers of the client.
    pub printers: bool,
    /// Drives of the client.
    pub drives: bool,
    /// Sound from the desktop.
    pub audio: bool,
    /// Sound to the desktop.
    pub microphone: bool,
    /// Smart cards.
    pub smartcards: bool,
}

/// Directions of the clipboard, seen from the desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clipboard {
    /// Neither.
    #[default]
    None,
    /// Into the desktop.
    In,
    /// Out of the desktop.
    Out,
    /// Both.
    Both,
}

/// What is done about changes made by others, by class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DriftRules {
    /// The hypervisor's object: identity and network are always enforced unless said here, the rest warns.
    pub domain: Option<DriftRule>,
    /// Overlays.
    pub disk: DriftRule,
    /// Images.
    pub image: DriftRule,
    /// Servers.
    pub server: DriftRule,
}

impl Default for DriftRules {
    fn default() -> Self {
        Self {
            domain: None,
            disk: DriftRule::Enforce,
            image: DriftRule::Enforce,
            server: DriftRule::Warn,
        }
    }
}

/// What is done about one change made by another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftRule {
    /// It is undone.
    Enforce,
    /// It is told.
    Warn,
    /// It is let be.
    Ignore,
}

/// A pool of desktops.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// What its desktops are.
    pub template: TemplateName,
    /// How many.
    pub desktops: u32,
    /// How many places; by default the desktops and the most that one server carries.
    pub slots: Option<u32>,
    /// Host name with `{pool}` and `{slot}`.
    pub hostname: HostnamePattern,
    /// Who gets which.
    pub assignment: Assignment,
    /// The policies it lists, in order.
    pub policies: Vec<PolicyName>,
    /// Those policies merged; defaults where none says anything.
    pub policy: Policy,
    /// Who may.
    pub entitled: Vec<Entitlement>,
    /// When they may.
    pub hours: Option<WindowName>,
    /// Labels that a server must have.
    pub servers: BTreeSet<String>,
    /// Copies of personal desktops on other servers.
    pub copies: u32,
    /// How old such a copy may become.
    pub max_copy_age: Option<Span>,
    /// Reservations.
    pub bookings: BTreeMap<String, Booking>,
    /// No plan may destroy it, or most of it, without approval.
    pub protect: bool,
}

/// A pattern of host names: text with `{pool}`, `{slot}` or `{slot:0N}` (N digits, zeros in front).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostnamePattern(pub String);

/// Who gets which desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assignment {
    /// Any, and it is regrown after.
    Pooled,
    /// Always the same, and it is kept.
    Personal,
    /// By the client's place.
    Client,
}

/// Who may have a desktop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entitlement {
    /// Members of a group.
    Group(DirectoryName, String),
    /// One person.
    User(DirectoryName, String),
    /// Everyone below an organisational unit.
    Ou(DirectoryName, String),
    /// Everyone in a directory.
    Everyone(DirectoryName),
    /// Whoever comes from there.
    Location(LocationName),
}

/// A reservation of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Booking {
    /// Begin, "2026-11-23 08:00" in the grid's time zone.
    pub from: String,
    /// End, likewise.
    pub to: String,
    /// What the desktops are then.
    pub template: Option<TemplateName>,
    /// Who may then.
    pub entitled: Vec<Entitlement>,
}

/// Limits for servers whose name matches a pattern.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerRule {
    /// Labels they have.
    pub labels: BTreeSet<String>,
    /// Memory that desktops leave free.
    pub keep_free_memory: Size,
    /// Disk that desktops leave free.
    pub keep_free_disk: Size,
    /// No new desktops.
    pub cordon: bool,
}

/// A block that got another name: what it stood for is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The former address.
    pub from: Address,
    /// The present one.
    pub to: Address,
}

impl HostnamePattern {
    /// The host name of one desktop. Text that is no known place-holder stays as it is; `resolve` has refused it
    /// before.
    #[must_use]
    pub fn fill(&self, pool: &PoolName, slot: Slot) -> String {
        let mut filled = String::with_capacity(self.0.len() + 8);
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find('{') {
            filled.push_str(&rest[..open]);
            let Some(length) = rest[open..].find('}') else {
                break;
            };
            match &rest[open + 1..open + length] {
                "pool" => filled.push_str(pool.as_str()),
                "slot" => filled.push_str(&slot.0.to_string()),
                other => match other
                    .strip_prefix("slot:0")
                    .and_then(|n| n.parse::<usize>().ok())
                {
                    Some(width) => {
                        filled.push_str(&format!("{:0width$}", slot.0, width = width.min(10)))
                    }
                    None => filled.push_str(&rest[open..=open + length]),
                },
            }
            rest = &rest[open + length + 1..];
        }
        filled.push_str(rest);
        filled
    }
}
