//! The one table of every word of the language. Validation, defaults, the reference page, the JSON Schema and the
//! plan's "takes effect" all read it; a word that does not stand here does not exist.

mod directory;
mod grid;
mod image;
mod policy;
mod pool;
mod site;
mod template;
mod variable;

use serde::Serialize;

/// When a change of an attribute reaches desktops that exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TakesEffect {
    /// At once, without touching a desktop.
    Live,
    /// When a desktop is started the next time.
    NextBoot,
    /// When a desktop is regrown.
    Regrow,
}

/// Whether this version acts on a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedOut {
    /// Since that version.
    Since(&'static str),
    /// It is read, checked and kept, and otherwise known, not carried out by this version.
    Later,
}

/// What an attribute accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A whole number of that range.
    Number(u64, u64),
    /// `true` or `false`.
    Flag,
    /// Bytes of that range, such as "8GiB" or "30GB".
    Size(u64, u64),
    /// Milliseconds of that range, such as "20m", "8h" or "7d".
    Duration(u64, u64),
    /// "20%" or a number of desktops.
    Share,
    /// A time of day, such as "07:30".
    Clock,
    /// Days of the week, such as "mon-fri" or "sat,sun".
    Days,
    /// A cron expression of five fields.
    Cron,
    /// A moment, such as "2026-11-23 08:00", in the grid's time zone.
    Moment,
    /// A reference to a block of that kind.
    Ref(&'static str),
    /// A list of references to blocks of that kind, or one.
    Refs(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of these words.
    Choices(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// A list of networks, such as "10.1.0.0/16".
    Networks,
    /// Only `secret("name")`.
    Secret,
    /// The path of a text file beside the configuration; its content is meant.
    File,
    /// The path of an image beside the configuration.
    Source,
    /// 64 hexadecimal digits.
    Digest,
    /// The name of an image version.
    Version,
    /// An IP address.
    Address,
    /// An IANA time zone.
    Timezone,
    /// A pattern with `{pool}` and `{slot}`.
    Hostname,
    /// "all" or a number.
    Copies,
    /// A list of `group()`, `user()`, `ou()`, `everyone()` and locations.
    Entitlements,
    /// The address of a block, such as `pool.lab`.
    BlockAddress,
    /// Any value.
    Any,
    /// A type, such as `string` or `list(number)`.
    Type,
    /// An expression that is evaluated later.
    Condition,
}

/// What stands when an attribute is not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    /// Nothing.
    Unset,
    /// This text.
    Text(&'static str),
    /// This number.
    Number(u32),
    /// This flag.
    Flag(bool),
    /// These texts.
    Texts(&'static [&'static str]),
    /// It depends; in words.
    Depends(&'static str),
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its word.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// In what it is counted, where its type does not say.
    pub unit: Option<&'static str>,
    /// A block without it is an error.
    pub required: bool,
    /// What stands when it is not set.
    pub default: Default,
    /// What it means.
    pub doc: &'static str,
    /// It takes only `secret()`, and is never shown.
    pub sensitive: bool,
    /// When a change of it takes effect.
    pub effect: TakesEffect,
    /// Whether this version acts on it.
    pub carried_out: CarriedOut,
}

/// How blocks of a kind are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// They are not.
    None,
    /// By a name: see [`crate::ids::is_name`].
    Name,
    /// By a pattern of server names, with `*` and `?`.
    Pattern,
    /// By a word that other expressions use: letters, digits, `_` and `-`.
    Word,
}

/// One kind of block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Its word.
    pub name: &'static str,
    /// How such blocks are named.
    pub label: Label,
    /// What it means.
    pub doc: &'static str,
    /// What can be set in it.
    pub attributes: &'static [Attribute],
    /// What can stand in it; unnamed blocks once, named ones once for each name.
    pub blocks: &'static [Block],
    /// Whether this version acts on it.
    pub carried_out: CarriedOut,
    /// Whether `for_each` and `count` repeat it.
    pub repeats: bool,
    /// It must stand in its parent.
    pub required: bool,
}

/// This version of the language, as it stands in [`CarriedOut::Since`].
pub const VERSION: &str = "0.1";

const fn attribute(
    name: &'static str,
    kind: Kind,
    effect: TakesEffect,
    doc: &'static str,
) -> Attribute {
    let carried_out = CarriedOut::Since(VERSION);
    let sensitive = matches!(kind, Kind::Secret);
    Attribute {
        name,
        kind,
        unit: None,
        required: false,
        default: Default::Unset,
        doc,
        sensitive,
        effect,
        carried_out,
    }
}

const fn live(name: &'static str, kind: Kind, doc: &'static str) -> Attribute {
    attribute(name, kind, TakesEffect::Live, doc)
}

