//! The sender's side.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coppice_golden::replica::{CHUNK, Fingerprint, parts, size_of};
use coppice_schema::units::{Size, Timestamp};
use tokio::time::{Instant, sleep};

use super::super::wire::{self, Offer, PART, Sum, Word};
use super::{LocalReplicas, Original, ReplicaError, STALL, Sent, broken, within};
use crate::disks::DiskError;
use crate::hypervisor::ByteStream;
use crate::libvirt::Copying;
use crate::moves::Road;
use crate::moves::wire::{hear, say};

/// How often QEMU is asked how far it is.
const NOW_AND_THEN: Duration = Duration::from_millis(50);
/// How often the holder hears that it is not forgotten.
const SIGN: Duration = Duration::from_secs(5);

/// A file here, to be read.
struct Source {
    file: Arc<File>,
    length: u64,
    /// When it was last written to, and looked after: what shows that nobody did since.
    glance: (i64, i64, i64, i64),
    allocated: Size,
}

/// A file that goes when this does.
struct Passing(PathBuf);

impl Drop for Passing {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next copy, or at the next start.
        let _kept = std::fs::remove_file(&self.0);
    }
}

impl LocalReplicas {
    pub(super) async fn send_copy(
        &self,
        original: &Original,
        taken: Timestamp,
        road: &dyn Road,
    ) -> Result<Sent, ReplicaError> {
        let member = &original.mark.member;
        let lost = |error: io::Error| broken(member, error);
        let copying = self.libvirt.begin_copying(original.uuid).await?;
        let overlay = open(&original.overlay).await?;
        let size = disk_of(&overlay, &original.overlay).await?;
        let offer = Offer {
            taken,
            size,
            data: overlay.allocated,
        };
        let mut stream = road.open().await?;
        within(say(&mut stream, &offer)).await.map_err(lost)?;
        let known = Arc::new(known(original, &mut stream).await?);
        let mut sum = Sum::default();
        let (length, at_rest) = if copying.runs {
            let snapshot = self.copy_at_home(original, offer, copying, &mut stream);
            let (target, at_rest) = snapshot.await?;
            let source = open(&target.0).await?;
            let sent = send_parts(&source, known, &mut stream, &mut sum).await;
            sent.map_err(lost)?;
            (source.length, at_rest)
        } else {
            let sent = send_parts(&overlay, known, &mut stream, &mut sum).await;
            sent.map_err(lost)?;
            self.still_rests(original, &overlay).await?;
            // Whoever shut it down left its file systems in order, as far as anybody knows.
            (overlay.length, false)
        };
        within(wire::end(&mut stream, &sum, length))
            .await
            .map_err(lost)?;
        arrived(original, &mut stream).await?;
        Ok(Sent {
            bytes: Size(sum.bytes),
            at_rest,
        })
    }

    /// What the disk of a running guest holds at one moment, in a file here, and whether its file systems were at rest.
    async fn copy_at_home(
        &self,
        original: &Original,
        Offer { size, data, .. }: Offer,
        copying: Copying,
        stream: &mut ByteStream,
    ) -> Result<(Passing, bool), ReplicaError> {
        let member = &original.mark.member;
        let lost = |error: io::Error| broken(member, error);
        let (image, whose) = (original.mark.image, member.clone());
        let target = self.disks.begin_outgoing(whose, image, size, data).await?;
        let target = Passing(target);
        let snapshot = self
            .libvirt
            .begin_snapshot(copying, &original.overlay, &target.0)
            .await?;
        let (mut seen, mut since, mut said) = (0, Instant::now(), Instant::now());
        while let Some(moved) = snapshot.moved().await? {
            if moved != seen {
                (seen, since) = (moved, Instant::now());
            }
            if since.elapsed() > STALL {
                return Err(broken(member, "its disk is not copied any further"));
            }
            if said.elapsed() > SIGN {
                within(wire::wait(stream)).await.map_err(lost)?;
                said = Instant::now();
            }
            sleep(NOW_AND_THEN).await;
        }
        let at_rest = snapshot.at_rest;
        snapshot.end().await?;
        Ok((target, at_rest))
    }

    /// Nobody has started a guest that was off while its disk was read.
    async fn still_rests(&self, original: &Original, overlay: &Source) -> Result<(), ReplicaError> {
        let now = open(&original.overlay).await?;
        let same = now.glance == overlay.glance && now.length == overlay.length;
        if !same || self.libvirt.runs_to_be_copied(original.uuid).await? {
            return Err(broken(&original.mark.member, "it was started meanwhile"));
        }
        Ok(())
    }
}

/// Most chunks of the holder that are remembered.
const KNOWN: usize = 1 << 20;

/// Hears what the holder has, until it is ready.
async fn known(
    original: &Original,
    stream: &mut ByteStream,
) -> Result<BTreeSet<Fingerprint>, ReplicaError> {
    let mut known = BTreeSet::new();
    loop {
        match heard(original, stream).await? {
            Word::Has { chunks } => {
                let room = KNOWN.saturating_sub(known.len());
                known.extend(chunks.into_iter().take(room).map(Fingerprint));
            }
            Word::Ready => return Ok(known),
            Word::Here | Word::NotHere { .. } => return Err(out_of_turn(original)),
        }
    }
}

