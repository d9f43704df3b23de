//! What [`Disks`] must do with images of other servers.

use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::CopyState;
use futures::future::{BoxFuture, join3, select};

use super::{Outcome, Report, ensure};
use crate::disks::{DiskError, Disks};

/// One of the servers that the contract is tried on.
pub struct Place {
    /// Its number.
    pub server: ServerId,
    /// Its disks. They have met the others.
    pub disks: Arc<dyn Disks>,
}

/// What a test can do that the port cannot.
pub trait Means: Send + Sync {
    /// Puts a whole image of a few MiB on the disk of the place of that number, another one each time.
    fn put(&self, place: usize) -> BoxFuture<'_, Digest>;

    /// Changes bytes of the image there. A glance shows it, or reading it back does.
    fn spoil(&self, place: usize, root: Digest);

    /// Nothing new gets from the first to the second any more, or does again.
    fn cut(&self, from: usize, to: usize, cut: bool);
}

/// Four places, and the means to disturb them.
pub struct Subject {
    /// At least four.
    pub places: Vec<Place>,
    /// Of the test.
    pub means: Box<dyn Means>,
}

type Check = Result<(), Outcome>;

impl Subject {
    fn disks(&self, place: usize) -> Result<&Arc<dyn Disks>, Outcome> {
        let place = self.places.get(place);
        place
            .map(|place| &place.disks)
            .ok_or_else(|| Outcome::Failed("there are too few places".to_owned()))
    }

    fn servers(&self, places: &[usize]) -> Vec<ServerId> {
        let places = places.iter().filter_map(|place| self.places.get(*place));
        places.map(|place| place.server).collect()
    }

    async fn get(&self, to: usize, root: Digest, from: &[usize]) -> Result<(), DiskError> {
        let disks = self
            .disks(to)
            .map_err(|_| DiskError::Absent("place".to_owned()))?;
        disks.receive_image(root, self.servers(from)).await
    }

    async fn state(&self, place: usize, root: Digest) -> Result<Option<CopyState>, Outcome> {
        let images = self.disks(place)?.images().await.map_err(failed)?;
        Ok(images.into_iter().find(|i| i.root == root).map(|i| i.state))
    }

    async fn whole(&self, place: usize, root: Digest) -> Check {
        let state = self.state(place, root).await?;
        ensure!(
            state == Some(CopyState::Verified),
            "the copy on place {place} is {state:?}"
        );
        let read = self
            .disks(place)?
            .verify_image(root)
            .await
            .map_err(failed)?;
        ensure!(read == CopyState::Verified, "read back, it is {read:?}");
        Ok(())
    }
}

fn failed(error: DiskError) -> Outcome {
    Outcome::Failed(error.to_string())
}

/// Tries all of it.
pub async fn run(subject: &Subject) -> Report {
    let mut report = Report::default();
    report.note("an image comes whole from a holder", comes(subject).await);
    report.note("what is whole is left alone", twice(subject).await);
    report.note("nobody has it: nothing is there", nothing(subject).await);
    report.note("the next source is asked", next(subject).await);
    report.note("a bad copy is repaired", repaired(subject).await);
    report.note(
        "a bad source does not spoil a copy",
        bad_source(subject).await,
    );
    report.note("a chain gets it together", chain(subject).await);
    report.note(
        "dropped, it is not whole, and goes on",
        dropped(subject).await,
    );
    report.note("a half one can be removed", removed(subject).await);
    report.note("a scrub finds what rots", scrubbed(subject).await);
    report.note("others hear how far it is", heard(subject).await);
    report
}

async fn comes(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.whole(1, root).await?;
    let images = s.disks(1)?.images().await.map_err(failed)?;
    let theirs = s.disks(0)?.images().await.map_err(failed)?;
    let sizes = |all: &[crate::disks::StoredImage]| {
        let it = all.iter().find(|i| i.root == root);
        it.map(|i| (i.size, i.data))
    };
    ensure!(sizes(&images) == sizes(&theirs), "it has another size");
    Ok(())
}

async fn twice(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.whole(1, root).await
}

