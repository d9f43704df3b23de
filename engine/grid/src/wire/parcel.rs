//! Snapshots on a wire: after the question that announces one, its length (u64, big-endian), its BLAKE3, and its bytes,
//! which are the state's encoding. What does not arrive whole and sound is dropped; nobody ever sees a part of it.

use std::sync::Arc;
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_state::State;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use openraft::type_config::TypeConfigExt;

use super::frame::FrameError;
use crate::types::{GridTypes, SnapshotMeta};

/// The largest state that is handed over.
pub(crate) const PARCEL_MOST: u64 = 4 << 30;

/// How long a sender may be silent in the middle of a snapshot.
const SILENCE: Duration = Duration::from_secs(20);

/// What is read or written at once.
const PIECE: usize = 64 << 10;

/// A state, encoded.
pub(crate) struct Parcel {
    head: [u8; 40],
    body: Vec<u8>,
}

impl Parcel {
    pub(crate) fn of(state: &State) -> Self {
        let body = state.encode();
        let mut head = [0; 40];
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        head[..8].copy_from_slice(&length.to_be_bytes());
        head[8..].copy_from_slice(&Digest::of(&body).0);
        Self { head, body }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.body.len()).unwrap_or(u64::MAX)
    }

    pub(crate) async fn send(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), FrameError> {
        stream.write_all(&self.head).await?;
        for piece in self.body.chunks(PIECE) {
            stream.write_all(piece).await?;
        }
        Ok(stream.flush().await?)
    }
}

/// Reads a state that `meta` announced, of `grid`.
pub(crate) async fn receive<C: GridTypes>(
    stream: &mut (impl AsyncRead + Unpin + Send),
    meta: &SnapshotMeta,
    grid: GridId,
) -> Result<Arc<State>, FrameError> {
    let mut head = [0; 40];
    patient::<C, _>(stream.read_exact(&mut head)).await?;
    let (length, digest) = head.split_at(8);
    let length = u64::from_be_bytes(length.try_into().unwrap_or_default());
    if length > PARCEL_MOST {
        let (bytes, most) = (length, PARCEL_MOST);
        return Err(FrameError::TooLarge { bytes, most });
    }
    let mut body = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = patient::<C, _>(stream.read(&mut piece[..most])).await?;
        if read == 0 {
            return Err(FrameError::Cut);
        }
        body.extend_from_slice(&piece[..read]);
        left -= u64::try_from(read).unwrap_or(u64::MAX).min(left);
    }
    let malformed = |why: &str| FrameError::Malformed(format!("a snapshot: {why}"));
    if Digest::of(&body).0 != digest {
        return Err(malformed("its digest does not fit"));
    }
    let state = State::decode(&body).map_err(|e| malformed(&e.to_string()))?;
    if state.grid.is_some_and(|its| its != grid) {
        return Err(malformed("it is another grid's"));
    }
    let covered = meta.last_log_id.map_or(0, |id| id.index());
    if state.index != covered {
        return Err(malformed("it does not end where it was said to"));
    }
    Ok(Arc::new(state))
}

async fn patient<C: GridTypes, T: Send>(
    reading: impl Future<Output = std::io::Result<T>> + Send,
) -> Result<T, FrameError> {
    match C::timeout(SILENCE, reading).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(FrameError::Cut),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
