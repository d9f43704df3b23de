//! The side that takes connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{Purpose, Serves};
use futures::AsyncWriteExt;
use futures::io::BufReader;
use openraft::type_config::TypeConfigExt;

use super::frame::{FrameError, read_frame, write_frame};
use super::hello::{Greeting, Hello, Opens, Rejection};
use super::lanes::{ANSWER_MOST, Greeted, HELLO_MOST, question_most};
use super::parcel;
use super::severed::Severed;
use crate::link::{Lane, Question};
use crate::replica::Replica;
use crate::roster::Roster;
use crate::types::GridTypes;

/// How long whoever connects may take to say hello.
const GREETING: Duration = Duration::from_secs(5);

/// Where the other servers come in. Clones are the same one.
pub struct Door<C: GridTypes>(Arc<Inner<C>>);

struct Inner<C: GridTypes> {
    replica: Replica<C>,
    roster: Roster<C>,
    serving: Mutex<BTreeMap<Purpose, Arc<dyn Serves>>>,
    /// What was last noted about a server: one that is rejected tries again and again.
    noted: Mutex<BTreeMap<ServerId, String>>,
}

impl<C: GridTypes> Clone for Door<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: GridTypes> Door<C> {
    /// To `replica`, for the members of `roster`.
    pub(crate) fn new(replica: Replica<C>, roster: Roster<C>) -> Self {
        Self(Arc::new(Inner {
            replica,
            roster,
            serving: Mutex::default(),
            noted: Mutex::default(),
        }))
    }

    /// From now on `serves` takes the streams that others open for `purpose`.
    pub(crate) fn register(&self, purpose: Purpose, serves: Arc<dyn Serves>) {
        lock(&self.0.serving).insert(purpose, serves);
    }

    /// Serves one connection to its end. `server` is who opened it, as its certificate says; whether that is a member,
    /// and which connections it may open, is looked at here. What comes on it harms nothing, whatever it is.
    pub async fn serve(&self, server: ServerId, stream: ByteStream) {
        let mut stream = BufReader::new(stream);
        let hello = C::timeout(GREETING, read_frame::<Hello>(&mut stream, HELLO_MOST)).await;
        let hello = match hello {
            Ok(Ok(Some(hello))) => hello,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return self.note(server, &format!("its greeting is {error}")),
            Err(_) => return self.note(server, "it does not greet"),
        };
        let (opens, serves, wire) = match self.looked_at(server, &hello) {
            Ok(found) => found,
            Err(rejection) => {
                self.note(server, &rejection.to_string());
                let told = Greeting::rejected(&rejection);
                // Best effort: it is gone, or learns why.
                let _ = write_frame(&mut stream, &told, HELLO_MOST).await;
                let _ = stream.close().await;
                return;
            }
        };
        let raft_id = self.0.roster.me().raft_id;
        let welcome = Greeting::Welcome { wire, raft_id };
        if write_frame(&mut stream, &welcome, HELLO_MOST)
            .await
            .is_err()
        {
            return;
        }
        lock(&self.0.noted).remove(&server);
        let roster = self.0.roster.clone();
        let stream = Severed::new(stream, move || roster.clone().left(server, opens.lately()));
        match (opens, serves) {
            (Opens::Lane(lane), _) => {
                if let Err(error) = self.answer(lane, stream).await {
                    tracing::debug!(%server, ?lane, %error, "a server's connection ended");
                }
            }
            (Opens::Stream(_), Some(serves)) => serves.serve(server, Box::pin(stream)).await,
            (Opens::Stream(_), None) => {}
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "three answers to one hello, read at once"
    )]
    fn looked_at(
        &self,
        server: ServerId,
        hello: &Hello,
    ) -> Result<(Opens, Option<Arc<dyn Serves>>, u32), Rejection> {
        let opens = Opens::of(&hello.opens);
        let lately = opens.is_some_and(Opens::lately);
        let wire = hello.welcome(&self.0.roster, server, lately)?;
        let nothing = || Rejection::NothingServes(hello.opens.clone());
        let opens = opens.ok_or_else(nothing)?;
        let serves = match opens {
            Opens::Lane(_) => None,
            Opens::Stream(purpose) => {
                let serving = lock(&self.0.serving).get(&purpose).cloned();
                Some(serving.ok_or_else(nothing)?)
            }
        };
        Ok((opens, serves, wire))
    }

    async fn answer(&self, lane: Lane, mut stream: Greeted) -> Result<(), FrameError> {
        let most = question_most(lane);
        while let Some(mut question) = read_frame::<Question<C>>(&mut stream, most).await? {
            if !question.fits(lane) {
                let why = format!("{question:?} on the lane {lane:?}");
                return Err(FrameError::Malformed(why));
            }
            if let Question::Snapshot(handed) = &mut question {
                let grid = self.0.roster.me().grid;
                handed.state = parcel::receive::<C>(&mut stream, &handed.meta, grid).await?;
            }
            let answer = self.0.replica.answer(question).await;
            write_frame(&mut stream, &answer, ANSWER_MOST).await?;
        }
        Ok(())
    }

    fn note(&self, server: ServerId, why: &str) {
        let former = lock(&self.0.noted).insert(server, why.to_owned());
        if former.as_deref() != Some(why) {
            tracing::warn!(%server, why, "a server is not let in");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
