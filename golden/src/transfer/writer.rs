//! The thread that brings chunks to the disk while others are still on their way.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use coppice_schema::Digest;
use coppice_schema::units::Size;

use super::flow::{Flow, Target};
use super::partial::Have;
use crate::disk::{DiskError, is_full};
use crate::manifest::{CHUNK, chunk_len};
use crate::space::Space;
use crate::store::Store;

/// Chunks that wait for the disk, before who sends them does: 16 MiB, a sixth of a second of a gigabit.
const WAITING: usize = 256;

/// Bytes between two syncs: what a crash may cost, and enough for a disk to run at full speed.
const BATCH: u64 = 32 << 20;

/// Time between two syncs at most, while something comes: by a slow wire it is long before a batch is full, and what is not
/// durable is lost with this process, and told to nobody who asks how far it is.
const OFTEN: Duration = Duration::from_secs(1);

/// What has been written is made durable when nothing came for so long.
const IDLE: Duration = Duration::from_millis(200);

/// Chunks that another image on this disk has: there, here, and how many.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) from: Arc<File>,
    pub(super) there: u64,
    pub(super) here: u64,
    pub(super) count: u64,
}

/// Chunks that are cloned in one go: between two, what arrives is written.
const CLONED_AT_ONCE: u64 = 256;

/// A chunk that came.
pub(super) type Chunk = (u64, Vec<u8>);

/// How it ended. What was stored is in the flow in any case.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The disk is full, or is to be kept from it.
    Full,
    /// The disk failed.
    Disk(DiskError),
    /// What was read back is not what was written, more often than by chance.
    Rotten(u64),
}

/// The thread's work.
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) flow: Arc<Flow>,
    pub(super) target: Target,
    /// The target's file, for messages and to read it back.
    pub(super) path: PathBuf,
    /// `None`: an image under its name is repaired.
    pub(super) have: Option<Have>,
    pub(super) keep_free: Size,
    pub(super) clones: VecDeque<Run>,
    pub(super) stop: Arc<AtomicBool>,
    /// Written, and not yet read back; whether each came from elsewhere.
    pub(super) pending: Vec<(u64, bool)>,
    pub(super) bytes: u64,
    pub(super) rotten: u64,
}

/// So many chunks that are not as written are a broken disk.
const ROTTEN: u64 = 16;

pub(super) type Thread = std::thread::JoinHandle<(Option<Have>, Option<Trouble>)>;

impl Writer {
    pub(super) fn spawn(self) -> (SyncSender<Chunk>, Thread) {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::spawn(move || self.run(&receiver));
        (sender, thread)
    }

    fn run(mut self, receiver: &Receiver<Chunk>) -> (Option<Have>, Option<Trouble>) {
        let worked = self.work(receiver);
        // What is right is kept, also where the disk was full just now.
        let kept = self.flush();
        (self.have, worked.err().or(kept.err()))
    }

