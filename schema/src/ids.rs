//! Names and identities. Each is a type of its own, so that a pool's name cannot be passed for a template's.

mod epoch;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::epoch::{Epoch, Kin};

/// A text that does not name what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {expected}")]
pub struct BadName {
    /// What it was read as, with its article: "a pool name".
    pub what: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

/// Longest name of a block. A pool's name becomes part of host names, file names and sockets' paths.
pub const NAME_MAX: usize = 40;

const NAME_RULE: &str = "lower-case letters, digits, '-' and '_', starting with a letter or digit, at most 40 characters";

/// Whether `text` may name a block: see [`NAME_MAX`] and the message of [`BadName`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    text.len() <= NAME_MAX
        && text
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.chars().all(fine)
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadName { what: $what, text: text.chars().take(80).collect(), expected: NAME_RULE })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

names! {
    /// The label of a `pool` block.
    PoolName, "a pool name";
    /// The label of an `image` block.
    ImageName, "an image name";
    /// The label of a `template` block.
    TemplateName, "a template name";
    /// The label of a `network` block.
    NetworkName, "a network name";
    /// The label of a `window` block.
    WindowName, "a window name";
    /// The label of a `policy` block.
    PolicyName, "a policy name";
    /// The label of a `directory` block.
    DirectoryName, "a directory name";
    /// The label of a `location` block.
    LocationName, "a location name";
    /// The name of a secret.
    SecretName, "a secret name";
    /// The name of a server: unique in a grid, by default its host name.
    ServerName, "a server name";
}

/// A published version of an image, such as "2026-11". Any text of 1 to 80 printable ASCII characters without
/// space, '/' and '@'.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VersionName(String);

impl VersionName {
    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VersionName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fine = |c: char| c.is_ascii_graphic() && c != '/' && c != '@';
        if (1..=80).contains(&text.len()) && text.chars().all(fine) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadName {
            what: "an image version",
            text: text.chars().take(80).collect(),
            expected: "1 to 80 printable ASCII characters without space, '/' and '@'",
        })
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VersionName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

numbers! {
    /// A committed configuration, counted from 1; 0 is the grid before any.
    Revision;
    /// How often an address was given another intent. Configuration, assignment and protection count;
    /// observation and sessions do not. 0: the address does not exist.
    Generation;
    /// A server for as long as it is a member. Taken from the log's index at which it joined, so never used twice
    /// in an epoch.
    ServerId;
    /// Which life of a slot: regrowing a desktop raises it. Counted from 1.
    Incarnation;
}

/// A place in a pool, counted from 1. A slot has at most one live desktop at any time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

/// A grid's identity: 128 random bits drawn by `coppice init`, as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GridId(pub [u8; 16]);

impl fmt::Display for GridId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for GridId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GridId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            what: "a grid id",
            text: text.chars().take(80).collect(),
            expected: "32 hexadecimal digits",
        };
        if text.len() != 32 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

/// A desktop's place and lasting identity: `lab-007`. Regrown desktops keep it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DesktopId {
    /// Its pool.
    pub pool: PoolName,
    /// Its place in the pool.
    pub slot: Slot,
}

/// One life of a desktop: `lab-007@2`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The desktop.
    pub desktop: DesktopId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

impl DesktopId {
    /// The desktop's UUID in its `incarnation`: derived, so that a second creation of the same desktop collides
    /// instead of doubling it.
    #[must_use]
    pub fn uuid(&self, grid: GridId, epoch: Epoch, incarnation: Incarnation) -> uuid::Uuid {
        let mut hash = blake3::Hasher::new_derive_key("coppice 2026 desktop uuid");
        hash.update(&grid.0);
        hash.update(&epoch.number.to_le_bytes());
        hash.update(&epoch.recovery.to_le_bytes());
        hash.update(&incarnation.0.to_le_bytes());
        hash.update(&self.slot.0.to_le_bytes());
        hash.update(self.pool.as_str().as_bytes());
        let mut bytes = [0; 16];
        hash.finalize_xof().fill(&mut bytes);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// This desktop in its `incarnation`.
    #[must_use]
    pub fn member(&self, incarnation: Incarnation) -> Member {
        Member {
            desktop: self.clone(),
            incarnation,
        }
    }
}

impl fmt::Display for DesktopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{:03}", self.pool, self.slot.0))
    }
}

impl FromStr for DesktopId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parsed = text.rsplit_once('-').and_then(|(pool, slot)| {
            let slot = Slot(slot.parse().ok()?);
            Some(Self {
                pool: pool.parse().ok()?,
                slot,
            })
        });
        parsed
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| BadName {
                what: "a desktop",
                text: text.chars().take(80).collect(),
                expected: "its pool, '-' and its slot with at least three digits, such as lab-007",
            })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.desktop, self.incarnation))
    }
}

