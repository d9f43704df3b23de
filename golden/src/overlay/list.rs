//! Which overlays there are.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::ids::Member;
use coppice_schema::units::Size;

use super::header::{self, backing_path};
use super::mark::Mark;
use super::{MARK, OVERLAY, mark_name};
use crate::disk::TEMPORARY;
use crate::store::record::raw_name;
use crate::store::{Store, StoreError, allocated};

/// An overlay with a mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedClone {
    /// Whose it is.
    pub mark: Mark,
    /// Its file.
    pub path: PathBuf,
    /// Bytes it takes on the disk.
    pub allocated: Size,
    /// What is wrong with it; `None`: its header is whole, and its image is there. A glance, not a check of all
    /// its tables.
    pub fault: Option<Fault>,
}

impl LinkedClone {
    /// Whether it can be used, as far as a glance shows.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.fault.is_none()
    }
}

/// What can be wrong with an overlay.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read; in words.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is something else.
    #[error("it is not a qcow2 file of version 3")]
    NotQcow2,
    /// Its header contradicts itself, or the file's length.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is based on something else than its mark says.
    #[error("it is based on {found:?} instead of its image")]
    Backing {
        /// The path in its header.
        found: String,
    },
    /// The image it is based on is gone, or is shorter or longer than when the overlay was made.
    #[error("its image {} is gone", .0.short())]
    ImageGone(Digest),
    /// Its disk has another size than its mark says.
    #[error("its disk has {found} instead of {expected}")]
    Size {
        /// In the header.
        found: Size,
        /// In the mark.
        expected: Size,
    },
}

/// A file among the overlays that is not ours. It is never touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The file.
    pub path: PathBuf,
    /// Why it is not.
    pub reason: Reason,
}

/// Why a file is not ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It has no mark.
    Unmarked,
    /// Its mark cannot be read, or is another's; in words.
    BadMark(String),
    /// Its name is not an overlay's.
    Name,
    /// It is a symbolic link, a directory or a device.
    NotAFile,
}

/// All that is among the overlays, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// Overlays with a mark, of any grid.
    pub clones: Vec<LinkedClone>,
    /// Everything else.
    pub foreign: Vec<Foreign>,
}

impl Store {
    /// Looks at every overlay: its mark and its header.
    ///
    /// # Errors
    /// When the directory cannot be read; what is wrong with one file is said of that file.
    pub fn list_overlays(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for name in self.overlays.names()? {
            let text = name.to_str().unwrap_or_default();
            // Marks go with their overlay; temporary names are work in progress.
            if text.ends_with(MARK) || text.starts_with(TEMPORARY) {
                continue;
            }
            match self.look_at(&name) {
                Ok(Some(clone)) => listing.clones.push(clone),
                Ok(None) => {}
                Err(reason) => listing.foreign.push(Foreign {
                    path: self.overlays.join(&name),
                    reason,
                }),
            }
        }
        Ok(listing)
    }

    /// `None` where it has gone in the meantime.
    fn look_at(&self, name: &OsStr) -> Result<Option<LinkedClone>, Reason> {
        let file = match self.overlays.read(name) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => return Ok(None),
            Err(e) if is_regular(&self.overlays.join(name)) => {
                Err(Fault::Unreadable(e.to_string()))
            }
            Err(_) => return Err(Reason::NotAFile),
        };
        let member: Option<Member> = name
            .to_str()
            .and_then(|name| name.strip_suffix(OVERLAY)?.parse().ok());
        let member = member.ok_or(Reason::Name)?;
        let mark = match self.overlays.load(mark_name(&member)) {
            Ok(Some(bytes)) => Mark::decode(&bytes).map_err(Reason::BadMark)?,
            Ok(None) => return Err(Reason::Unmarked),
            Err(e) => return Err(Reason::BadMark(e.to_string())),
        };
        if mark.member != member {
            return Err(Reason::BadMark(format!("its mark is for {}", mark.member)));
        }
        let taken = file
            .as_ref()
            .ok()
            .and_then(|file| allocated(file).ok())
            .unwrap_or(0);
        let fault = file.and_then(|file| self.examine(&file, &mark)).err();
        Ok(Some(LinkedClone {
            path: self.overlays.join(name),
            allocated: Size(taken),
            fault,
            mark,
        }))
    }

    fn examine(&self, file: &File, mark: &Mark) -> Result<(), Fault> {
        let header = header::read(file)?;
        if header.size != mark.size.0 {
            return Err(Fault::Size {
                found: Size(header.size),
                expected: mark.size,
            });
        }
        let absolute = self.image_path(mark.image);
        if header.backing != backing_path(mark.image) && *header.backing != *absolute.as_os_str() {
            return Err(Fault::Backing {
                found: header.backing,
            });
        }
        match self.images.read(raw_name(mark.image)) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(Fault::ImageGone(mark.image)),
        }
    }

    /// File names of all overlays, ours or not, that are based on the image `root`.
    pub(crate) fn overlays_on(&self, root: Digest) -> Result<Vec<String>, StoreError> {
        let mut users = Vec::new();
        for name in self.overlays.names()? {
            let Ok(Some(file)) = self.overlays.read(&name) else {
                continue;
            };
            let by_header =
                header::read(&file).is_ok_and(|header| header.backing.ends_with(&raw_name(root)));
            let stem = name.to_str().and_then(|name| name.strip_suffix(OVERLAY));
            let mark =
                stem.and_then(|stem| self.overlays.load(format!("{stem}{MARK}")).ok().flatten());
            let by_mark = mark
                .and_then(|bytes| Mark::decode(&bytes).ok())
                .is_some_and(|mark| mark.image == root);
            if by_header || by_mark {
                users.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(users)
    }
}

fn is_regular(path: &std::path::Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file())
}
