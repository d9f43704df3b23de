//! Giving an image.

use std::io;
use std::sync::Arc;

use coppice_schema::Digest;
use futures::io::{AsyncRead, AsyncWrite};

use super::Means;
use super::flow::{Flow, Next, Target};
use super::partial::HalfImage;
use super::wire::{Ask, HEAD, Kind, Title, Want, Wire, pack, read};
use crate::manifest::{CHUNK, Manifest, chunk_len};
use crate::progress::Cancel;
use crate::source::peek;
use crate::store::Store;
use crate::store::record::raw_name;

/// Bytes of a manifest that are sent at once.
const PIECE: usize = 1 << 20;

/// A half image on whose way nothing comes any more is left after so many times of saying so.
const DRY: u32 = 12;

/// Packing is tried on every so many chunks, once so many in a row were not worth it.
const TRY_EVERY: u32 = 16;

/// Gives one other server, at the other end of `stream`, what it asks for, as far as it is here: of an image that is
/// whole, or of one that is itself on its way. Each chunk is compared with the manifest before it goes. It blocks on the
/// disk.
///
/// # Errors
/// When the stream ends, is silent for longer than [`Means::patience`], nobody wants to give any more, or the disk
/// cannot be read.
pub async fn serve<S>(
    store: &Arc<Store>,
    stream: S,
    means: &Means,
    cancel: &Cancel,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(stream, means, cancel.clone());
    let (kind, content) = wire.hear().await?;
    if kind == Kind::Watch {
        let halves = store.half_images().map_err(io::Error::other)?;
        return wire.say(Kind::Told, &halves).await;
    }
    if kind != Kind::Ask {
        return wire.send(Kind::Absent, &[]).await;
    }
    let ask: Ask = read(&content)?;
    let flow = store.flows().get(&ask.root).cloned();
    let Some((target, flow)) = find(store, flow, &ask, &mut wire, means).await? else {
        return wire.send(Kind::Absent, &[]).await;
    };
    if ask.knows {
        wire.send(Kind::Wait, &[]).await?;
    } else {
        name(store, &target.manifest, &ask.older, &mut wire).await?;
    }
    let (kind, content) = match wire.hear().await {
        // Whoever only needed the manifest has gone.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    };
    if kind != Kind::Want {
        return Err(super::invalid("it asked what nobody answers"));
    }
    let mut giving = Giving {
        wanted: wanted(&target.manifest, &read(&content)?),
        target,
        wire,
        means,
        poor: 0,
        rotten: false,
    };
    match flow {
        Some(flow) => giving.follow(&flow).await?,
        None => giving.all().await?,
    }
    if giving.rotten {
        // It counts as bad until it is read again, which a repair does.
        store.suspect(ask.root).map_err(io::Error::other)?;
    }
    giving.wire.send(Kind::Done, &[]).await
}

/// Which images are on their way to the server at the other end of `stream`.
///
/// # Errors
/// When the stream ends, or is silent for longer than [`Means::patience`].
pub async fn watch<S>(stream: S, means: &Means) -> io::Result<Vec<HalfImage>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(stream, means, Cancel::new());
    wire.send(Kind::Watch, &[]).await?;
    match wire.hear().await? {
        (Kind::Told, content) => read(&content),
        _ => Err(super::invalid("it answered what was not asked")),
    }
}

/// The image: one that is on its way once its manifest is known, or one that is here.
async fn find<S>(
    store: &Arc<Store>,
    flow: Option<Arc<Flow>>,
    ask: &Ask,
    wire: &mut Wire<S>,
    means: &Means,
) -> io::Result<Option<(Target, Option<Arc<Flow>>)>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(flow) = flow {
        for _ in 0..DRY {
            let seen = flow.changes();
            if let Some(target) = flow.target() {
                return Ok(Some((target, Some(flow))));
            }
            if flow.ended() {
                break;
            }
            let beat = means.patience / 4;
            if !flow.changed(seen, beat, means.timer.as_ref()).await && !ask.knows {
                wire.send(Kind::Wait, &[]).await?;
            }
        }
    }
    let Ok(manifest) = store.manifest(ask.root) else {
        return Ok(None);
    };
    let file = store.images.read(raw_name(ask.root));
    let Some(file) = file.map_err(io::Error::other)? else {
        return Ok(None);
    };
    let target = Target {
        manifest: Arc::new(manifest),
        file: Arc::new(file),
    };
    Ok(Some((target, None)))
}

