//! Golden images.

use coppice_schema::Digest;
use coppice_schema::ids::{ImageName, ServerName, VersionName};
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Span, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// `GET images`: a version of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// The image.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// The version.
    #[schema(value_type = String)]
    pub version: VersionName,
    /// BLAKE3 of the source's bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Root of the stored form's manifest.
    #[schema(value_type = String)]
    pub root: Digest,
    /// Virtual size in bytes.
    #[schema(value_type = u64)]
    pub size: Size,
    /// Bytes that are not holes.
    #[schema(value_type = u64)]
    pub data: Size,
    /// When it was imported.
    #[schema(value_type = u64)]
    pub imported: Timestamp,
    /// The committed revision asks for it.
    pub published: bool,
    /// Desktops that are clones of it.
    pub used_by: u32,
    /// Which servers hold it, or a part of it.
    pub copies: Vec<ImageCopy>,
    /// Servers on which nothing of it is.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub absent: Vec<ServerName>,
}

impl Image {
    /// Whether the grid holds it: some copy is whole. One that is lost or bad everywhere can be brought again.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.copies
            .iter()
            .any(|copy| copy.state == CopyState::Verified)
    }
}

/// A copy of an image on a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageCopy {
    /// The server.
    #[schema(value_type = String)]
    pub server: ServerName,
    /// `copying`, `verified`, `bad` or `partial`: a part of it is here, and nothing brings the rest.
    #[schema(value_type = String)]
    pub state: CopyState,
    /// How far it is, where it is on its way and its server says so.
    #[serde(default)]
    pub progress: Option<CopyProgress>,
}

/// How far a copy is. It is never remembered: the server that gets it says it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CopyProgress {
    /// Bytes that are there and right.
    pub here: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes a second; 0: none come.
    pub rate: u64,
}

impl CopyProgress {
    /// Per cent of it that are there.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.here) * 100 / u128::from(self.total.max(1));
        u64::try_from(percent).unwrap_or(100)
    }

    /// How long the rest takes at this rate; `None`: nobody knows.
    #[must_use]
    pub fn left(&self) -> Option<Span> {
        let missing = self.total.saturating_sub(self.here);
        let millis = u128::from(missing) * 1000 / u128::from(self.rate.max(1));
        (self.rate > 0).then(|| Span(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

/// `POST images/uploads`: an image file is to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The image.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// The version it becomes.
    #[schema(value_type = String)]
    pub version: VersionName,
    /// Bytes of the file.
    #[schema(value_type = u64)]
    pub size: Size,
    /// BLAKE3 of the file, where it is known; it is checked when the file is imported.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// An upload under way. The same request again gives the same upload, so that a broken one is resumed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Its id, for the paths below `images/uploads/`.
    pub id: String,
    /// What it is to become.
    #[serde(flatten)]
    pub request: UploadRequest,
    /// Bytes that are safe on the server's disk: the next `PUT` begins there.
    pub offset: u64,
}

/// Query of `PUT images/uploads/{id}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadOffset {
    /// Where in the file the body begins.
    pub offset: u64,
}

/// A line of the answer to `POST images/uploads/{id}/import`. The last one is `imported` or `error`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportLine {
    /// How far it is.
    Progress(ImportProgress),
    /// It is in the catalogue.
    Imported(Box<Image>),
    /// It is not.
    Error(Box<Problem>),
}

/// How far an import is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportProgress {
    /// What is being done: `hashing`, `converting`, `indexing` or `verifying`.
    pub step: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
}