async fn nothing(s: &Subject) -> Check {
    let nothing = Digest([0x5a; 32]);
    let got = s.get(1, nothing, &[0, 2]).await;
    ensure!(got.is_err(), "it came from those who have it not");
    let state = s.state(1, nothing).await?;
    ensure!(state.is_none(), "it is {state:?}");
    let root = s.means.put(0).await;
    let got = s.get(1, root, &[]).await;
    ensure!(got.is_err(), "it came from nobody");
    Ok(())
}

async fn next(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.means.cut(2, 0, true);
    let got = s.get(2, root, &[0, 1]).await;
    s.means.cut(2, 0, false);
    got.map_err(failed)?;
    s.whole(2, root).await
}

async fn repaired(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.means.spoil(1, root);
    let read = s.disks(1)?.verify_image(root).await.map_err(failed)?;
    ensure!(read == CopyState::Bad, "spoilt, it is {read:?}");
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.whole(1, root).await
}

async fn bad_source(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.get(1, root, &[0]).await.map_err(failed)?;
    s.means.spoil(0, root);
    let alone = s.get(2, root, &[0]).await;
    ensure!(alone.is_err(), "it came whole from one that is not");
    let half = s.state(2, root).await?;
    ensure!(half != Some(CopyState::Verified), "it counts as whole");
    s.get(2, root, &[0, 1]).await.map_err(failed)?;
    s.whole(2, root).await
}

async fn chain(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    let all = join3(
        s.get(1, root, &[0]),
        s.get(2, root, &[1, 0]),
        s.get(3, root, &[2, 1, 0]),
    );
    let (one, two, three) = all.await;
    one.and(two).and(three).map_err(failed)?;
    for place in 1..4 {
        s.whole(place, root).await?;
    }
    Ok(())
}

async fn dropped(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    {
        let get = Box::pin(s.get(1, root, &[0]));
        let look = Box::pin(s.disks(0)?.images());
        // Whichever is first: what is left of it is dropped.
        drop(select(look, get).await);
    }
    let state = s.state(1, root).await?;
    if state == Some(CopyState::Verified) {
        return Err(Outcome::Skipped("it was whole at once".to_owned()));
    }
    // What was begun may still be ending.
    let mut tries = 0;
    while let Err(e) = s.get(1, root, &[0]).await {
        tries += 1;
        ensure!(tries < 10_000, "{e}");
        s.disks(1)?.images().await.map_err(failed)?;
    }
    s.whole(1, root).await
}

async fn removed(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.means.spoil(0, root);
    let got = s.get(1, root, &[0]).await;
    ensure!(got.is_err(), "it came whole from one that is not");
    s.disks(1)?.drop_image(root).await.map_err(failed)?;
    let state = s.state(1, root).await?;
    ensure!(state.is_none(), "it is {state:?}");
    Ok(())
}

async fn scrubbed(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    let fast = coppice_schema::units::Size::gib(1 << 10);
    let disks = s.disks(0)?;
    let state = disks.scrub_image(root, fast).await.map_err(failed)?;
    ensure!(state == CopyState::Verified, "it is {state:?}");
    let images = disks.images().await.map_err(failed)?;
    let read = images.iter().find(|i| i.root == root).map(|i| i.read.0);
    ensure!(
        read.is_some_and(|read| read > 0),
        "nobody knows when: {read:?}"
    );
    s.means.spoil(0, root);
    let state = disks.scrub_image(root, fast).await.map_err(failed)?;
    ensure!(state == CopyState::Bad, "it is {state:?}");
    let state = s.state(0, root).await?;
    ensure!(state == Some(CopyState::Bad), "it is told as {state:?}");
    Ok(())
}

async fn heard(s: &Subject) -> Check {
    let root = s.means.put(0).await;
    s.means.spoil(0, root);
    let got = s.get(1, root, &[0]).await;
    ensure!(got.is_err(), "it came whole from one that is not");
    let [server] = s.servers(&[1])[..] else {
        return Err(Outcome::Failed("there are too few places".to_owned()));
    };
    let mine = s.disks(1)?.transfers(None).await.map_err(failed)?;
    let theirs = s.disks(2)?.transfers(Some(server)).await.map_err(failed)?;
    let it = mine.iter().find(|transfer| transfer.root == root);
    ensure!(it.is_some(), "it is not told: {mine:?}");
    ensure!(mine == theirs, "{mine:?} is told as {theirs:?}");
    Ok(())
}