    fn work(&mut self, receiver: &Receiver<Chunk>) -> Result<(), Trouble> {
        let mut synced = Instant::now();
        loop {
            let next = match receiver.try_recv() {
                Err(TryRecvError::Empty) if self.clones.is_empty() => {
                    match receiver.recv_timeout(IDLE) {
                        Err(RecvTimeoutError::Timeout) => Err(TryRecvError::Empty),
                        Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
                        Ok(chunk) => Ok(chunk),
                    }
                }
                other => other,
            };
            match next {
                Ok((place, bytes)) => self.write(place, &bytes)?,
                Err(_) if self.stop.load(Ordering::Relaxed) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    if !self.clone_some()? {
                        self.flush()?;
                    }
                }
                Err(TryRecvError::Disconnected) => {
                    if !self.clone_some()? {
                        return Ok(());
                    }
                }
            }
            if self.bytes >= BATCH || synced.elapsed() >= OFTEN {
                self.flush()?;
                synced = Instant::now();
            }
        }
    }

    fn write(&mut self, place: u64, bytes: &[u8]) -> Result<(), Trouble> {
        self.target
            .file
            .write_all_at(bytes, place * CHUNK)
            .map_err(|e| self.fail("write", e))?;
        self.pending.push((place, true));
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Takes the next chunks from an image that is here; says whether there were any. Where the file system can share
    /// them between files, it does.
    fn clone_some(&mut self) -> Result<bool, Trouble> {
        let Some(mut run) = self.clones.pop_front() else {
            return Ok(false);
        };
        let now = run.count.min(CLONED_AT_ONCE);
        let size = self.target.manifest.size().0;
        let end = (run.here + now).saturating_mul(CHUNK).min(size);
        let (mut there, mut here) = (run.there * CHUNK, run.here * CHUNK);
        while here < end {
            let len = usize::try_from(end - here).unwrap_or(usize::MAX);
            let copied = rustix::fs::copy_file_range(
                &run.from,
                Some(&mut there),
                &self.target.file,
                Some(&mut here),
                len,
            );
            match copied {
                // That image ends earlier than its manifest says. What is missing is fetched.
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(self.fail("clone into", e.into())),
            }
        }
        self.pending
            .extend((run.here..run.here + now).map(|place| (place, false)));
        self.bytes += now * CHUNK;
        if run.count > now {
            run.there += now;
            run.here += now;
            run.count -= now;
            self.clones.push_front(run);
        }
        Ok(true)
    }

    /// Makes durable what was written, reads it back, and notes what is right.
    fn flush(&mut self) -> Result<(), Trouble> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut places = std::mem::take(&mut self.pending);
        self.bytes = 0;
        self.target
            .file
            .sync_data()
            .map_err(|e| self.fail("sync", e))?;
        places.sort_unstable();
        let mut read_back = ReadBack::open(&self.path).map_err(|e| self.fail("open", e))?;
        let size = self.target.manifest.size().0;
        let mut right = Vec::with_capacity(places.len());
        for (place, came) in places {
            let found = read_back
                .digest(place, size)
                .map_err(|e| self.fail("read", e))?;
            if self.target.manifest.digest_at(place) == Some(found) {
                right.push(place);
            } else {
                // What was cloned may have been wrong before.
                self.rotten += u64::from(came);
            }
        }
        if let Some(have) = &mut self.have {
            have.add(&right).map_err(|e| self.fail("note", e))?;
        }
        let bytes = right.iter().map(|place| chunk_len(size, *place)).sum();
        self.flow.stored(&right, bytes);
        if self.rotten >= ROTTEN {
            return Err(Trouble::Rotten(self.rotten));
        }
        let free = Space::of(&self.store.incoming).map_or(Size(u64::MAX), |space| space.free);
        let last = self.flow.progress();
        if free < self.keep_free && last.0 < last.1 {
            return Err(Trouble::Full);
        }
        Ok(())
    }

    fn fail(&self, operation: &'static str, e: io::Error) -> Trouble {
        if is_full(&e) {
            Trouble::Full
        } else {
            Trouble::Disk(DiskError::new(operation, &self.path, e))
        }
    }
}

/// Reads chunks past the page cache, where the file system can.
struct ReadBack {
    file: File,
    buffer: Vec<u8>,
    start: usize,
}

const ALIGN: usize = 4096;

impl ReadBack {
    fn open(path: &std::path::Path) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Err(rustix::io::Errno::INVAL) => open(path, flags, Mode::empty())?,
            other => other?,
        };
        let buffer = vec![0; usize::try_from(CHUNK).map_err(io::Error::other)? + ALIGN];
        let start = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        Ok(Self {
            file: File::from(file),
            buffer,
            start,
        })
    }

    fn digest(&mut self, place: u64, size: u64) -> io::Result<Digest> {
        let wanted = usize::try_from(chunk_len(size, place)).map_err(io::Error::other)?;
        let room = &mut self.buffer[self.start..self.start + wanted.next_multiple_of(ALIGN)];
        let mut got = 0;
        while got < wanted {
            match self
                .file
                .read_at(&mut room[got..], place * CHUNK + got as u64)
            {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Digest::of(&room[..wanted]))
    }
}