/// Hears that all of it is there.
async fn arrived(original: &Original, stream: &mut ByteStream) -> Result<(), ReplicaError> {
    match heard(original, stream).await? {
        Word::Here => Ok(()),
        Word::Ready | Word::Has { .. } | Word::NotHere { .. } => Err(out_of_turn(original)),
    }
}

/// Hears a word; that it does not take the copy is an error.
async fn heard(original: &Original, stream: &mut ByteStream) -> Result<Word, ReplicaError> {
    let member = &original.mark.member;
    let heard = within(hear::<Word>(stream)).await;
    match heard.map_err(|error| broken(member, error))? {
        Word::NotHere { cause } => Err(ReplicaError::Declined {
            member: member.clone(),
            cause,
        }),
        word @ (Word::Has { .. } | Word::Ready | Word::Here) => Ok(word),
    }
}

fn out_of_turn(original: &Original) -> ReplicaError {
    broken(
        &original.mark.member,
        "the holder says something out of turn",
    )
}

/// Opens a file of ours, and looks at it.
async fn open(path: &Path) -> Result<Source, ReplicaError> {
    let path = path.to_owned();
    let what = format!("read {}", path.display());
    let opened = blocking(move || {
        let mut options = File::options();
        options.read(true);
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?);
        let file = options.open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Source {
            file: Arc::new(file),
            length: meta.len(),
            glance: (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ),
            allocated: Size(meta.blocks().saturating_mul(512)),
        })
    });
    let failed = |e: io::Error| DiskError::Io {
        what,
        cause: e.to_string(),
    };
    Ok(opened.await.map_err(failed)?)
}

/// The size of the disk that an overlay is.
async fn disk_of(overlay: &Source, path: &Path) -> Result<Size, ReplicaError> {
    let file = Arc::clone(&overlay.file);
    let size = blocking(move || size_of(&file).map_err(io::Error::other)).await;
    let failed = |e: io::Error| DiskError::Io {
        what: format!("read {}", path.display()),
        cause: e.to_string(),
    };
    Ok(size.map_err(failed)?)
}

/// A piece of a file, and the chunks in it that the holder has.
struct Piece {
    bytes: Vec<u8>,
    same: Vec<(u64, Fingerprint)>,
}

/// Sends all of a file but what the holder has.
async fn send_parts(
    source: &Source,
    known: Arc<BTreeSet<Fingerprint>>,
    stream: &mut ByteStream,
    sum: &mut Sum,
) -> io::Result<()> {
    let (file, length) = (Arc::clone(&source.file), source.length);
    let ranges = blocking(move || parts(&file, length)).await?;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            // So that chunks begin where they are compared.
            let end = range.end.min((at / PART + 1) * PART);
            let (file, known) = (Arc::clone(&source.file), Arc::clone(&known));
            let piece = blocking(move || read(&file, at..end, &known)).await?;
            send_piece(at, &piece, stream, sum).await?;
            at = end;
        }
    }
    Ok(())
}

fn read(file: &File, range: Range<u64>, known: &BTreeSet<Fingerprint>) -> io::Result<Piece> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    let mut same = Vec::new();
    let mut place = range.start.next_multiple_of(CHUNK);
    while !known.is_empty() && place + CHUNK <= range.end {
        if let Some(chunk) = slice(&bytes, place - range.start, CHUNK) {
            let fingerprint = Fingerprint::of(chunk);
            if known.contains(&fingerprint) {
                same.push((place, fingerprint));
            }
        }
        place += CHUNK;
    }
    Ok(Piece { bytes, same })
}

async fn send_piece(
    at: u64,
    piece: &Piece,
    stream: &mut ByteStream,
    sum: &mut Sum,
) -> io::Result<()> {
    let end = at + u64::try_from(piece.bytes.len()).map_err(io::Error::other)?;
    let missing = || io::Error::other("a piece ends too early");
    let mut rest = at;
    let mut same = piece.same.as_slice();
    while rest < end {
        let run = same
            .iter()
            .enumerate()
            .take_while(|(n, (place, _))| *place == rest + *n as u64 * CHUNK)
            .count();
        let (here, later) = same.split_at(run);
        for (place, _) in here {
            let bytes = slice(&piece.bytes, place - at, CHUNK).ok_or_else(missing)?;
            sum.add(*place, bytes);
        }
        if !here.is_empty() {
            within(wire::same(stream, here)).await?;
            rest += here.len() as u64 * CHUNK;
            same = later;
            continue;
        }
        let next = same.first().map_or(end, |(place, _)| *place);
        let bytes = slice(&piece.bytes, rest - at, next - rest).ok_or_else(missing)?;
        within(wire::part(stream, sum, rest, bytes)).await?;
        rest = next;
    }
    Ok(())
}

fn slice(bytes: &[u8], from: u64, length: u64) -> Option<&[u8]> {
    let from = usize::try_from(from).ok()?;
    bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(io::Error::other(e)))
}
