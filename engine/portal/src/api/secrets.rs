//! Secrets: their values come in and never go out.

use coppice_schema::ids::SecretName;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET secrets`: a secret without its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub name: SecretName,
    /// Raised whenever it is set.
    pub version: u64,
    /// When it was set.
    #[schema(value_type = u64)]
    pub set: Timestamp,
}
