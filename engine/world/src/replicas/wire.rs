//! What two servers say to each other about a copy: an offer, what the holder has of an earlier copy, that it is ready,
//! then the parts of a file that are not holes, a digest of all of them, and the answer to that.

use std::io;

use coppice_golden::replica::{CHUNK, Fingerprint};
use coppice_schema::Digest;
use coppice_schema::units::{Size, Timestamp};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use serde::{Deserialize, Serialize};

use crate::hypervisor::ByteStream;
use crate::moves::wire::{hear, say};

/// Most bytes of one part.
pub(crate) const PART: u64 = 1 << 20;
/// Most chunks that are told, or named, in one message.
pub(crate) const CHUNKS: usize = 256;

/// The first thing that the sender says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// When the disk holds that, by the grid's time.
    pub(crate) taken: Timestamp,
    /// Size of the disk.
    pub(crate) size: Size,
    /// Bytes that will come, about.
    pub(crate) data: Size,
}

/// What the holder says: to the offer, and when all has come. [`Word::Has`] may come before [`Word::Ready`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// It has chunks with these fingerprints, which need not be sent.
    Has {
        /// Some of them.
        chunks: Vec<u128>,
    },
    /// It takes the copy.
    Ready,
    /// It has the copy, on the medium.
    Here,
    /// It does not.
    NotHere {
        /// Why, in words.
        cause: String,
    },
}

/// What the sender says after the offer was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Nothing yet: the disk is still being copied at home.
    Wait,
    /// So many bytes follow, which belong there.
    Part {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Chunks that the holder has belong there.
    Same {
        /// Where, and which.
        chunks: Vec<(u64, u128)>,
    },
    /// That was all of a file of that length.
    End {
        /// Of the file.
        length: u64,
        /// Of all parts, with their places.
        digest: Digest,
    },
}

/// A part that has come.
#[derive(Debug)]
pub(crate) enum Part {
    /// Nothing yet.
    Wait,
    /// These bytes belong there.
    Bytes(u64, Vec<u8>),
    /// Chunks that are here belong there. Whoever has found them adds them to the sum.
    Same(Vec<(u64, Fingerprint)>),
    /// That was all of a file of that length, and it is what was sent.
    End(u64),
}

/// What all parts come to.
#[derive(Default)]
pub(crate) struct Sum {
    hash: blake3::Hasher,
    /// Bytes of them that went over the network.
    pub(crate) bytes: u64,
}

impl Sum {
    /// Adds what belongs there.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.hash.update(&offset.to_le_bytes());
        self.hash.update(&length.to_le_bytes());
        self.hash.update(bytes);
    }

    fn digest(&self) -> Digest {
        Digest(*self.hash.finalize().as_bytes())
    }
}

/// Says that there is nothing yet.
pub(crate) async fn wait(stream: &mut ByteStream) -> io::Result<()> {
    say(stream, &Message::Wait).await
}

