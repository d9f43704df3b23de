//! Digests of image sources. Hashing a large image takes a while, so the result is kept by path, size, time and
//! inode; a file that changed in any of them is hashed again.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coppice_schema::Digest;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::screen::Screen;

/// What a file was when it was hashed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Known {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    device: u64,
    inode: u64,
    digest: Digest,
}

/// The BLAKE3 of a file; `None` when there is none.
///
/// # Errors
/// When it is there and cannot be read, or changes while it is.
pub(crate) fn digest(path: &Path, screen: &Screen) -> Result<Option<Digest>, Failure> {
    let failed = |e: &io::Error| {
        Failure::new(format!("cannot read the image {}", path.display())).because(e)
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    let before = file.metadata().map_err(|e| failed(&e))?;
    if !before.is_file() {
        return Err(
            Failure::new(format!("cannot read the image {}", path.display()))
                .cause("it is not a file"),
        );
    }
    let kept = cache_file(path);
    let known = kept.as_deref().and_then(recall);
    if let Some(known) = known.filter(|k| k.is(&before)) {
        return Ok(Some(known.digest));
    }
    let digest = hash(&mut file, before.len(), path, screen).map_err(|e| failed(&e))?;
    let after = file.metadata().map_err(|e| failed(&e))?;
    let known = Known::new(&before, digest);
    if !known.is(&after) {
        return Err(Failure::new(format!(
            "the image {} changed while it was read",
            path.display()
        ))
        .hint("wait until whatever writes it is done, then run this again"));
    }
    if let Some(kept) = kept {
        // Losing the memory costs time, nothing else.
        if let Err(error) = remember(&kept, &known) {
            tracing::debug!(%error, file = %kept.display(), "the digest is not kept");
        }
    }
    Ok(Some(digest))
}

impl Known {
    fn new(metadata: &Metadata, digest: Digest) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
            digest,
        }
    }

    fn is(&self, metadata: &Metadata) -> bool {
        *self == Self::new(metadata, self.digest)
    }
}

fn hash(file: &mut File, size: u64, path: &Path, screen: &Screen) -> io::Result<Digest> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let progress = Progress::bytes(screen, &format!("hashing {name}"), size);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        progress.add(u64::try_from(n).unwrap_or(u64::MAX));
    }
    progress.finish();
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn cache_file(path: &Path) -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let root = variable("XDG_CACHE_HOME")
        .filter(|p| p.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
    let absolute = std::fs::canonicalize(path).ok()?;
    let name = Digest::of(absolute.as_os_str().as_encoded_bytes());
    Some(
        root.join("coppice")
            .join("sources")
            .join(format!("{name}.json")),
    )
}

fn recall(kept: &Path) -> Option<Known> {
    serde_json::from_slice(&std::fs::read(kept).ok()?).ok()
}

fn remember(kept: &Path, known: &Known) -> io::Result<()> {
    let directory = kept.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory)?;
    let new = kept.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, serde_json::to_vec(known)?)?;
    std::fs::rename(&new, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_recognised_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, "one").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let known = Known::new(&metadata, Digest::of(b"one"));
        let kept = dir.path().join("kept.json");
        remember(&kept, &known).unwrap();
        assert!(recall(&kept).unwrap().is(&metadata));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "four").unwrap();
        assert!(!known.is(&std::fs::metadata(&path).unwrap()));
    }

    #[test]
    fn a_memory_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept.json");
        std::fs::write(&kept, "{").unwrap();
        assert_eq!(recall(&kept), None);
    }
}
