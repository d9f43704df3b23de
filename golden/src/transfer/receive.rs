//! Getting an image.

mod here;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use coppice_schema::Digest;
use coppice_schema::units::Size;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};

use super::flow::{Flow, Registered, Target};
use super::partial::{Have, Part, part_name};
use super::wire::{Ask, FORMAT, HEAD, Kind, Title, Want, Wire, read, unpack};
use super::writer::{Chunk, Thread, Trouble, Writer};
use super::{Copied, Means, ReceiveError, invalid};
use crate::disk::DiskError;
use crate::manifest::{CHUNK, Manifest, chunk_len};
use crate::progress::Cancel;
use crate::store::{Store, StoreError};
use crate::verify::VerifyError;

/// A manifest of that size is of an image of a petabyte.
const LARGEST_TITLE: u64 = 1 << 30;

/// A source that is only about to begin is asked again after that.
const AGAIN: Duration = Duration::from_millis(200);

/// Gets the image `root` from the first of the `sources` that has it, what that one lacks from the next, and so on;
/// `connect` opens a stream to the one of a number. An image that is here and bad is repaired in its place; of a half
/// one, the rest is fetched. A source that does not have it yet, and is not the last one, is given
/// [`Means::patience`] to begin.
///
/// Others can get it from here meanwhile. Dropping the future keeps what has arrived, and so does [`Cancel`], which ends
/// it within about a tenth of a second. It blocks on the disk.
///
/// # Errors
/// Each [`ReceiveError`]; all that has arrived and is right is kept.
pub async fn receive<S, F>(
    store: &Arc<Store>,
    root: Digest,
    sources: usize,
    connect: F,
    means: &Means,
    cancel: &Cancel,
) -> Result<Copied, ReceiveError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(usize) -> BoxFuture<'static, io::Result<S>>,
{
    let registered = Flow::begin(store, root).ok_or(ReceiveError::Busy(root))?;
    let mut receiving = Receiving {
        store,
        root,
        means,
        cancel,
        registered,
        part: None,
        repairs: false,
        want: BTreeSet::new(),
        writer: None,
        stop: Arc::new(AtomicBool::new(false)),
        last: "it was told of no server that has it".to_owned(),
        clones: true,
        own: None,
        resumed: 0,
        fetched: 0,
        wire: 0,
    };
    receiving.begin()?;
    loop {
        let before = receiving.stored();
        if receiving.is_whole() {
            return receiving.finish();
        }
        let clones = receiving.clones;
        receiving.pass(sources, &connect).await?;
        // A first pass that only cloned, and cloned what is wrong, is followed by one that fetches.
        let cloned = clones && !receiving.clones;
        if receiving.stored() == before && !cloned && !receiving.is_whole() {
            return Err(ReceiveError::Incomplete {
                root,
                missing: receiving.missing(),
                last: receiving.last.clone(),
            });
        }
    }
}

/// What one source came to.
enum Said {
    Absent,
    Done,
}

struct Receiving<'a> {
    store: &'a Arc<Store>,
    root: Digest,
    means: &'a Means,
    cancel: &'a Cancel,
    registered: Registered<'a>,
    part: Option<Part>,
    /// What is written to is the image itself.
    repairs: bool,
    /// Places to be fetched.
    want: BTreeSet<u64>,
    writer: Option<(SyncSender<Chunk>, Thread)>,
    stop: Arc<AtomicBool>,
    last: String,
    /// What other images here have is still to be cloned; what is wrong of it is fetched after that.
    clones: bool,
    /// What went wrong here, and is no source's fault.
    own: Option<ReceiveError>,
    resumed: u64,
    fetched: u64,
    wire: u64,
}

