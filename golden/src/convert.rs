//! From an image file to a raw file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ChildStdout;
use std::time::Duration;

use serde::Deserialize;

use crate::confine::{Allowance, Cut, Outcome, qemu_img, qemu_img_reading};
use crate::format::{Format, Refusal};
use crate::manifest::CHUNK;
use crate::progress::{Cancel, Reporter};
use crate::sparse::{ZEROS, data_ranges};

/// The file behind standard input, under a name that no protocol prefix, option or relative path can hide in.
const SOURCE: &str = "/proc/self/fd/0";

/// Files of all these formats grow by whole clusters of this size, or end with something compressed.
const WHOLE: u64 = 64 << 10;

/// Room above the virtual size that the converted file may take, for rounding.
const SLACK: u64 = 1 << 20;

/// Why there is no raw file.
#[derive(Debug)]
pub(crate) enum Trouble {
    Refused(Refusal),
    Cancelled,
    Deadline,
    /// qemu-img could not be run.
    NoTool(io::Error),
    /// qemu-img, or the copying, failed; in words.
    Failed(String),
    /// The target's disk is full.
    Full,
}

impl From<Cut> for Trouble {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Cancelled => Self::Cancelled,
            Cut::Deadline => Self::Deadline,
            Cut::Failed(e) => Self::NoTool(e),
        }
    }
}

/// What the converting program says of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Bytes of the virtual disk.
    pub(crate) size: u64,
    /// Bytes that the raw file will take on disk, at most.
    pub(crate) needed: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct Measure {
    required: u64,
}

/// One source and the patience for it.
pub(crate) struct Conversion<'a> {
    pub(crate) source: &'a File,
    pub(crate) format: Format,
    pub(crate) deadline: Duration,
    pub(crate) cancel: &'a Cancel,
}

impl Conversion<'_> {
    fn run(
        &self,
        words: &[&str],
        file_size: u64,
        tick: &mut dyn FnMut(),
    ) -> Result<Outcome, Trouble> {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        let allowance = Allowance {
            deadline: self.deadline,
            file_size,
        };
        Ok(qemu_img(
            &arguments,
            self.source,
            &allowance,
            self.cancel,
            tick,
        )?)
    }

    /// Looks at the source without writing anything: its size, whether it is whole, what it will take. Refuses
    /// again what the headers should have shown already, so that two readers have to be deceived.
    pub(crate) fn examine(&self, limit: u64) -> Result<Facts, Trouble> {
        let format = self.format.name();
        let info = self.run(
            &["info", "--output=json", "-f", format, SOURCE],
            0,
            &mut || (),
        )?;
        if !info.status.success() {
            return Err(Trouble::Refused(Refusal::Damaged(complaint(&info))));
        }
        let info: Info =
            serde_json::from_str(&info.output).map_err(|e| Trouble::Failed(e.to_string()))?;
        if let Some(name) = info.backing_filename {
            return Err(Trouble::Refused(Refusal::BackingFile(name)));
        }
        let specific = info
            .format_specific
            .map(|specific| specific.data)
            .unwrap_or_default();
        if info.encrypted || specific.get("encrypt").is_some() {
            return Err(Trouble::Refused(Refusal::Encrypted));
        }
        if let Some(name) = specific.get("data-file") {
            return Err(Trouble::Refused(Refusal::OtherFiles(name.to_string())));
        }
        if info.virtual_size > limit {
            return Err(Trouble::Refused(Refusal::TooLarge {
                found: info.virtual_size,
                limit,
            }));
        }
        let len = self
            .source
            .metadata()
            .map_err(|e| Trouble::Failed(e.to_string()))?
            .len();
        self.check(len)?;
        Ok(Facts {
            size: info.virtual_size,
            needed: self.measure()?.min(info.virtual_size),
        })
    }

    /// A file that ends too early reads as zeros: its tables have to be checked, and where the data should be.
    fn check(&self, len: u64) -> Result<(), Trouble> {
        let damaged = |what: String| Err(Trouble::Refused(Refusal::Damaged(what)));
        let check = self.run(&["check", "-f", self.format.name(), SOURCE], 0, &mut || ())?;
        match check.status.code() {
            // Whole, or a format that has no check.
            Some(0 | 63) => {}
            // Space that nothing refers to: harmless, but a table cut off at the end looks the same.
            Some(3) if len.is_multiple_of(WHOLE) => {}
            Some(3) => {
                return damaged(
                    "it is cut short, or was not closed; try qemu-img check -r leaks".to_owned(),
                );
            }
            _ => return damaged(complaint(&check)),
        }
        let end = self.end_of_data()?;
        if end > len {
            return damaged(format!(
                "it is cut short: its data ends at {end}, the file at {len}"
            ));
        }
        Ok(())
    }

    /// Where the data ends in the file, but for compressed parts, whose loss shows when they are unpacked.
    fn end_of_data(&self) -> Result<u64, Trouble> {
        let arguments: Vec<OsString> = ["map", "--output=json", "-f", self.format.name(), SOURCE]
            .iter()
            .map(OsString::from)
            .collect();
        let allowance = Allowance {
            deadline: self.deadline,
            file_size: 0,
        };
        let map = qemu_img_reading(
            &arguments,
            self.source,
            &allowance,
            self.cancel,
            &mut || (),
            last_extent,
        )?;
        if !map.status.success() {
            let said = Outcome {
                status: map.status,
                output: String::new(),
                errors: map.errors,
            };
            return Err(Trouble::Refused(Refusal::Damaged(complaint(&said))));
        }
        map.output
            .ok_or_else(|| Trouble::Failed("the map of its data cannot be read".to_owned()))
    }

    /// How much of the disk is not zero, at most. Asked as if for qcow2, because for raw the answer is the whole
    /// disk, as if there were no holes.
    fn measure(&self) -> Result<u64, Trouble> {
        let found = self.run(
            &[
                "measure",
                "--output=json",
                "-f",
                self.format.name(),
                "-O",
                "qcow2",
                SOURCE,
            ],
            0,
            &mut || (),
        )?;
        if !found.status.success() {
            return Err(Trouble::Failed(complaint(&found)));
        }
        let found: Measure =
            serde_json::from_str(&found.output).map_err(|e| Trouble::Failed(e.to_string()))?;
        Ok(found.required)
    }

    /// Converts into `target`, which exists at `path`, is empty and has its full size.
    pub(crate) fn convert(
        &self,
        target: &File,
        path: &Path,
        facts: Facts,
        report: &mut Reporter<'_>,
    ) -> Result<(), Trouble> {
        let mut arguments: Vec<OsString> = Vec::new();
        for word in [
            "convert",
            "-q",
            "-n",
            "--target-is-zero",
            "-W",
            "-f",
            self.format.name(),
            "-O",
            "raw",
            SOURCE,
        ] {
            arguments.push(word.into());
        }
        arguments.push(path.into());
        let allowance = Allowance {
            deadline: self.deadline,
            file_size: facts.size.saturating_add(SLACK),
        };
        let mut tick = || {
            // Only for the progress: a look that fails is no news.
            if let Ok(meta) = target.metadata() {
                report.set(meta.blocks().saturating_mul(512));
            }
        };
        let done = qemu_img(&arguments, self.source, &allowance, self.cancel, &mut tick)?;
        if done.status.success() {
            Ok(())
        } else if done.errors.contains("No space left on device")
            || done.errors.contains("Disk quota exceeded")
        {
            Err(Trouble::Full)
        } else {
            Err(Trouble::Failed(complaint(&done)))
        }
    }
}

