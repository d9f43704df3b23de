//! Copies of personal desktops: made anew on other servers before they are too old, and removed where nothing needs
//! them any more.
//!
//! What is to be copied where follows from the state, so nobody is told to: the desktop's home sends, and who is to hold
//! the copy takes it. How old each is, the holder reports.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use coppice_plans::replicas::{self, Due};
use coppice_schema::ids::{Member, ServerId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::State;
use coppice_world::clock::Clock;
use coppice_world::moves::Opening;
use coppice_world::replicas::{Original, ReplicaError};
use futures::stream::StreamExt;

use crate::server::Ports;
use crate::server::carry::Way;
use crate::time::GridTime;
use crate::{backoff, wake};

/// It is looked that often whether something is due, whatever happens.
const LOOK: Span = Span::minutes(1);
/// Within that time a holder has said that a copy has come.
const TOLD: Span = Span::seconds(10);
/// And no more often, whatever is agreed on: nobody waits for a copy, and a look costs what the grid is large.
const PAUSE: Span = Span::seconds(5);
/// What could not be read is tried again that soon.
const TROUBLED: Span = Span::seconds(5);

/// One server's copies, for one start of its daemon.
struct Copies {
    name: ServerName,
    ports: Ports,
    time: GridTime,
    /// Copies that were just made, or removed, or could not be: how often in a row, and when they are looked at again.
    tried: BTreeMap<(Member, ServerId), (u32, Timestamp)>,
}

/// What is to be done.
enum Todo {
    /// Nothing, for so long.
    Nothing(Span),
    /// These are not needed on this server.
    Clear(ServerId, Vec<Member>),
    /// This is due.
    Make(Due),
}

/// Makes the copies that are due, one after the other, and removes those that nothing needs.
///
/// Dropping it is safe at any point. It never ends by itself.
pub async fn run(name: ServerName, ports: Ports, clock: Arc<dyn Clock>) {
    let mut streams = wake::Streams::new();
    streams.push(ports.agreement.watch().map(|_| ()).boxed());
    let mut copies = Copies::new(name, ports);
    loop {
        let wait = copies.step(clock.as_ref()).await;
        if let Some(wait) = wait {
            clock.sleep(PAUSE).await;
            pin!(wake::event(clock.as_ref(), &mut streams, wait)).await;
        }
    }
}

/// Makes what is due now, and returns. What a simulation does instead of [`run`].
pub async fn settle(name: ServerName, ports: Ports, clock: &dyn Clock) {
    let mut copies = Copies::new(name, ports);
    while copies.step(clock).await.is_none() {}
}

impl Copies {
    fn new(name: ServerName, ports: Ports) -> Self {
        Self {
            name,
            ports,
            time: GridTime::default(),
            tried: BTreeMap::new(),
        }
    }

    /// Makes one copy, or says for how long there is nothing to do.
    async fn step(&mut self, clock: &dyn Clock) -> Option<Span> {
        let agreement = Arc::clone(&self.ports.agreement);
        // Most of the time there is nothing to do, and that is seen without asking anybody.
        let local = agreement.local();
        let now = self.time.go_on(clock.now(), clock.passed(), local.time);
        if let Todo::Nothing(wait) = self.todo(&local, now) {
            return Some(wait);
        }
        let Ok(state) = agreement.read().await else {
            return Some(TROUBLED);
        };
        let now = self.time.go_on(clock.now(), clock.passed(), state.time);
        match self.todo(&state, now) {
            Todo::Nothing(wait) => return Some(wait),
            Todo::Clear(me, members) => self.clear(me, members, now).await,
            Todo::Make(due) => self.make(&state, due, now).await,
        }
        None
    }

    /// What is to be done by that state.
    fn todo(&mut self, state: &State, now: Timestamp) -> Todo {
        let Some((me, _)) = state.server_named(&self.name) else {
            return Todo::Nothing(LOOK);
        };
        // What is known here may lag behind what was last read, so nothing is forgotten for not being due.
        self.tried
            .retain(|_, (_, again)| now.since(*again) < backoff::LONGEST);
        if !self.is_concerned(state, me) {
            return Todo::Nothing(LOOK);
        }
        let known = state.known(state.term);
        let mut unneeded = replicas::unneeded(&state.committed, &known, me);
        unneeded.retain(|member| self.may_try(&(member.clone(), me), now));
        if !unneeded.is_empty() {
            return Todo::Clear(me, unneeded);
        }
        let due = replicas::due(&state.committed, &known, me);
        let at = |due: &Due| {
            let tried = self.tried.get(&(due.member.clone(), due.to));
            tried.map_or(due.at, |(_, again)| due.at.max(*again))
        };
        let Some(first) = due.iter().min_by_key(|due| at(due)) else {
            return Todo::Nothing(LOOK);
        };
        if at(first) > now {
            return Todo::Nothing(at(first).since(now).min(LOOK));
        }
        Todo::Make(first.clone())
    }

    /// Whether something is to be looked at again now.
    fn may_try(&self, key: &(Member, ServerId), now: Timestamp) -> bool {
        self.tried.get(key).is_none_or(|(_, again)| *again <= now)
    }

    /// Whether anything here may have to be copied, or to go.
    fn is_concerned(&self, state: &State, me: ServerId) -> bool {
        let look = state.servers.get(&me).and_then(|it| it.look.as_ref());
        let holds = look.is_some_and(|look| !look.replicas.is_empty());
        let mut here = state.desktops.iter().filter(|(_, it)| it.server == me);
        holds || here.any(|(id, it)| replicas::wanted(&state.committed, id, it) > 0)
    }

    async fn clear(&mut self, me: ServerId, members: Vec<Member>, now: Timestamp) {
        for member in members {
            match self.ports.replicas.remove(&member).await {
                Ok(()) => tracing::info!(%member, "a copy that nothing needs any more was removed"),
                Err(error) => tracing::warn!(%member, %error, "a copy cannot be removed"),
            }
            // Until that is reported, it would be removed again.
            self.tried.insert((member, me), (0, now.after(TOLD)));
        }
    }

    async fn make(&mut self, state: &State, due: Due, now: Timestamp) {
        let Due { member, to, .. } = due;
        let key = (member.clone(), to);
        match self.send(state, &member, to, now).await {
            Ok(()) => {
                // Until the holder has reported it, it would be due again.
                self.tried.insert(key, (0, now.after(TOLD)));
            }
            Err(error) => {
                let attempts = self.tried.get(&key).map_or(0, |(attempts, _)| *attempts);
                let again = now.after(backoff::wait(&format!("copy of {member}"), attempts));
                self.tried.insert(key, (attempts.saturating_add(1), again));
                tracing::warn!(%member, server = %to, %error, "no copy was made");
            }
        }
    }

    async fn send(
        &self,
        state: &State,
        member: &Member,
        to: ServerId,
        now: Timestamp,
    ) -> Result<(), ReplicaError> {
        let overlays = self.ports.disks.overlays().await?;
        let own = overlays.into_iter().find_map(|overlay| {
            let mark = overlay.mark?;
            let its = mark.member == *member && Some(mark.grid) == state.grid && overlay.sound;
            its.then_some((overlay.path, mark))
        });
        let known = state.desktops.get(&member.desktop);
        let (Some((overlay, mark)), Some(known)) = (own, known) else {
            return Err(ReplicaError::Absent(member.clone()));
        };
        let original = Original {
            uuid: known.spec.uuid,
            mark,
            overlay,
        };
        let way = Way {
            peers: Arc::clone(&self.ports.peers),
            to,
            opening: Opening::Copy {
                member: member.clone(),
            },
        };
        let sent = self.ports.replicas.send(&original, now, &way).await?;
        tracing::info!(%member, server = %to, bytes = %sent.bytes, at_rest = sent.at_rest, "a copy was made");
        Ok(())
    }
}
