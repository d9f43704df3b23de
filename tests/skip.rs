//! How a test says that it cannot be made on this machine. Every test crate that may have to includes this file by its
//! path: there is no room that all of them may import.

use std::io::Write as _;

/// Says that the test under way is skipped, and why, so that a person hears of it: `tests/run.sh` counts and shows the
/// lines of the file that `COPPICE_SKIPS` names. What a passing test prints, nobody sees.
///
/// # Panics
/// When that file cannot be written: a skip that is not counted looks like a test that ran.
pub(crate) fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    if let Some(file) = std::env::var_os("COPPICE_SKIPS") {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(file);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file that COPPICE_SKIPS names can be written");
    }
    write!(std::io::stderr(), "SKIPPED {line}").expect("standard error can be written");
}