impl Receiving<'_> {
    fn target(&self) -> Option<Target> {
        self.registered.flow.target()
    }

    fn stored(&self) -> u64 {
        self.registered.flow.progress().0.0
    }

    fn is_whole(&self) -> bool {
        let (here, all) = self.registered.flow.progress();
        self.target().is_some() && here == all
    }

    fn missing(&self) -> Size {
        let (here, all) = self.registered.flow.progress();
        Size(all.0.saturating_sub(here.0))
    }

    /// Asks each source once for what is missing.
    async fn pass<S, F>(&mut self, sources: usize, connect: &F) -> Result<(), ReceiveError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Fn(usize) -> BoxFuture<'static, io::Result<S>>,
    {
        if let Some(target) = self.target() {
            self.write(target)?;
        }
        for index in 0..sources {
            let nothing = self.target().is_some() && self.want.is_empty();
            let ended = self.writer.as_ref().is_some_and(|(_, t)| t.is_finished());
            if nothing || ended || self.cancel.is_cancelled() {
                break;
            }
            if let Err(e) = self.ask(index, index + 1 == sources, connect).await {
                self.last = e.to_string();
            }
            if let Some(e) = self.own.take() {
                self.land()?;
                return Err(self.full_or(e));
            }
        }
        self.land()
    }

    /// Begins to write: what other images here have is cloned, the rest is wanted.
    fn write(&mut self, target: Target) -> Result<(), ReceiveError> {
        let stored: BTreeSet<u64> = self.registered.flow.all_stored().into_iter().collect();
        let places = target.manifest.chunks().iter().map(|(place, _)| *place);
        self.want = places.filter(|place| !stored.contains(place)).collect();
        let clones = if std::mem::take(&mut self.clones) && !self.repairs {
            self.find_here(&target)
        } else {
            VecDeque::new()
        };
        for run in &clones {
            for place in run.here..run.here + run.count {
                self.want.remove(&place);
            }
        }
        let size = target.manifest.size().0;
        let needed: u64 = self.want.iter().map(|place| chunk_len(size, *place)).sum();
        let free = self.store.space()?.free;
        let spare = Size(needed.saturating_add(self.means.keep_free.0));
        if !self.repairs && spare > free {
            return Err(self.no_space(spare, free));
        }
        let path = if self.repairs {
            self.store.image_path(self.root)
        } else {
            self.store.incoming.join(part_name(self.root))
        };
        let writer = Writer {
            store: Arc::clone(self.store),
            flow: Arc::clone(&self.registered.flow),
            target,
            path,
            have: self.take_have()?,
            keep_free: if self.repairs {
                Size(0)
            } else {
                self.means.keep_free
            },
            clones,
            stop: Arc::clone(&self.stop),
            pending: Vec::new(),
            bytes: 0,
            rotten: 0,
        };
        self.writer = Some(writer.spawn());
        Ok(())
    }

    fn take_have(&mut self) -> Result<Option<Have>, ReceiveError> {
        let Some(part) = self.part.as_ref().filter(|_| !self.repairs) else {
            return Ok(None);
        };
        let have = part.have.another();
        let have = have.map_err(|e| DiskError::new("open", self.store.incoming.path(), e))?;
        Ok(Some(have))
    }

    /// Waits until all is on the disk that was given to the writer.
    fn land(&mut self) -> Result<(), ReceiveError> {
        let cancelled = self.cancel.is_cancelled();
        self.stop.store(cancelled, Ordering::Relaxed);
        let Some((sender, thread)) = self.writer.take() else {
            return if cancelled {
                Err(ReceiveError::Cancelled)
            } else {
                Ok(())
            };
        };
        drop(sender);
        let (_, trouble) = thread.join().unwrap_or((None, None));
        match trouble {
            Some(Trouble::Full) => {
                let needed = self.missing().0.saturating_add(self.means.keep_free.0);
                let free = self.store.space()?.free;
                // Full as it was told, it has less than what one chunk needs, whatever it says now.
                let needed = Size(needed.max(free.0.saturating_add(CHUNK)));
                Err(self.no_space(needed, free))
            }
            Some(Trouble::Disk(e)) => Err(e.into()),
            Some(Trouble::Rotten(count)) => {
                let what = format!("{count} chunks are not as they were written");
                let path = self.store.incoming.join(part_name(self.root));
                Err(DiskError::new("read back", path, io::Error::other(what)).into())
            }
            None if cancelled => Err(ReceiveError::Cancelled),
            None => Ok(()),
        }
    }

    /// A disk that was full before anything was written.
    fn full_or(&self, e: ReceiveError) -> ReceiveError {
        if matches!(&e, ReceiveError::Store(StoreError::Disk(e)) if e.is_full()) {
            let free = self.store.space().map_or(Size(0), |space| space.free);
            return self.no_space(Size(free.0.saturating_add(CHUNK)), free);
        }
        e
    }

    fn no_space(&self, needed: Size, free: Size) -> ReceiveError {
        ReceiveError::NoSpace {
            path: self.store.path().to_owned(),
            needed,
            free,
        }
    }

    async fn ask<S, F>(&mut self, index: usize, last: bool, connect: &F) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Fn(usize) -> BoxFuture<'static, io::Result<S>>,
    {
        let begin = Instant::now();
        loop {
            let stream = connect(index).await?;
            let mut wire = Wire::new(stream, self.means, self.cancel.clone());
            let said = self.listen(&mut wire).await;
            self.wire += wire.received;
            match said? {
                Said::Done => return Ok(()),
                Said::Absent if last || begin.elapsed() >= self.means.patience => {
                    return Err(io::Error::other(
                        "the server that was asked has nothing of it",
                    ));
                }
                Said::Absent if self.cancel.is_cancelled() => return Ok(()),
                Said::Absent => self.means.timer.sleep(AGAIN).await,
            }
        }
    }

    async fn listen<S>(&mut self, wire: &mut Wire<S>) -> io::Result<Said>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let knows = self.target().is_some();
        let ask = Ask {
            format: FORMAT,
            root: self.root,
            knows,
            older: if knows { Vec::new() } else { self.older() },
        };
        wire.say(Kind::Ask, &ask).await?;
        loop {
            let (kind, content) = wire.hear().await?;
            match kind {
                Kind::Absent => return Ok(Said::Absent),
                Kind::Wait if knows => break,
                Kind::Wait => {}
                Kind::Title => {
                    let manifest = self.title(wire, read(&content)?).await?;
                    self.prepare(manifest)?;
                    break;
                }
                Kind::Ask
                | Kind::Want
                | Kind::Watch
                | Kind::Told
                | Kind::Piece
                | Kind::Chunk
                | Kind::Bad
                | Kind::Done => {
                    return Err(invalid("it answered what was not asked"));
                }
            }
        }
        if self.want.is_empty() {
            return Ok(Said::Done);
        }
        let want = Want {
            ranges: ranges(&self.want),
        };
        wire.say(Kind::Want, &want).await?;
        let mut wrong = 0u64;
        loop {
            let (kind, content) = wire.hear().await?;
            match kind {
                Kind::Chunk => {
                    let bytes = HEAD + content.len() as u64;
                    self.means
                        .incoming
                        .pass(bytes, self.means.timer.as_ref())
                        .await;
                    if !self.accept(content)? {
                        wrong += 1;
                    }
                }
                Kind::Wait => {}
                Kind::Bad => wrong += 1,
                Kind::Done if wrong > 0 => {
                    let what = format!("{wrong} of its chunks are not what they should be");
                    return Err(invalid(what));
                }
                Kind::Done if !self.want.is_empty() => {
                    return Err(io::Error::other(
                        "a server that was asked has not all of it",
                    ));
                }
                Kind::Done => return Ok(Said::Done),
                Kind::Ask
                | Kind::Want
                | Kind::Watch
                | Kind::Told
                | Kind::Absent
                | Kind::Title
                | Kind::Piece => {
                    return Err(invalid("it answered what was not asked"));
                }
            }
        }
    }

    /// Takes a chunk that came; says whether it is what it should be.
    fn accept(&mut self, frame: Vec<u8>) -> io::Result<bool> {
        let Ok((place, bytes)) = unpack(&frame) else {
            return Ok(false);
        };
        if !self.want.contains(&place) {
            return Ok(true);
        }
        let Some(target) = self.target() else {
            return Ok(false);
        };
        if target.manifest.digest_at(place) != Some(Digest::of(&bytes)) {
            return Ok(false);
        }
        let len = bytes.len() as u64;
        self.registered.flow.arrived(Arc::new(frame));
        let written = self
            .writer
            .as_ref()
            .map(|(sender, _)| sender.send((place, bytes)));
        if !matches!(written, Some(Ok(()))) {
            return Err(io::Error::other("the disk takes no more"));
        }
        self.want.remove(&place);
        self.fetched += len;
        Ok(true)
    }

    async fn title<S>(&mut self, wire: &mut Wire<S>, title: Title) -> io::Result<Manifest>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if title.len > LARGEST_TITLE {
            return Err(invalid("its manifest is larger than that of any disk"));
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < title.len {
            let (kind, piece) = wire.hear().await?;
            if kind != Kind::Piece {
                return Err(invalid("its manifest ended early"));
            }
            bytes.extend_from_slice(&piece);
        }
        let manifest = match title.older {
            None => Manifest::decode(&bytes),
            Some(older) => {
                let older = self.store.manifest(older).map_err(io::Error::other)?;
                Manifest::from_change(&older, &bytes)
            }
        };
        let manifest = manifest.map_err(|e| invalid(e.to_string()))?;
        if manifest.root() != self.root {
            return Err(invalid("it sent the manifest of another image"));
        }
        Ok(manifest)
    }

    /// The manifest is known: from here on others can follow.
    fn prepare(&mut self, manifest: Manifest) -> io::Result<()> {
        let part = self.store.begin_half(manifest);
        let prepared = part.map_err(ReceiveError::from).and_then(|part| {
            self.take(part)?;
            self.target().map_or(Ok(()), |target| self.write(target))
        });
        prepared.map_err(|e| {
            let told = io::Error::other(e.to_string());
            self.own = Some(e);
            told
        })
    }

    fn finish(&mut self) -> Result<Copied, ReceiveError> {
        let target = self.target();
        let manifest = target.as_ref().map(|target| Arc::clone(&target.manifest));
        let (size, data) = manifest.map_or((Size(0), Size(0)), |m| (m.size(), m.data()));
        if self.repairs {
            match self.store.verify(self.root, &mut |_| {}, self.cancel) {
                Ok(_) => {}
                Err(VerifyError::Cancelled) => return Err(ReceiveError::Cancelled),
                Err(VerifyError::Store(e)) => return Err(e.into()),
                Err(e @ (VerifyError::Bad { .. } | VerifyError::Length { .. })) => {
                    return Err(ReceiveError::Incomplete {
                        root: self.root,
                        missing: self.missing(),
                        last: e.to_string(),
                    });
                }
            }
        } else if let Some(part) = self.part.take() {
            self.store.publish_half(&part)?;
        }
        Ok(Copied {
            root: self.root,
            size,
            data,
            wire: Size(self.wire),
            cloned: Size(data.0.saturating_sub(self.resumed + self.fetched)),
            resumed: Size(self.resumed),
        })
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some((sender, thread)) = self.writer.take() {
            drop(sender);
            // What has arrived is on the disk before anybody tries again.
            let _ = thread.join();
        }
    }
}

fn ranges(places: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for place in places {
        match ranges.last_mut() {
            Some((first, count)) if *first + *count == *place => *count += 1,
            _ => ranges.push((*place, 1)),
        }
    }
    ranges
}
