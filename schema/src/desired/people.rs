//! Who people are and where they come from.

use serde::{Deserialize, Serialize};

use crate::ids::{DirectoryName, LocationName, SecretName};
use crate::units::Span;

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
