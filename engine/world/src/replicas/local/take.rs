//! The holder's side.

use super::super::wire::{self, Offer, Part, Sum, Word};
use super::{LocalReplicas, ReplicaError, broken, within};
use crate::disks::Arriving;
use crate::hypervisor::{ByteStream, Mark};
use crate::moves::wire::{hear, say};

impl LocalReplicas {
    pub(super) async fn take_copy(
        &self,
        mark: &Mark,
        mut stream: ByteStream,
    ) -> Result<(), ReplicaError> {
        let member = &mark.member;
        let lost = |error: std::io::Error| broken(member, error);
        let offer: Offer = within(hear(&mut stream)).await.map_err(lost)?;
        let came = self.take_offered(mark, offer, &mut stream).await;
        let word = match &came {
            Ok(()) => Word::Here,
            Err(error) => Word::NotHere {
                cause: error.to_string(),
            },
        };
        let told = within(say(&mut stream, &word)).await.map_err(lost);
        came.and(told)
    }

    async fn take_offered(
        &self,
        mark: &Mark,
        offer: Offer,
        stream: &mut ByteStream,
    ) -> Result<(), ReplicaError> {
        let lost = |error: std::io::Error| broken(&mark.member, error);
        let arriving = self.disks.begin_replica(mark.clone(), offer).await?;
        loop {
            let chunks = arriving.former(wire::CHUNKS).await?;
            if chunks.is_empty() {
                break;
            }
            let chunks = chunks.into_iter().map(|chunk| chunk.0).collect();
            within(say(stream, &Word::Has { chunks }))
                .await
                .map_err(lost)?;
        }
        within(say(stream, &Word::Ready)).await.map_err(lost)?;
        let most = Arriving::longest(offer.size);
        let mut sum = Sum::default();
        loop {
            let part = within(wire::next(stream, &mut sum, most)).await;
            match part.map_err(lost)? {
                Part::Wait => {}
                Part::Bytes(offset, bytes) => arriving.write(offset, bytes).await?,
                Part::Same(chunks) => {
                    for (place, bytes) in arriving.write_again(chunks).await? {
                        sum.add(place, &bytes);
                    }
                }
                Part::End(length) => return arriving.finish(length, offer.taken).await,
            }
        }
    }
}
