//! Frames.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a frame was not read or written. The connection is of no use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It is longer than any that may stand there.
    #[error("a frame of {bytes} bytes, where the most is {most}")]
    TooLarge {
        /// How long it says it is.
        bytes: u64,
        /// How long it may be.
        most: u64,
    },
    /// The connection ended within it.
    #[error("the connection ended in the middle of a frame")]
    Cut,
    /// It is not what is to stand there.
    #[error("a frame that does not read: {0}")]
    Malformed(String),
}

/// `value` as a frame of at most `most` bytes, its length not counted.
///
/// # Errors
/// When it is longer.
pub(crate) fn frame<T: Serialize>(value: &T, most: u64) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    ciborium::into_writer(value, &mut bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let length = bytes.len() - 4;
    let fits = u32::try_from(length).ok().filter(|l| u64::from(*l) <= most);
    let Some(prefix) = fits else {
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        return Err(FrameError::TooLarge { bytes, most });
    };
    bytes[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// Writes `value` as one frame of at most `most` bytes.
///
/// # Errors
/// When it is longer, or the connection broke.
pub async fn write_frame<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
    most: u64,
) -> Result<(), FrameError> {
    let frame = frame(value, most)?;
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

/// Reads one frame of at most `most` bytes; `None` where the stream ends before it.
///
/// # Errors
/// With what is wrong with the frame, or the connection.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    most: u64,
) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; 4];
    let first = stream.read(&mut prefix).await?;
    if first == 0 {
        return Ok(None);
    }
    stream
        .read_exact(&mut prefix[first..])
        .await
        .map_err(ended)?;
    let length = u32::from_be_bytes(prefix);
    if u64::from(length) > most {
        let bytes = length.into();
        return Err(FrameError::TooLarge { bytes, most });
    }
    let mut body = Vec::new();
    let read = stream.take(length.into()).read_to_end(&mut body).await?;
    if u32::try_from(read) != Ok(length) {
        return Err(FrameError::Cut);
    }
    let mut rest = body.as_slice();
    let value =
        ciborium::from_reader(&mut rest).map_err(|e| FrameError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(FrameError::Malformed("more follows".to_owned()));
    }
    Ok(Some(value))
}

fn ended(error: io::Error) -> FrameError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        FrameError::Cut
    } else {
        error.into()
    }
}