const fn next_boot(name: &'static str, kind: Kind, doc: &'static str) -> Attribute {
    attribute(name, kind, TakesEffect::NextBoot, doc)
}

const fn regrow(name: &'static str, kind: Kind, doc: &'static str) -> Attribute {
    attribute(name, kind, TakesEffect::Regrow, doc)
}

impl Attribute {
    const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    const fn default(self, default: Default) -> Self {
        Self { default, ..self }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    const fn later(self) -> Self {
        Self {
            carried_out: CarriedOut::Later,
            ..self
        }
    }
}

const fn block(
    name: &'static str,
    label: Label,
    doc: &'static str,
    attributes: &'static [Attribute],
) -> Block {
    let carried_out = CarriedOut::Since(VERSION);
    Block {
        name,
        label,
        doc,
        attributes,
        blocks: &[],
        carried_out,
        repeats: false,
        required: false,
    }
}

impl Block {
    const fn with(self, blocks: &'static [Self]) -> Self {
        Self { blocks, ..self }
    }

    const fn later(self) -> Self {
        Self {
            carried_out: CarriedOut::Later,
            ..self
        }
    }

    const fn repeats(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }

    /// The attribute of that name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        let attributes: &'static [Attribute] = self.attributes;
        let repeats: &'static [Attribute] = if self.repeats { REPEAT } else { &[] };
        attributes
            .iter()
            .chain(repeats)
            .find(|row| row.name == name)
    }

    /// The block of that name within it.
    #[must_use]
    pub fn block(&self, name: &str) -> Option<&'static Self> {
        let blocks: &'static [Self] = self.blocks;
        blocks.iter().find(|row| row.name == name)
    }

    /// Every attribute, those of repetition included.
    pub fn all_attributes(&self) -> impl Iterator<Item = &'static Attribute> + Clone + use<> {
        let attributes: &'static [Attribute] = self.attributes;
        let repeats: &'static [Attribute] = if self.repeats { REPEAT } else { &[] };
        attributes.iter().chain(repeats)
    }
}

impl Label {
    /// Whether `text` is such a label; if not, what is.
    pub(crate) fn check(self, text: &str) -> Result<(), &'static str> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let (fine, expected) = match self {
            Self::None => (false, "no name"),
            Self::Name => (
                crate::ids::is_name(text),
                "lower-case letters, digits, '-' and '_', starting with a letter or digit, at most 40 characters",
            ),
            Self::Pattern => (
                (1..=64).contains(&text.len())
                    && text
                        .chars()
                        .all(|c| word(c) || matches!(c, '*' | '?' | '.')),
                "letters, digits, '-', '_', '.', and '*' and '?' for any characters and any one, at most 64",
            ),
            Self::Word => (
                (1..=64).contains(&text.len())
                    && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && text.chars().all(word),
                "letters, digits, '_' and '-', starting with a letter or '_', at most 64",
            ),
        };
        if fine { Ok(()) } else { Err(expected) }
    }
}

/// Attributes of every block that repeats.
pub static REPEAT: &[Attribute] = &[
    live(
        "for_each",
        Kind::Any,
        "A map, or a list of different texts: one block for each key, named NAME-KEY; in it `each.key` and `each.value`. \
         `pool \"lab\"` with the key `a` is the pool `lab-a`; a template is referred to as `template.lab[\"a\"]`.",
    ),
    live(
        "count",
        Kind::Number(0, 10_000),
        "That many blocks, named NAME-INDEX from 0; in it `count.index`. A template is referred to as `template.lab[0]`.",
    ),
];

/// Every top-level block.
pub static BLOCKS: &[Block] = &[
    grid::GRID,
    site::WINDOW,
    site::NETWORK,
    directory::DIRECTORY,
    image::IMAGE,
    template::TEMPLATE,
    policy::POLICY,
    pool::POOL,
    site::LOCATION,
    site::SERVER,
    variable::VARIABLE,
    variable::LOCALS,
    variable::MOVED,
];

/// When a change takes effect, by path: `template.cpus`, `policy.power.schedule.spare`. A path that the table does
/// not have gives the most careful answer, [`TakesEffect::Regrow`].
#[must_use]
pub fn takes_effect(path: &str) -> TakesEffect {
    find(path).map_or(TakesEffect::Regrow, |row| row.effect)
}

/// The attribute at a path such as `policy.power.schedule.spare`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Attribute> {
    let (blocks, name) = path.rsplit_once('.')?;
    let mut words = blocks.split('.');
    let first = words.next()?;
    let mut block = BLOCKS.iter().find(|row| row.name == first)?;
    for word in words {
        block = block.block(word)?;
    }
    block.attribute(name)
}
