//! Orders that are being carried out while rounds go on.
//!
//! A stop waits for a guest for minutes, and a verification for a disk for hours. Neither holds up the round: it
//! begins acts and goes on, and a later one collects how they ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use coppice_schema::Digest;
use coppice_schema::ids::{DesktopId, Stamp};
use coppice_schema::known::{Order, Task};
use coppice_schema::units::Timestamp;
use futures::future::{AbortHandle, AbortRegistration, Abortable, BoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};

use super::act::ActError;

/// What an order is about: of each, at most one act is under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Object {
    /// A slot: its former life goes before the next one comes.
    Slot(DesktopId),
    /// An image.
    Image(Digest),
}

impl Object {
    pub(super) fn of(task: &Task) -> Self {
        match task {
            Task::Create { spec, .. }
            | Task::Restore { spec, .. }
            | Task::Redefine { spec }
            | Task::Receive { spec }
            | Task::Enter { spec } => Self::Slot(spec.member.desktop.clone()),
            Task::Start { member }
            | Task::Send { member, .. }
            | Task::Stay { member }
            | Task::Stop { member }
            | Task::Restart { member, .. }
            | Task::Remove { member } => Self::Slot(member.desktop.clone()),
            Task::VerifyImage { root }
            | Task::DropImage { root }
            | Task::CopyImage { root, .. } => Self::Image(*root),
        }
    }
}

/// What an act waits for. Acts of one lane hold up each other, and none of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lane {
    /// The disk and the hypervisor.
    Disk,
    /// A guest that is to shut down. It may take its time, and costs the server nothing meanwhile.
    Guest,
    /// An image that is read, or removed.
    Image,
    /// An image that comes from other servers.
    Copy,
    /// The network, on which a desktop is sent.
    Road,
    /// A guest that stands still, and goes on at a word.
    Word,
}

impl Lane {
    fn of(task: &Task) -> Self {
        match task {
            Task::Create { .. }
            | Task::Restore { .. }
            | Task::Redefine { .. }
            | Task::Start { .. }
            | Task::Receive { .. }
            | Task::Remove { .. } => Self::Disk,
            Task::Send { .. } => Self::Road,
            Task::Enter { .. } | Task::Stay { .. } => Self::Word,
            Task::Stop { .. } | Task::Restart { .. } => Self::Guest,
            Task::VerifyImage { .. } | Task::DropImage { .. } => Self::Image,
            Task::CopyImage { .. } => Self::Copy,
        }
    }

    /// How many of its acts are under way at once.
    fn width(self) -> usize {
        match self {
            // A server's disk serves few boots well, and many badly.
            Self::Disk => 4,
            // Half of the hypervisor's threads, so that some are left when all these guests hang.
            Self::Guest => 16,
            // Two that read the disk take longer than one after the other.
            Self::Image => 1,
            // Two that share the network are whole no sooner, and the first one later.
            Self::Copy => 1,
            // As many as leave a server at once.
            Self::Road => 2,
            // It costs nothing, and somebody waits for it.
            Self::Word => 16,
        }
    }
}

/// An act that is to begin, or has begun.
pub(super) struct Act {
    pub(super) stamp: Stamp,
    pub(super) order: Order,
    pub(super) work: BoxFuture<'static, Result<(), ActError>>,
}

/// An act that ended.
pub(super) struct Landed {
    pub(super) stamp: Stamp,
    pub(super) order: Order,
    /// `None`: it was taken back.
    pub(super) result: Option<Result<(), ActError>>,
}

/// The acts of one server.
#[derive(Default)]
pub(super) struct Flight {
    waiting: Vec<Act>,
    aloft: FuturesUnordered<BoxFuture<'static, Landed>>,
    objects: BTreeMap<Object, Lane>,
    /// Images that come, until when, and what ends that.
    copies: BTreeMap<Stamp, (Timestamp, AbortHandle)>,
    landed: Vec<Landed>,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

impl Flight {
    /// What acts under way are about.
    pub(super) fn objects(&self) -> BTreeSet<Object> {
        self.objects.keys().cloned().collect()
    }

    /// Which acts ended since this was asked last.
    pub(super) fn land(&mut self) -> Vec<Landed> {
        std::mem::take(&mut self.landed)
    }

    /// These acts wait for their turn, and no others do: what waited before and is not among them, was taken back.
    pub(super) fn queue(&mut self, acts: Vec<Act>) {
        self.waiting = acts;
    }

    /// Ends what brings images without their orders: those that are not in `orders` any more, or whose time has passed.
    /// What has come stays, and the next order goes on from there. Whatever else is under way comes to its end by itself.
    pub(super) fn ground(&self, orders: &BTreeMap<Stamp, Order>, now: Timestamp) {
        for (stamp, (deadline, end)) in &self.copies {
            if !orders.contains_key(stamp) || *deadline <= now {
                end.abort();
            }
        }
    }

    /// Does `work`; acts go on meanwhile.
    pub(super) async fn along<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.go_on(context);
            work.as_mut().poll(context)
        })
        .await
    }

    /// Until an act has landed; for ever when none is under way.
    pub(super) async fn landing(&mut self) {
        poll_fn(|context| {
            self.go_on(context);
            if self.landed.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn go_on(&mut self, context: &mut Context<'_>) {
        loop {
            self.begin();
            let Poll::Ready(Some(landed)) = self.aloft.poll_next_unpin(context) else {
                return;
            };
            self.objects.remove(&Object::of(&landed.order.task));
            self.copies.remove(&landed.stamp);
            self.landed.push(landed);
        }
    }

    /// Begins what waits, where its lane has room.
    fn begin(&mut self) {
        for act in std::mem::take(&mut self.waiting) {
            let (object, lane) = (Object::of(&act.order.task), Lane::of(&act.order.task));
            let busy = self.objects.values().filter(|other| **other == lane);
            if busy.count() >= lane.width() {
                self.waiting.push(act);
                continue;
            }
            self.objects.insert(object, lane);
            let (end, ended) = AbortHandle::new_pair();
            if lane == Lane::Copy {
                self.copies.insert(act.stamp, (act.order.deadline, end));
            }
            self.aloft.push(Box::pin(fly(act, ended)));
        }
    }
}

async fn fly(act: Act, ended: AbortRegistration) -> Landed {
    let Act { stamp, order, work } = act;
    let result = Abortable::new(work, ended).await.ok();
    Landed {
        stamp,
        order,
        result,
    }
}
