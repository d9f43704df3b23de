//! How a machine joins.

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::join::Role;
use coppice_state::token::TokenId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far apart two clocks may be before both sides are warned. Time never decides an order, but people compare it.
pub const CLOCKS_APART: Span = Span::seconds(2);

/// `POST join-tokens`: asks for a token by which one machine may join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// Its name; absent: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// As what a machine joins with it: `server` or `witness`.
    #[schema(value_type = String)]
    pub role: Role,
    /// It stops after so many milliseconds; absent: after an hour.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub expires_in: Option<Span>,
}

/// The answer to [`JoinTokenRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenCreated {
    /// What `coppice join` takes: see [`JoinSecret`]. It is shown this once; the grid keeps only a hash.
    pub token: String,
    /// Its name.
    #[schema(value_type = String)]
    pub name: TokenId,
    /// As what a machine joins with it.
    #[schema(value_type = String)]
    pub role: Role,
    /// When it stops.
    #[schema(value_type = u64)]
    pub expires: Timestamp,
}

/// `GET join-tokens`: a join token without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TokenId,
    /// As what a machine joins with it.
    #[schema(value_type = String)]
    pub role: Role,
    /// When it was made.
    #[schema(value_type = u64)]
    pub created: Timestamp,
    /// When it stops.
    #[schema(value_type = u64)]
    pub expires: Timestamp,
    /// It has stopped.
    pub expired: bool,
    /// A machine used it.
    pub used: bool,
}

/// `GET join`: what a machine must know before it trusts this grid. Needs no token, and is to be believed only as far
/// as the machine's own token confirms it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinTerms {
    /// The certificate of the grid's authority, in PEM.
    pub authority: String,
    /// Version of the program that answers.
    pub version: String,
    /// The newest form of what servers say to each other that the one which answers speaks.
    pub wire: u32,
    /// The oldest.
    pub wire_oldest: u32,
    /// The time there.
    #[schema(value_type = u64)]
    pub time: Timestamp,
}

/// `POST join`: a machine asks to become a member. It is sent only to a server that has shown a certificate of the
/// authority that the token names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's name.
    #[schema(value_type = String)]
    pub token: TokenId,
    /// The token's secret, in hexadecimal.
    #[schema(value_type = String)]
    pub secret: Digest,
    /// A signing request for a key that the machine drew, in PEM. The same key finishes a join that was cut off.
    pub request: String,
    /// What it wants to be called.
    #[schema(value_type = String)]
    pub name: ServerName,
    /// As what it comes: `server` or `witness`.
    #[schema(value_type = String)]
    pub role: Role,
    /// Where it will answer other servers: `HOST:PORT`.
    pub api: String,
    /// Host names and addresses for its certificate.
    #[schema(value_type = Vec<String>)]
    pub names: BTreeSet<String>,
    /// The newest form of what servers say to each other that its program speaks.
    pub wire: u32,
    /// The oldest.
    pub wire_oldest: u32,
    /// Newest feature level that it can apply.
    pub feature_level: u32,
    /// Version of its program.
    pub version: String,
    /// The time there.
    #[schema(value_type = u64)]
    pub time: Timestamp,
    /// It is the member of that name, come back without its log: it takes that one's place.
    #[serde(default)]
    pub again: bool,
}

/// The answer to [`JoinRequest`]: all that makes the machine a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinResponse {
    /// The grid.
    #[schema(value_type = String)]
    pub grid: GridId,
    /// Which life of it, counted from 1.
    pub epoch: u64,
    /// Which recovery began that life; 0: none.
    pub recovery: u64,
    /// The machine's number in the grid.
    #[schema(value_type = u64)]
    pub server: ServerId,
    /// Its number in raft, never used before.
    pub raft_id: u64,
    /// Its certificate, in PEM.
    pub certificate: String,
    /// The certificate of the grid's authority, in PEM.
    pub authority: String,
    /// The grid's key in hexadecimal; absent for a witness.
    #[schema(value_type = Option<String>)]
    pub grid_key: Option<Digest>,
    /// Where the other members answer.
    pub members: Vec<JoinMember>,
    /// Bytes that one copy of every image of the grid takes.
    pub images: u64,
    /// The grid's feature level.
    pub feature_level: u32,
    /// The time there.
    #[schema(value_type = u64)]
    pub time: Timestamp,
}