/// Sends the manifest, as the shortest change of one that both have, or whole.
async fn name<S>(
    store: &Store,
    manifest: &Manifest,
    older: &[Digest],
    wire: &mut Wire<S>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut best = (None, manifest.encode());
    for older in older {
        let Ok(known) = store.manifest(*older) else {
            continue;
        };
        let change = manifest.change(&known);
        if change.len() < best.1.len() {
            best = (Some(*older), change);
        }
    }
    let (older, bytes) = best;
    let len = bytes.len() as u64;
    wire.say(Kind::Title, &Title { len, older }).await?;
    for piece in bytes.chunks(PIECE) {
        wire.send(Kind::Piece, piece).await?;
    }
    Ok(())
}

/// Which of the manifest's chunks are wanted, by their number in it.
fn wanted(manifest: &Manifest, want: &Want) -> Wanted {
    let mut all = vec![false; manifest.chunks().len()];
    let mut left = 0;
    for (first, count) in &want.ranges {
        let end = first.saturating_add(*count);
        let from = manifest
            .chunks()
            .partition_point(|(place, _)| place < first);
        let to = manifest.chunks().partition_point(|(place, _)| *place < end);
        for one in all.get_mut(from..to).unwrap_or_default() {
            left += usize::from(!*one);
            *one = true;
        }
    }
    Wanted { all, left }
}

struct Wanted {
    all: Vec<bool>,
    left: usize,
}

struct Giving<'a, S> {
    wanted: Wanted,
    target: Target,
    wire: Wire<S>,
    means: &'a Means,
    /// Chunks in a row that were not worth packing.
    poor: u32,
    rotten: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Giving<'_, S> {
    /// Everything that is wanted, from an image that is here.
    async fn all(&mut self) -> io::Result<()> {
        for number in 0..self.wanted.all.len() {
            if self.take(number) {
                let place = self.target.manifest.chunks().get(number).map(|(p, _)| *p);
                self.stored(place.unwrap_or_default()).await?;
            }
        }
        Ok(())
    }

    /// Everything that is wanted, as it comes.
    async fn follow(&mut self, flow: &Flow) -> io::Result<()> {
        let mut cursor = flow.cursor();
        let mut dry = 0;
        while self.wanted.left > 0 {
            match flow.next(&mut cursor) {
                Next::Frame(frame) => {
                    dry = 0;
                    let place = frame.first_chunk::<8>().map(|p| u64::from_le_bytes(*p));
                    if place.is_some_and(|place| self.take_place(place)) {
                        self.send(&frame).await?;
                    }
                }
                Next::Stored(place) => {
                    dry = 0;
                    if self.take_place(place) {
                        self.stored(place).await?;
                    }
                }
                Next::Ended => break,
                Next::Nothing(seen) => {
                    self.wire.flush().await?;
                    let beat = self.means.patience / 4;
                    if !flow.changed(seen, beat, self.means.timer.as_ref()).await {
                        dry += 1;
                        if dry > DRY {
                            break;
                        }
                        self.wire.send(Kind::Wait, &[]).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_place(&mut self, place: u64) -> bool {
        let chunks = self.target.manifest.chunks();
        let number = chunks.binary_search_by_key(&place, |(place, _)| *place);
        number.is_ok_and(|number| self.take(number))
    }

    fn take(&mut self, number: usize) -> bool {
        let wanted = self.wanted.all.get_mut(number).is_some_and(std::mem::take);
        self.wanted.left -= usize::from(wanted);
        wanted
    }

    async fn stored(&mut self, place: u64) -> io::Result<()> {
        let manifest = &self.target.manifest;
        let len = chunk_len(manifest.size().0, place);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let right = peek(&self.target.file, place * CHUNK, len)
            .ok()
            .filter(|bytes| manifest.digest_at(place) == Some(Digest::of(bytes)));
        let Some(bytes) = right else {
            self.rotten = true;
            return self.wire.send(Kind::Bad, &place.to_le_bytes()).await;
        };
        let try_it = self.poor < TRY_EVERY || self.poor.is_multiple_of(TRY_EVERY);
        let (frame, packed) = pack(place, &bytes, try_it);
        self.poor = if packed {
            0
        } else {
            self.poor.saturating_add(1)
        };
        self.send(&frame).await
    }

    async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let bytes = HEAD + frame.len() as u64;
        let timer = self.means.timer.as_ref();
        self.means.outgoing.pass(bytes, timer).await;
        self.wire.send(Kind::Chunk, frame).await
    }
}
