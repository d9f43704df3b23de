//! Reading images at rest: what rots is found before a desktop reads it.

use std::sync::Arc;

use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_world::clock::Clock;
use coppice_world::disks::{DiskError, Disks, StoredImage};

/// Every image is read that often at least.
const EVERY: Span = Span::hours(7 * 24);
/// All of them are read in this time: with it the last one is still in time.
const WITHIN: Span = Span::hours(24);
/// At least so many bytes a second: less is kind to nobody, and never ends.
const LEAST: Size = Size::mib(4);
/// How long to wait where there is nothing to do, or the disk failed.
const IDLE: Span = Span::hours(1);

/// What to read next, and how fast; or how long to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Read(StoredImage, Size),
    Wait(Span),
}

/// The image that was read longest ago, once that is due. One that is bad is known to be, and one that comes is read as
/// it does.
fn next(images: &[StoredImage], now: Timestamp) -> Next {
    let whole = || images.iter().filter(|i| i.state == CopyState::Verified);
    let all: u64 = whole().map(|image| image.data.0).sum();
    let rate = Size((all.saturating_mul(1000) / WITHIN.0).max(LEAST.0));
    let early = Span(EVERY.0 - WITHIN.0);
    let Some(image) = whole().min_by_key(|image| (image.read, image.root)) else {
        return Next::Wait(IDLE);
    };
    let due = image.read.after(early);
    if due <= now {
        Next::Read(*image, rate)
    } else {
        Next::Wait(due.since(now).min(IDLE))
    }
}

/// Reads the images of this server, one after the other, each at least once a week and so slowly that desktops do not
/// notice. One that is bad is told as that by the next round, and the grid repairs it from another server.
///
/// Dropping it is safe at any point. It never ends by itself.
pub async fn run(disks: Arc<dyn Disks>, clock: Arc<dyn Clock>) {
    loop {
        let wait = match step(disks.as_ref(), clock.now()).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "images at rest cannot be read");
                Some(IDLE)
            }
        };
        if let Some(wait) = wait {
            clock.sleep(wait).await;
        }
    }
}

/// Reads one image, or says how long there is nothing to do.
async fn step(disks: &dyn Disks, now: Timestamp) -> Result<Option<Span>, DiskError> {
    let images = disks.images().await?;
    match next(&images, now) {
        Next::Wait(span) => Ok(Some(span)),
        Next::Read(image, rate) => match disks.scrub_image(image.root, rate).await {
            Ok(CopyState::Verified) => Ok(None),
            Ok(_) => {
                tracing::warn!(image = %image.root.short(), "an image has rotted on the disk");
                Ok(None)
            }
            // It was removed meanwhile.
            Err(DiskError::Absent(_)) => Ok(Some(Span::minutes(1))),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use coppice_schema::Digest;

    use super::*;

    const DAY: Span = Span::hours(24);

    fn image(n: u8, state: CopyState, days: u64) -> StoredImage {
        StoredImage {
            root: Digest([n; 32]),
            state,
            size: Size::gib(600),
            data: Size::gib(500),
            read: Timestamp(DAY.0 * days),
        }
    }

    fn at(days: u64) -> Timestamp {
        Timestamp(DAY.0 * days)
    }

    #[test]
    fn the_one_that_was_read_longest_ago_is_next() {
        let images = [
            image(1, CopyState::Verified, 100),
            image(2, CopyState::Verified, 99),
            image(3, CopyState::Bad, 0),
            image(4, CopyState::Copying, 0),
        ];
        assert_eq!(next(&images, at(100)), Next::Wait(IDLE));
        let Next::Read(first, rate) = next(&images, at(105)) else {
            panic!("nothing is due");
        };
        assert_eq!(first.root, Digest([2; 32]));
        // Two of 500 GiB in a day, and no faster.
        let day = rate.0 * 24 * 3600;
        assert!(day > Size::gib(990).0 && day < Size::gib(1010).0, "{rate}");
        assert_eq!(next(&images[2..], at(105)), Next::Wait(IDLE));
    }

    #[test]
    fn every_image_is_read_once_a_week() {
        let mut images: Vec<_> = (1..=6).map(|n| image(n, CopyState::Verified, 0)).collect();
        let mut now = Timestamp(0);
        let mut longest = Span(0);
        while now < at(60) {
            match next(&images, now) {
                Next::Wait(span) => now = now.after(span),
                Next::Read(due, rate) => {
                    now = now.after(Span(due.data.0.saturating_mul(1000) / rate.0));
                    let found = images.iter_mut().find(|i| i.root == due.root).unwrap();
                    longest = longest.max(now.since(found.read));
                    found.read = now;
                }
            }
        }
        assert!(longest > Span(0) && longest <= EVERY, "{longest:?}");
    }
}