/// Says what belongs there: at most [`PART`] bytes.
pub(crate) async fn part(
    stream: &mut ByteStream,
    sum: &mut Sum,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    sum.add(offset, bytes);
    let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    sum.bytes = sum.bytes.saturating_add(length);
    say(stream, &Message::Part { offset, length }).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Says which chunks the holder has belong where: at most [`CHUNKS`].
pub(crate) async fn same(stream: &mut ByteStream, chunks: &[(u64, Fingerprint)]) -> io::Result<()> {
    let chunks = chunks.iter().map(|(place, of)| (*place, of.0)).collect();
    say(stream, &Message::Same { chunks }).await
}

/// Says that this was all.
pub(crate) async fn end(stream: &mut ByteStream, sum: &Sum, length: u64) -> io::Result<()> {
    let digest = sum.digest();
    say(stream, &Message::End { length, digest }).await
}

/// Hears what comes next. `most` is what the file may be long.
pub(crate) async fn next(stream: &mut ByteStream, sum: &mut Sum, most: u64) -> io::Result<Part> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    match hear(stream).await? {
        Message::Wait => Ok(Part::Wait),
        Message::Part { offset, length } => {
            let end = offset.checked_add(length);
            if length > PART || end.is_none_or(|end| end > most) {
                return wrong("a part is where none can be");
            }
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            stream.read_exact(&mut bytes).await?;
            sum.add(offset, &bytes);
            Ok(Part::Bytes(offset, bytes))
        }
        Message::Same { chunks } => {
            let fits = |place: &u64| place.checked_add(CHUNK).is_some_and(|end| end <= most);
            if chunks.len() > CHUNKS || !chunks.iter().all(|(place, _)| fits(place)) {
                return wrong("a part is where none can be");
            }
            let each = chunks.into_iter();
            Ok(Part::Same(
                each.map(|(place, of)| (place, Fingerprint(of))).collect(),
            ))
        }
        Message::End { length, digest } => {
            if length > most {
                return wrong("it is longer than it can be");
            }
            if digest != sum.digest() {
                return wrong("what came is not what was sent");
            }
            Ok(Part::End(length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    const MOST: u64 = 4 << 20;

    /// What is heard of these bytes, to the end or the first error.
    async fn heard(said: &[u8]) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let (mut one, other) = tokio::io::duplex(64);
        let told = async {
            let _gone = tokio::io::AsyncWriteExt::write_all(&mut one, said).await;
            drop(one);
        };
        let hearing = async {
            let mut stream: ByteStream = Box::pin(other.compat());
            let (mut sum, mut parts) = (Sum::default(), Vec::new());
            loop {
                match next(&mut stream, &mut sum, MOST).await? {
                    Part::Wait => {}
                    Part::Bytes(place, bytes) => parts.push((place, bytes)),
                    Part::Same(chunks) => {
                        for (place, fingerprint) in chunks {
                            assert_eq!(fingerprint, Fingerprint::of(&chunk()));
                            sum.add(place, &chunk());
                        }
                    }
                    Part::End(_) => return Ok(parts),
                }
            }
        };
        join(told, hearing).await.1
    }

    fn chunk() -> Vec<u8> {
        vec![7; usize::try_from(CHUNK).unwrap()]
    }

    /// All that is said about two parts and a chunk that the holder has.
    async fn said() -> Vec<u8> {
        let (one, other) = tokio::io::duplex(1 << 20);
        let mut stream: ByteStream = Box::pin(one.compat());
        let mut sum = Sum::default();
        wait(&mut stream).await.unwrap();
        part(&mut stream, &mut sum, 10, b"first").await.unwrap();
        sum.add(CHUNK, &chunk());
        let chunks = [(CHUNK, Fingerprint::of(&chunk()))];
        same(&mut stream, &chunks).await.unwrap();
        part(&mut stream, &mut sum, MOST - 6, b"second")
            .await
            .unwrap();
        end(&mut stream, &sum, MOST).await.unwrap();
        assert_eq!(sum.bytes, 11);
        drop(stream);
        let mut bytes = Vec::new();
        let mut other = other;
        tokio::io::AsyncReadExt::read_to_end(&mut other, &mut bytes)
            .await
            .unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_is_sent_is_heard_and_nothing_less_or_else() {
        let bytes = said().await;
        let parts = heard(&bytes).await.unwrap();
        assert_eq!(
            parts,
            [(10, b"first".to_vec()), (MOST - 6, b"second".to_vec())]
        );
        for cut in 0..bytes.len() {
            assert!(heard(&bytes[..cut]).await.is_err(), "cut after {cut}");
        }
        let at = bytes.windows(5).position(|five| five == b"first").unwrap();
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(heard(&other).await.is_err());
    }

    #[tokio::test]
    async fn a_part_is_where_it_can_be() {
        let outside = Fingerprint(1);
        for (place, length) in [(MOST - 5, 6), (u64::MAX, 2), (0, PART + 1)] {
            let (one, other) = tokio::io::duplex(8 << 20);
            let mut stream: ByteStream = Box::pin(one.compat());
            let bytes = vec![0; usize::try_from(length).unwrap()];
            let mut sum = Sum::default();
            part(&mut stream, &mut sum, place, &bytes).await.unwrap();
            let mut stream: ByteStream = Box::pin(other.compat());
            let heard = next(&mut stream, &mut Sum::default(), MOST).await;
            assert!(heard.is_err(), "{length} bytes at {place}");
        }
        for chunks in [
            vec![(MOST - CHUNK + 1, outside)],
            vec![(u64::MAX, outside)],
            vec![(0, outside); CHUNKS + 1],
        ] {
            let (one, other) = tokio::io::duplex(8 << 20);
            let mut stream: ByteStream = Box::pin(one.compat());
            same(&mut stream, &chunks).await.unwrap();
            let mut stream: ByteStream = Box::pin(other.compat());
            let heard = next(&mut stream, &mut Sum::default(), MOST).await;
            assert!(heard.is_err(), "{chunks:?}");
        }
    }
}