/// A member, for a machine that joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinMember {
    /// Its number in the grid.
    #[schema(value_type = u64)]
    pub server: ServerId,
    /// Its name.
    #[schema(value_type = String)]
    pub name: ServerName,
    /// Its number in raft.
    pub raft_id: u64,
    /// Where it answers: `HOST:PORT`.
    pub api: String,
}

/// A join token as one line of text: `coppice-join-1.ROLE.EXPIRES.AUTHORITY.NAME.SECRET`. The machine knows by it
/// which grid it may trust before it says anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinSecret {
    /// As what a machine joins with it.
    pub role: Role,
    /// When it stops, by the grid's time. For people: the grid decides.
    pub expires: Timestamp,
    /// Digest of the authority's public key.
    pub authority: Digest,
    /// Its name.
    pub token: TokenId,
    /// 256 random bits.
    pub secret: Digest,
}

const FORM: &str = "coppice-join-1";

impl std::fmt::Display for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            role,
            expires,
            authority,
            token,
            secret,
        } = self;
        write!(
            f,
            "{FORM}.{role}.{}.{authority}.{token}.{secret}",
            expires.0
        )
    }
}

/// A text that is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAJoinToken {
    /// It is a token for the API.
    #[error("it is a token for the grid's API, by which no machine joins")]
    Api,
    /// A newer version made it.
    #[error("it has a form that this version does not know: {0:?}")]
    Newer(String),
    /// A part is missing or damaged: it was not copied whole.
    #[error("its {0} is missing or damaged: it was not copied whole")]
    Part(&'static str),
    /// Something else.
    #[error("it does not begin with {FORM}")]
    Other,
}

impl std::str::FromStr for JoinSecret {
    type Err = NotAJoinToken;

    fn from_str(text: &str) -> Result<Self, NotAJoinToken> {
        let mut parts = text.trim().split('.');
        let form = parts.next().unwrap_or_default();
        if form != FORM {
            return Err(match form.strip_prefix("coppice-join-") {
                Some(_) => NotAJoinToken::Newer(form.chars().take(40).collect()),
                None if crate::parse_token(text.trim()).is_some() => NotAJoinToken::Api,
                None => NotAJoinToken::Other,
            });
        }
        let mut part = |what| parts.next().ok_or(NotAJoinToken::Part(what));
        let role = match part("role")? {
            "server" => Role::Server,
            "witness" => Role::Witness,
            _ => return Err(NotAJoinToken::Part("role")),
        };
        let digest = |text: &str, what| text.parse().map_err(|_| NotAJoinToken::Part(what));
        let expires = part("time")?;
        let expires = expires.parse().map_err(|_| NotAJoinToken::Part("time"))?;
        let authority = digest(part("authority")?, "authority")?;
        let token = part("name")?;
        if !coppice_schema::ids::is_name(token) {
            return Err(NotAJoinToken::Part("name"));
        }
        let secret = digest(part("secret")?, "secret")?;
        if parts.next().is_some() {
            return Err(NotAJoinToken::Part("end"));
        }
        Ok(Self {
            role,
            expires: Timestamp(expires),
            authority,
            token: TokenId(token.to_owned()),
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_is_read_back_and_one_that_was_cut_is_not() {
        let whole = JoinSecret {
            role: Role::Witness,
            expires: Timestamp(1_795_000_000_000),
            authority: Digest([1; 32]),
            token: TokenId("join-4f2a".to_owned()),
            secret: Digest([2; 32]),
        };
        let text = whole.to_string();
        assert_eq!(format!(" {text}\n").parse(), Ok(whole));
        for end in 0..text.len() {
            let cut = text[..end].parse::<JoinSecret>();
            assert!(cut.is_err(), "{end}");
        }
        assert!(format!("{text}.x").parse::<JoinSecret>().is_err());
        let api = format!("admin.{}", Digest([3; 32])).parse::<JoinSecret>();
        assert_eq!(api, Err(NotAJoinToken::Api));
        let newer = "coppice-join-2.server".parse::<JoinSecret>();
        assert!(matches!(newer, Err(NotAJoinToken::Newer(_))));
    }
}