#[derive(Deserialize)]
struct Extent {
    length: u64,
    #[serde(default)]
    data: bool,
    offset: Option<u64>,
}

/// The largest end of data in a map, which has one extent per line and may have millions. `None`: not a map.
fn last_extent(map: Option<ChildStdout>) -> Option<u64> {
    let mut end = 0;
    let mut right = true;
    for line in BufReader::new(map?).split(b'\n') {
        let line = line.ok()?;
        let entry: &[u8] = line.trim_ascii();
        let entry = entry.strip_prefix(b"[").unwrap_or(entry);
        let entry = entry.strip_suffix(b"]").unwrap_or(entry);
        let entry = entry.strip_suffix(b",").unwrap_or(entry);
        if entry.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Extent>(entry) {
            Ok(Extent {
                length,
                data: true,
                offset: Some(offset),
            }) => end = end.max(offset.saturating_add(length)),
            Ok(_) => {}
            // Read on, so that the writer never waits.
            Err(_) => right = false,
        }
    }
    right.then_some(end)
}

/// What a failed run said, shortened to what a person reads.
fn complaint(outcome: &Outcome) -> String {
    let lines = outcome
        .errors
        .lines()
        .chain(outcome.output.lines())
        .map(str::trim);
    let said: Vec<&str> = lines.filter(|line| !line.is_empty()).take(3).collect();
    if said.is_empty() {
        format!("qemu-img ended with {}", outcome.status)
    } else {
        said.join("; ")
    }
}

/// Copies a raw source: the same bytes, with holes where there are zeros.
pub(crate) fn copy(
    source: &File,
    target: &File,
    size: u64,
    cancel: &Cancel,
    report: &mut Reporter<'_>,
) -> Result<(), Trouble> {
    let failed = |e: io::Error| {
        if crate::disk::is_full(&e) {
            Trouble::Full
        } else {
            Trouble::Failed(e.to_string())
        }
    };
    let mut buffer = vec![0; 16 * ZEROS.len()];
    for range in data_ranges(source, size).map_err(failed)? {
        let mut at = range.start;
        while at < range.end {
            // To the next chunk's boundary, so that whole chunks of zeros are seen as such.
            let room = (buffer.len() as u64 - at % CHUNK).min(range.end - at);
            let room = usize::try_from(room).map_err(|e| failed(io::Error::other(e)))?;
            source
                .read_exact_at(&mut buffer[..room], at)
                .map_err(failed)?;
            let mut from = at;
            for chunk in buffer[..room].chunks(ZEROS.len()) {
                if chunk != &ZEROS[..chunk.len()] {
                    target.write_all_at(chunk, from).map_err(failed)?;
                }
                from += chunk.len() as u64;
            }
            at = from;
            report.add(room as u64);
            if cancel.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
        }
    }
    Ok(())
}
