//! What two servers say to each other: frames of a kind, a length and so many bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use coppice_schema::Digest;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Means, invalid};
use crate::manifest::CHUNK;
use crate::progress::Cancel;

/// The newest form of what is said, and the one said here. Fields are named, so that older ones read newer ones.
pub(super) const FORMAT: u32 = 1;

/// Largest frame. What is longer comes in pieces.
const LARGEST: usize = 16 << 20;

/// Bytes of a frame beside its content.
pub(super) const HEAD: u64 = 5;

/// Kinds of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// [`Ask`], the first one.
    Ask = 1,
    /// [`Want`].
    Want = 2,
    /// Which images are on their way.
    Watch = 3,
    /// Nothing of that image is here, nor on its way.
    Absent = 10,
    /// Nothing to send yet.
    Wait = 11,
    /// [`Title`]; pieces follow.
    Title = 12,
    /// A piece of what was announced.
    Piece = 13,
    /// A chunk: its place in 8 bytes, how it is packed in one, and its bytes.
    Chunk = 14,
    /// A place whose chunk is bad here.
    Bad = 15,
    /// No more will come.
    Done = 16,
    /// Half images.
    Told = 17,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Ask,
            Self::Want,
            Self::Watch,
            Self::Absent,
            Self::Wait,
            Self::Title,
            Self::Piece,
            Self::Chunk,
            Self::Bad,
            Self::Done,
            Self::Told,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) format: u32,
    /// The image.
    pub(super) root: Digest,
    /// Its manifest is here already.
    pub(super) knows: bool,
    /// Images whose manifests are here: the new one can be told as a change of one of them.
    pub(super) older: Vec<Digest>,
}

/// Which chunks: first places and numbers of chunks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Want {
    pub(super) ranges: Vec<(u64, u64)>,
}

/// A manifest follows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Title {
    /// Bytes in all pieces.
    pub(super) len: u64,
    /// It is a change of the manifest of this image.
    pub(super) older: Option<Digest>,
}

/// A stream with frames on it.
pub(super) struct Wire<S> {
    stream: Impatient<S>,
    /// Bytes of all frames that came.
    pub(super) received: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, means: &Means, cancel: Cancel) -> Self {
        Self {
            stream: Impatient {
                stream,
                means: means.clone(),
                cancel,
                tick: None,
                quiet: Duration::ZERO,
            },
            received: 0,
        }
    }

    pub(super) async fn send(&mut self, kind: Kind, content: &[u8]) -> io::Result<()> {
        let len = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(content.len() + 5);
        frame.push(kind as u8);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(content);
        self.stream.write_all(&frame).await?;
        // A chunk is followed by others, or by the end.
        if kind != Kind::Chunk {
            self.stream.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn say<T: Serialize + Sync>(
        &mut self,
        kind: Kind,
        value: &T,
    ) -> io::Result<()> {
        self.send(kind, &crate::manifest::encode(value)).await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }

    /// The next frame.
    pub(super) async fn hear(&mut self) -> io::Result<(Kind, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).await?;
        let [kind, a, b, c, d] = head;
        let kind = Kind::of(kind).ok_or_else(|| invalid("it said what nobody understands"))?;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(io::Error::other)?;
        if len > LARGEST {
            return Err(invalid("it said too much at once"));
        }
        let mut content = Vec::new();
        // Room is made as bytes come, whatever was announced.
        let limit = u64::try_from(len).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_to_end(&mut content)
            .await?;
        if content.len() != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received += HEAD + limit;
        Ok((kind, content))
    }
}

pub(super) fn read<T: DeserializeOwned>(content: &[u8]) -> io::Result<T> {
    ciborium::from_reader(content).map_err(|e| invalid(format!("it cannot be understood: {e}")))
}

/// A chunk as it passes from server to server.
pub(super) fn pack(place: u64, bytes: &[u8], try_it: bool) -> (Vec<u8>, bool) {
    let mut frame = Vec::with_capacity(bytes.len() + 16);
    frame.extend_from_slice(&place.to_le_bytes());
    if try_it {
        let packed = lz4_flex::block::compress(bytes);
        // Less than an eighth saved is not worth unpacking on every server.
        if packed.len() < bytes.len() - bytes.len() / 8 {
            frame.push(1);
            frame.extend_from_slice(&packed);
            return (frame, true);
        }
    }
    frame.push(0);
    frame.extend_from_slice(bytes);
    (frame, false)
}

/// The place and the bytes of what [`pack`] made. Nothing in it is trusted; the bytes are never more than a chunk's.
pub(super) fn unpack(frame: &[u8]) -> io::Result<(u64, Vec<u8>)> {
    let cut = || invalid("a chunk is cut short");
    let (place, rest) = frame.split_first_chunk::<8>().ok_or_else(cut)?;
    let (how, bytes) = rest.split_first().ok_or_else(cut)?;
    let room = usize::try_from(CHUNK).map_err(io::Error::other)?;
    let bytes = match how {
        0 if bytes.len() <= room => bytes.to_vec(),
        1 => {
            let mut out = vec![0; room];
            let len = lz4_flex::block::decompress_into(bytes, &mut out)
                .map_err(|e| invalid(format!("a chunk cannot be unpacked: {e}")))?;
            out.truncate(len);
            out
        }
        _ => return Err(invalid("a chunk is packed as nobody understands")),
    };
    Ok((u64::from_le_bytes(*place), bytes))
}

/// A stream that fails when nothing passes for too long, or when nobody wants it any more.
struct Impatient<S> {
    stream: S,
    means: Means,
    cancel: Cancel,
    tick: Option<BoxFuture<'static, ()>>,
    quiet: Duration,
}

/// How often it is asked whether somebody still wants it.
const TICK: Duration = Duration::from_millis(100);

impl<S> Impatient<S> {
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            if self.cancel.is_cancelled() {
                return Poll::Ready(Err(io::Error::other("it was cancelled")));
            }
            let timer = &self.means.timer;
            let tick = self.tick.get_or_insert_with(|| timer.sleep(TICK));
            if tick.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.tick = None;
            self.quiet += TICK;
            if self.quiet >= self.means.patience {
                let error = io::Error::new(io::ErrorKind::TimedOut, "it fell silent");
                return Poll::Ready(Err(error));
            }
        }
    }

    fn passed<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(result) => {
                self.quiet = Duration::ZERO;
                Poll::Ready(result)
            }
            Poll::Pending => self.wait(context),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.passed(context, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(context, buffer);
        this.passed(context, poll)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(context);
        this.passed(context, poll)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}
