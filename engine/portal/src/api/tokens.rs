//! Who may use the API.

use coppice_schema::units::{Span, Timestamp};
use coppice_state::token::{Scope, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET tokens`: a token without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TokenId,
    /// What it may do: `viewer`, `planner`, `helpdesk`, `operator` or `admin`, each including the ones before it.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// When it was made.
    #[schema(value_type = u64)]
    pub created: Timestamp,
    /// When it stops; absent: never.
    #[schema(value_type = Option<u64>)]
    pub expires: Option<Timestamp>,
    /// It has stopped.
    pub expired: bool,
}

/// `POST tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name: lower-case letters, digits, '-' and '_', at most 40 characters.
    pub name: String,
    /// What it may do.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// It stops after so many milliseconds; absent: never.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub expires_in: Option<Span>,
}

/// The answer to [`TokenRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// What goes after `Authorization: Bearer`: the name, a dot, and 64 hexadecimal digits. It is shown this once;
    /// the grid keeps only its hash.
    pub token: String,
    /// The rest.
    pub info: TokenInfo,
}
