//! Whose an overlay is.

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, Member, Stamp};
use coppice_schema::units::Size;
use serde::{Deserialize, Serialize};

use crate::manifest::encode;

/// The newest mark that this version reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// The owner mark beside an overlay, a CBOR map with these names. What carries none is nobody's, and is never
/// touched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The grid.
    pub grid: GridId,
    /// The grid's life in which it was made.
    pub epoch: Epoch,
    /// The desktop.
    pub member: Member,
    /// The image it is based on.
    pub image: Digest,
    /// Size of its disk when it was made.
    pub size: Size,
    /// The order that made it.
    pub stamp: Stamp,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    #[serde(flatten)]
    mark: Mark,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Mark {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&Wire {
            format: FORMAT,
            mark: self.clone(),
        })
    }

    /// Reads what [`Mark::encode`] wrote.
    ///
    /// # Errors
    /// In words: damaged, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let head: Head =
            ciborium::from_reader(bytes).map_err(|e| format!("its mark is damaged: {e}"))?;
        if head.format > FORMAT {
            return Err(format!(
                "its mark has format {}, this version reads up to {FORMAT}",
                head.format
            ));
        }
        let wire: Wire =
            ciborium::from_reader(bytes).map_err(|e| format!("its mark is damaged: {e}"))?;
        Ok(wire.mark)
    }
}
