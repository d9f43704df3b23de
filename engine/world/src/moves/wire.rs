//! What two servers say to each other at the beginning of a stream, before bytes of disks and memory follow.

use std::io;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hypervisor::ByteStream;

/// Longest message taken, in bytes: a domain's whole form has some thousands.
const LONGEST: u32 = 1 << 20;

/// Says something: the length as four bytes, the greatest first, then CBOR.
///
/// # Errors
/// When the stream breaks, or it is longer than is taken.
pub async fn say<T: Serialize + Sync>(stream: &mut ByteStream, message: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    ciborium::into_writer(message, &mut bytes).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    if length > LONGEST {
        return Err(too_long(length));
    }
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Hears what was said; nothing after it is read.
///
/// # Errors
/// When the stream breaks or ends, or what comes is something else.
pub async fn hear<T: DeserializeOwned>(stream: &mut ByteStream) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(too_long(length));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut bytes).await?;
    ciborium::from_reader(bytes.as_slice()).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the other server says what is not understood here: {error}"),
        )
    })
}

fn too_long(length: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message of {length} bytes, and at most {LONGEST} are taken"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    fn pipe() -> (ByteStream, ByteStream) {
        let (one, other) = tokio::io::duplex(64);
        (Box::pin(one.compat()), Box::pin(other.compat()))
    }

    #[tokio::test]
    async fn what_is_said_is_heard_and_nothing_after_it() {
        let (mut one, mut other) = pipe();
        let long = "x".repeat(1000);
        let told = async {
            say(&mut one, &("hello", 7u8)).await.unwrap();
            say(&mut one, &long).await.unwrap();
            one.write_all(b"rest").await.unwrap();
            drop(one);
        };
        let heard = async {
            let first: (String, u8) = hear(&mut other).await.unwrap();
            let second: String = hear(&mut other).await.unwrap();
            let mut rest = Vec::new();
            other.read_to_end(&mut rest).await.unwrap();
            (first, second, rest)
        };
        let ((), (first, second, rest)) = futures::future::join(told, heard).await;
        assert_eq!(first, ("hello".to_owned(), 7));
        assert_eq!(second, long);
        assert_eq!(rest, b"rest");
    }

    #[tokio::test]
    async fn what_is_too_long_cut_off_or_something_else_is_an_error() {
        for bytes in [
            b"\x00\x10\x00\x01".as_slice(),
            b"\xff\xff\xff\xffx",
            b"\x00\x00\x00\x05ab",
            b"\x00\x00",
            b"\x00\x00\x00\x01\xf6",
        ] {
            let (mut one, mut other) = pipe();
            one.write_all(bytes).await.unwrap();
            drop(one);
            assert!(hear::<String>(&mut other).await.is_err(), "{bytes:?}");
        }
    }
}