impl FromStr for Member {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parsed = text.rsplit_once('@').and_then(|(desktop, life)| {
            Some(Self {
                desktop: desktop.parse().ok()?,
                incarnation: Incarnation(life.parse().ok()?),
            })
        });
        parsed
            .filter(|member| member.to_string() == text)
            .ok_or_else(|| BadName {
                what: "a life of a desktop",
                text: text.chars().take(80).collect(),
                expected: "the desktop, '@' and its incarnation, such as lab-007@2",
            })
    }
}

/// What a plan, a finding or a generation is about: `pool.lab`, `desktop.lab-007`, `image.win11`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// The grid itself: `grid`.
    Grid,
    /// `window.NAME`
    Window(WindowName),
    /// `network.NAME`
    Network(NetworkName),
    /// `directory.NAME`
    Directory(DirectoryName),
    /// `location.NAME`
    Location(LocationName),
    /// `image.NAME`
    Image(ImageName),
    /// `template.NAME`
    Template(TemplateName),
    /// `policy.NAME`
    Policy(PolicyName),
    /// `pool.NAME`
    Pool(PoolName),
    /// `server.NAME`
    Server(ServerName),
    /// `desktop.POOL-SLOT`
    Desktop(DesktopId),
    /// `secret.NAME`
    Secret(SecretName),
}

impl Address {
    /// The desktop it names, if it names one.
    #[must_use]
    pub fn desktop(&self) -> Option<&DesktopId> {
        if let Self::Desktop(id) = self {
            Some(id)
        } else {
            None
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Grid => "grid".to_owned(),
            Self::Window(name) => format!("window.{name}"),
            Self::Network(name) => format!("network.{name}"),
            Self::Directory(name) => format!("directory.{name}"),
            Self::Location(name) => format!("location.{name}"),
            Self::Image(name) => format!("image.{name}"),
            Self::Template(name) => format!("template.{name}"),
            Self::Policy(name) => format!("policy.{name}"),
            Self::Pool(name) => format!("pool.{name}"),
            Self::Server(name) => format!("server.{name}"),
            Self::Desktop(id) => format!("desktop.{id}"),
            Self::Secret(name) => format!("secret.{name}"),
        };
        f.pad(&text)
    }
}

impl FromStr for Address {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            what: "an address",
            text: text.chars().take(80).collect(),
            expected: "a kind and a name, such as pool.lab, image.win11 or desktop.lab-007",
        };
        if text == "grid" {
            return Ok(Self::Grid);
        }
        let (kind, name) = text.split_once('.').ok_or_else(bad)?;
        Ok(match kind {
            "window" => Self::Window(name.parse()?),
            "network" => Self::Network(name.parse()?),
            "directory" => Self::Directory(name.parse()?),
            "location" => Self::Location(name.parse()?),
            "image" => Self::Image(name.parse()?),
            "template" => Self::Template(name.parse()?),
            "policy" => Self::Policy(name.parse()?),
            "pool" => Self::Pool(name.parse()?),
            "server" => Self::Server(name.parse()?),
            "desktop" => Self::Desktop(name.parse()?),
            "secret" => Self::Secret(name.parse()?),
            _ => return Err(bad()),
        })
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(GridId DesktopId Member Address Stamp);

macro_rules! debug_as_display {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_as_display!(DesktopId Member Address Stamp);

/// When an order was agreed: orders are compared by it, and a server refuses one that is not newer than the last
/// it carried out for the same slot. Written `EPOCH.TERM.INDEX.ORDINAL`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// [`Epoch::number`].
    pub epoch: u64,
    /// The leader's term.
    pub term: u64,
    /// The log index of the entry.
    pub index: u64,
    /// Its place in the entry.
    pub ordinal: u32,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}.{}",
            self.epoch, self.term, self.index, self.ordinal
        )
    }
}

impl FromStr for Stamp {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        let parsed = (
            next(),
            next(),
            next(),
            next().and_then(|n| u32::try_from(n).ok()),
        );
        if let (Some(epoch), Some(term), Some(index), Some(ordinal)) = parsed {
            return Ok(Self {
                epoch,
                term,
                index,
                ordinal,
            });
        }
        Err(BadName {
            what: "an order's stamp",
            text: text.chars().take(80).collect(),
            expected: "EPOCH.TERM.INDEX.ORDINAL",
        })
    }
}
