//! Images between simulated servers. What passes on the wire is small and takes as long as the image would: who gets one
//! asks for part after part, and each is answered when it is there.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Span};
use futures::future::{BoxFuture, FutureExt, pending};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use super::SimServer;
use super::fault::Operation;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimImage};
use crate::disks::{DiskError, Transfer};
use crate::hypervisor::ByteStream;
use crate::peers::{Peers, Purpose, Serves};

/// Parts of an image that pass one after the other.
pub const PARTS: u8 = 4;

/// Who has nothing yet is asked again after that.
const AGAIN: Span = Span(500);
/// So often, before the next one is asked.
const PATIENCE: u32 = 10;

/// A server's way to others, and how much of it images may take.
#[derive(Default)]
pub(super) struct Copies {
    peers: OnceLock<Arc<dyn Peers>>,
    rate: Mutex<Option<Size>>,
}

impl Copies {
    pub(super) fn limit(&self, rate: Option<Size>) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
    }

    pub(super) fn meet(&self, peers: Arc<dyn Peers>) {
        // There is one way to the others.
        let _ = self.peers.set(peers);
    }
}

pub(super) fn span_of(bytes: Size, rate: Size) -> Span {
    Span(bytes.0.saturating_mul(1000) / rate.0.max(1))
}

/// What is asked.
const ALL: u8 = 255;

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Here = 1,
    NotHere = 2,
}

/// An image stops moving when nobody waits for it any more.
struct Moving<'a> {
    server: &'a SimServer,
    root: Digest,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut machine = self.server.machine();
        if let Some(image) = machine.images.get_mut(&self.root)
            && image.state == CopyState::Copying
        {
            image.state = CopyState::Partial;
        }
    }
}

impl SimServer {
    pub(super) async fn receive(&self, root: Digest, from: Vec<ServerId>) -> Result<(), DiskError> {
        let failed = |cause: String| DiskError::Io {
            what: format!("copy image {}", root.short()),
            cause,
        };
        if self.is_whole(root) {
            return Ok(());
        }
        let peers = self.copies.peers.get().cloned();
        let peers = peers.ok_or_else(|| failed("there is no way to other servers".to_owned()))?;
        let _moving = Moving { server: self, root };
        let mut last = "it was told of no server that has it".to_owned();
        let sources = from.len();
        for (place, source) in from.into_iter().enumerate() {
            let mut tries = if place + 1 == sources { 1 } else { PATIENCE };
            while tries > 0 {
                tries -= 1;
                let stream = match peers.connect(source, Purpose::Images).await {
                    Ok(stream) => stream,
                    Err(e) => {
                        last = e.to_string();
                        break;
                    }
                };
                match self.parts_from(root, stream).await {
                    Ok(Ok(true)) => return Ok(()),
                    Ok(Ok(false)) => {
                        last = format!("server {source} has nothing of it");
                        self.clock.sleep(AGAIN).await;
                    }
                    // The disk's fault is no source's.
                    Ok(Err(e)) => return Err(e),
                    Err(e) => {
                        last = e.to_string();
                        break;
                    }
                }
            }
        }
        Err(failed(last))
    }

    fn is_whole(&self, root: Digest) -> bool {
        let machine = self.machine();
        let image = machine.images.get(&root);
        image.is_some_and(|image| {
            image.state == CopyState::Verified && image.parts == PARTS && !image.rotten
        })
    }

    /// Whether all parts are here now; `false`: the source has nothing of it.
    async fn parts_from(
        &self,
        root: Digest,
        mut stream: ByteStream,
    ) -> io::Result<Result<bool, DiskError>> {
        stream.write_all(&root.0).await?;
        let mut head = [0; 17];
        stream.read_exact(&mut head).await?;
        let [answer, sizes @ ..] = head;
        if answer != Answer::Here as u8 {
            return Ok(Ok(false));
        }
        let (size, data) = sizes.split_at(8);
        let number = |bytes: &[u8]| {
            let bytes = bytes.first_chunk::<8>().copied().unwrap_or_default();
            Size(u64::from_le_bytes(bytes))
        };
        let (size, data) = (number(size), number(data));
        let begin = move |machine: &mut Machine, _| {
            begin(machine, root, size, data);
            Ok(())
        };
        let object = root.short();
        let begun = self.call(Operation::ReceiveImage, object.clone(), None, begin);
        if let Err(e) = begun.await {
            return Ok(Err(e));
        }
        loop {
            let here = self.machine().images.get(&root).map(|image| image.parts);
            let Some(here) = here.filter(|here| *here < PARTS) else {
                return Ok(Ok(self.is_whole(root)));
            };
            stream.write_all(&[here]).await?;
            let mut answer = [0];
            stream.read_exact(&mut answer).await?;
            if answer != [Answer::Here as u8] {
                return Err(io::Error::other(
                    "what it has is bad, too, or stopped coming",
                ));
            }
            let rate = *self
                .copies
                .rate
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let rate = rate.map_or(self.setup.wire, |rate| rate.min(self.setup.wire));
            let part = Size(data.0 / u64::from(PARTS));
            self.clock.sleep(span_of(part, rate)).await;
            let take = move |machine: &mut Machine, now| {
                let free = machine.free();
                if free < part {
                    return Err(DiskError::Full {
                        what: format!("copy image {}", root.short()),
                        needed: part,
                        free,
                    });
                }
                let Some(image) = machine.images.get_mut(&root) else {
                    return Ok(());
                };
                image.parts = (here + 1).max(image.parts).min(PARTS);
                if image.parts == PARTS {
                    image.state = CopyState::Verified;
                    image.rotten = false;
                    image.read = now;
                    machine.note(now, Hand::Ours, Deed::ImageMade(root));
                }
                Ok(())
            };
            let taken = self.call(Operation::ReceiveImage, object.clone(), None, take);
            if let Err(e) = taken.await {
                return Ok(Err(e));
            }
        }
    }

