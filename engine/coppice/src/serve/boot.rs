//! Which start of the daemon this is: a number that grows with each, also when the clock went back.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use coppice_schema::units::Timestamp;

use crate::failure::Failure;

/// Counts a start and keeps the number on the disk. At least the time in milliseconds, so that a lost file does no
/// harm as long as the clock is right.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn count(path: &Path, now: Timestamp) -> Result<u64, Failure> {
    let failed = |what: &str, e: &dyn std::error::Error| {
        Failure::new(format!("cannot {what} {}", path.display())).because(e)
    };
    let last = match std::fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse::<u64>()
            .map_err(|e| failed("understand", &e).hint("remove that file"))?,
        Err(e) if e.kind() == ErrorKind::NotFound => 0,
        Err(e) => return Err(failed("read", &e)),
    };
    let boot = last.saturating_add(1).max(now.0);
    let new = path.with_extension("new");
    let written = File::create(&new).and_then(|mut file| {
        writeln!(file, "{boot}")?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    });
    written.map_err(|e| failed("write", &e))?;
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_higher_number_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot");
        let first = count(&path, Timestamp(5_000)).unwrap();
        let second = count(&path, Timestamp(1)).unwrap();
        assert!(second > first);
        assert_eq!(count(&path, Timestamp(9_000)).unwrap(), 9_000);
        std::fs::write(&path, "x").unwrap();
        assert!(count(&path, Timestamp(1)).is_err());
    }
}
