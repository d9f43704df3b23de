//! Reading large files by chunks on several threads, and finding what is not a hole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use coppice_schema::Digest;
use coppice_schema::units::Size;
use rustix::fs::SeekFrom;

use crate::manifest::{CHUNK, chunk_len};
use crate::progress::{Cancel, Reporter};

/// A chunk of nothing.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Chunks that a thread takes at once: 4 MiB are enough for a disk to run at full speed.
const PIECE: u64 = 64;

/// Alignment of reads past the page cache: no common disk has larger blocks.
const ALIGN: usize = 4096;

/// Why a scan ended early.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Somebody asked for it.
    Cancelled,
    /// The disk failed.
    Failed(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

/// The parts of `file` that are not holes, in bytes, ascending. A file system that knows no holes shows all of it.
pub(crate) fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// The places of chunks that `ranges` of bytes touch, as ranges, ascending and without overlap.
pub(crate) fn touched_chunks(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    merged(
        ranges
            .iter()
            .map(|range| range.start / CHUNK..range.end.div_ceil(CHUNK))
            .collect(),
    )
}

/// The same places, ascending and without overlap.
pub(crate) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// Bytes in chunks at `places` of an image of `size` bytes.
pub(crate) fn bytes_in(places: &[Range<u64>], size: u64) -> u64 {
    places
        .iter()
        .map(|p| {
            p.end
                .saturating_mul(CHUNK)
                .min(size)
                .saturating_sub(p.start.saturating_mul(CHUNK))
        })
        .sum()
}

/// Reads the chunks at `places`, at most `rate` bytes a second; for each its digest, or `None` if it is all zeros.
/// Ascending.
pub(crate) fn scan(
    file: &File,
    size: u64,
    places: &[Range<u64>],
    rate: Option<Size>,
    report: &mut Reporter<'_>,
    cancel: &Cancel,
) -> Result<Vec<(u64, Option<Digest>)>, Stopped> {
    let pieces: Vec<Range<u64>> = places
        .iter()
        .flat_map(|places| cut(places.clone()))
        .collect();
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 4);
    // Whoever is in no hurry leaves the disk to others, most of the time.
    let threads = if rate.is_some() { 1 } else { threads };
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (pieces, next, stop) = (&pieces, &next, &stop);
            scope.spawn(move || {
                let mut buffer = Buffer::new();
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let read = buffer.read(file, size, piece.clone());
                    if let Some(rate) = rate {
                        let done = next.load(Ordering::Relaxed) as u64;
                        let due = span_of(done * PIECE * CHUNK, rate);
                        while begin.elapsed() < due
                            && !stop.load(Ordering::Relaxed)
                            && !cancel.is_cancelled()
                        {
                            std::thread::sleep((due - begin.elapsed().min(due)).min(NAP));
                        }
                    }
                    let failed = read.is_err();
                    if sender.send(read).is_err() || failed || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for read in &receiver {
            match read {
                Ok(chunks) => {
                    report.add(
                        chunks
                            .iter()
                            .map(|(index, _)| chunk_len(size, *index))
                            .sum(),
                    );
                    found.extend(chunks);
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(Stopped::Failed(e));
                }
            }
            if cancel.is_cancelled() {
                stop.store(true, Ordering::Relaxed);
                return Err(Stopped::Cancelled);
            }
        }
        Ok(())
    })?;
    found.sort_unstable_by_key(|(index, _)| *index);
    Ok(found)
}

/// Longest sleep of a thread that may be told to stop.
const NAP: Duration = Duration::from_millis(100);

/// How long `bytes` take at `rate` bytes a second.
fn span_of(bytes: u64, rate: Size) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.0.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn cut(places: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = places.end;
    let step = usize::try_from(PIECE).unwrap_or(1);
    places
        .step_by(step)
        .map(move |start| start..end.min(start + PIECE))
}

/// Memory for one piece, aligned for reads past the page cache.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let len = usize::try_from(PIECE * CHUNK).unwrap_or(0);
        let bytes = vec![0; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, start }
    }

    fn read(
        &mut self,
        file: &File,
        size: u64,
        piece: Range<u64>,
    ) -> io::Result<Vec<(u64, Option<Digest>)>> {
        let offset = piece.start * CHUNK;
        let wanted = usize::try_from((piece.end * CHUNK).min(size).saturating_sub(offset))
            .map_err(io::Error::other)?;
        // Reads past the cache end on a block's boundary; the file ends where it ends.
        let room = &mut self.bytes[self.start..self.start + wanted.next_multiple_of(ALIGN)];
        let mut got = 0;
        while got < wanted {
            match file.read_at(&mut room[got..], offset + got as u64) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file is shorter than its image",
                    ));
                }
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let chunks = room[..wanted].chunks(ZEROS.len());
        Ok(piece
            .zip(chunks)
            .map(|(index, chunk)| (index, digest_unless_zero(chunk)))
            .collect())
    }
}

fn digest_unless_zero(chunk: &[u8]) -> Option<Digest> {
    if chunk == &ZEROS[..chunk.len()] {
        None
    } else {
        Some(Digest::of(chunk))
    }
}

/// The BLAKE3 of a whole file. Holes are hashed without reading them.
pub(crate) fn digest_of_file(
    file: &File,
    size: u64,
    report: &mut Reporter<'_>,
    cancel: &Cancel,
) -> Result<Digest, Stopped> {
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    for range in data_ranges(file, size)?
        .into_iter()
        .chain(std::iter::once(size..size))
    {
        while at < range.start {
            let n = (range.start - at).min(CHUNK);
            hash.update(&ZEROS[..usize::try_from(n).map_err(io::Error::other)?]);
            at += n;
            report.add(n);
            if cancel.is_cancelled() {
                return Err(Stopped::Cancelled);
            }
        }
        while at < range.end {
            let room = usize::try_from((range.end - at).min(buffer.len() as u64))
                .map_err(io::Error::other)?;
            let n = match file.read_at(&mut buffer[..room], at) {
                Ok(0) => {
                    return Err(
                        io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter").into(),
                    );
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            hash.update(&buffer[..n]);
            at += n as u64;
            report.add(n as u64);
            if cancel.is_cancelled() {
                return Err(Stopped::Cancelled);
            }
        }
    }
    Ok(Digest(*hash.finalize().as_bytes()))
}