    pub(super) async fn under_way(
        &self,
        server: Option<ServerId>,
    ) -> Result<Vec<Transfer>, DiskError> {
        let Some(server) = server else {
            return Ok(self.halves());
        };
        let failed = |cause: String| DiskError::Io {
            what: format!("ask server {server} for its images"),
            cause,
        };
        let peers = self.copies.peers.get().cloned();
        let peers = peers.ok_or_else(|| failed("there is no way to other servers".to_owned()))?;
        let stream = peers.connect(server, Purpose::Images).await;
        let mut stream = stream.map_err(|e| failed(e.to_string()))?;
        let mut all = Vec::new();
        let asked = async {
            stream.write_all(&[ALL; 32]).await?;
            stream.read_to_end(&mut all).await
        };
        asked.await.map_err(|e| failed(e.to_string()))?;
        let (halves, _) = all.as_chunks::<56>();
        Ok(halves.iter().filter_map(read_transfer).collect())
    }

    fn halves(&self) -> Vec<Transfer> {
        let machine = self.machine();
        let half = |(_, image): &(&Digest, &SimImage)| {
            matches!(image.state, CopyState::Copying | CopyState::Partial)
        };
        let halves = machine.images.iter().filter(half);
        halves
            .map(|(root, image)| Transfer {
                root: *root,
                here: image.stored(),
                data: image.data,
                rate: if image.state == CopyState::Copying {
                    self.setup.wire
                } else {
                    Size(0)
                },
            })
            .collect()
    }

    /// What gives others the images of this server.
    #[must_use]
    pub fn giver(self: &Arc<Self>) -> Arc<dyn Serves> {
        Arc::new(Giver(Arc::clone(self)))
    }

    async fn give(&self, mut stream: ByteStream) -> io::Result<()> {
        let mut root = [0; 32];
        stream.read_exact(&mut root).await?;
        if root == [ALL; 32] {
            for half in self.halves() {
                stream.write_all(&write_transfer(&half)).await?;
            }
            return stream.close().await;
        }
        let root = Digest(root);
        if self.faults().is_dead() {
            return Ok(());
        }
        let known = self.machine().images.get(&root).cloned();
        let mut head = vec![Answer::NotHere as u8];
        if known.is_some() {
            head = vec![Answer::Here as u8];
        }
        let (size, data) = known.map_or((0, 0), |image| (image.size.0, image.data.0));
        head.extend_from_slice(&size.to_le_bytes());
        head.extend_from_slice(&data.to_le_bytes());
        stream.write_all(&head).await?;
        loop {
            let mut part = [0];
            stream.read_exact(&mut part).await?;
            let answer = self.await_part(root, part[0]).await;
            stream.write_all(&[answer as u8]).await?;
        }
    }

    async fn await_part(&self, root: Digest, part: u8) -> Answer {
        for _ in 0..PATIENCE {
            if self.faults().is_dead() {
                // A daemon that died says nothing more; its stream ends with it.
                return pending().await;
            }
            {
                let mut machine = self.machine();
                let Some(image) = machine.images.get_mut(&root) else {
                    return Answer::NotHere;
                };
                if image.rotten && part + 1 == PARTS {
                    // What is given away is compared: now it is known.
                    image.state = CopyState::Bad;
                    return Answer::NotHere;
                }
                if image.parts > part {
                    return Answer::Here;
                }
                if image.state != CopyState::Copying {
                    return Answer::NotHere;
                }
            }
            self.clock.sleep(AGAIN).await;
        }
        Answer::NotHere
    }
}

/// An image that begins to come. Of one that is bad the last part is wrong, as is of each that rots.
fn begin(machine: &mut Machine, root: Digest, size: Size, data: Size) {
    let image = machine.images.entry(root).or_insert(SimImage {
        state: CopyState::Copying,
        rotten: false,
        size,
        data,
        parts: 0,
        read: coppice_schema::units::Timestamp(0),
    });
    if image.state == CopyState::Bad || image.rotten {
        image.parts = image.parts.min(PARTS - 1);
    } else if image.parts < PARTS {
        image.state = CopyState::Copying;
    }
}

fn write_transfer(half: &Transfer) -> Vec<u8> {
    let mut bytes = half.root.0.to_vec();
    for number in [half.here, half.data, half.rate] {
        bytes.extend_from_slice(&number.0.to_le_bytes());
    }
    bytes
}

fn read_transfer(bytes: &[u8; 56]) -> Option<Transfer> {
    let (root, numbers) = bytes.split_first_chunk::<32>()?;
    let [here, data, rate] = numbers.as_chunks::<8>().0 else {
        return None;
    };
    let number = |bytes: &[u8; 8]| Size(u64::from_le_bytes(*bytes));
    Some(Transfer {
        root: Digest(*root),
        here: number(here),
        data: number(data),
        rate: number(rate),
    })
}

struct Giver(Arc<SimServer>);

impl Serves for Giver {
    fn serve(&self, _: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let server = Arc::clone(&self.0);
        async move {
            // Whoever asked sees the stream end.
            let _ = server.give(stream).await;
        }
        .boxed()
    }
}
