//! Going on after most of a grid is gone: from a backup, or from what one server's log holds.
//!
//! Both happen while the daemon is stopped, which the directory's lock enforces, and both begin another life of the grid
//! (its epoch): servers of the former one are refused, so what of it comes back cannot agree on anything with this one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::units::Timestamp;
use coppice_state::entry::Recovery;
use coppice_state::{Agreement, Entry, Envelope, Outcome, State, apply};
use coppice_world::clock::Clock;
use openraft::entry::RaftEntry;
use openraft::impls::{BasicNode, Vote};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderIdExt;
use openraft::{EntryPayload, Membership as Members, RaftLogReader};

use crate::directory::{Directory, FORMAT_VERSION, Format};
use crate::grid::blocking;
use crate::log::Log;
use crate::machine::{Snapshot, Snapshots};
use crate::snapshots::SnapshotFiles;
use crate::types::{Leader, LogEntry, LogId, Membership, Payload, Proposal, Real, SnapshotMeta};
use crate::{Grid, GridError};

/// What a stopped server's directory holds.
#[derive(Clone, Debug)]
pub struct Survey {
    /// This server's number in raft.
    pub raft_id: u64,
    /// The state at the end of its log, also of what nobody knows to be agreed on.
    pub state: Arc<State>,
    /// Term and index of the last entry in its log.
    pub last: (u64, u64),
    /// Index up to which the entries are known here to be agreed on.
    pub agreed: u64,
    /// Term of the last vote that it gave.
    pub term: u64,
    /// Raft ids of those whose votes count.
    pub voters: BTreeSet<u64>,
}

/// A directory that is being looked at, and nothing else may use meanwhile.
pub(crate) struct Opened {
    directory: Arc<Directory>,
    pub(crate) log: Log<Real>,
    survey: Survey,
    format: Format,
}

impl Survey {
    /// The grid.
    #[must_use]
    pub fn grid(&self) -> Option<GridId> {
        self.state.grid
    }

    /// Its life, as this server knows it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// Whether it needs nobody else to agree on anything.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.voters == BTreeSet::from([self.raft_id])
    }

    /// Whether what this server has may lack what was acknowledged: of three voters or more, two may have agreed without
    /// it; and one that does not vote is never waited for.
    #[must_use]
    pub fn may_lack(&self) -> bool {
        self.voters.len() > 2 || !self.voters.contains(&self.raft_id)
    }
}

impl Grid {
    /// Looks at a stopped server's part of a grid. Nothing is changed.
    ///
    /// # Errors
    /// When its daemon runs, or the directory is damaged.
    pub async fn survey(dir: &Path) -> Result<Survey, GridError> {
        let opened = open(dir).await?;
        close(&opened.log).await?;
        drop(opened.directory);
        Ok(opened.survey)
    }

    /// Makes a stopped server a grid of one, in the life that `recovery` names: everything that its log held is agreed on
    /// by that. On return it is durable; one that was cut short is begun again by calling this again. Returns the state
    /// that it goes on from.
    ///
    /// # Errors
    /// When its daemon runs, the directory is damaged, or the recovery does not fit its state; then nothing is changed.
    pub async fn recover(
        dir: &Path,
        clock: Arc<dyn Clock>,
        recovery: Recovery,
    ) -> Result<Arc<State>, GridError> {
        let epoch = recovery.epoch;
        let opened = open(dir).await?;
        let written = write(&opened, clock.now(), recovery).await;
        close(&opened.log).await?;
        let Opened {
            directory,
            mut format,
            ..
        } = opened;
        written?;
        format.epoch = epoch;
        let (told, kept) = (Arc::clone(&directory), format.clone());
        blocking(move || Ok(told.rewrite(&kept)?)).await?;
        // By itself it elects itself, and agrees on the rest.
        let grid = Self::start(&directory, clock, format).await?;
        drop(directory);
        let state = grid.read().await;
        grid.shutdown().await?;
        Ok(state?)
    }

    /// Founds a grid again from the state of a backup, in an empty or new directory, with the server of `recovery` as its
    /// only voter. On return it is durable; one that was cut short is begun again by calling this again. Returns the
    /// state that it goes on from.
    ///
    /// # Errors
    /// When the directory holds a grid, cannot be written, or the recovery does not fit the state.
    pub async fn restore(
        dir: &Path,
        clock: Arc<dyn Clock>,
        state: State,
        recovery: Recovery,
    ) -> Result<Arc<State>, GridError> {
        let nobody = GridError::Mixed {
            dir: dir.to_owned(),
            expected: GridId([0; 16]),
            found: None,
        };
        let grid = state.grid.ok_or(nobody)?;
        let raft_id = recovery.server.raft_id;
        let path = dir.to_owned();
        let directory = blocking(move || Ok(Arc::new(Directory::claim(&path)?))).await?;
        let last = log_id(state.term, raft_id, state.index);
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: Some(last),
                last_membership: Membership::new(Some(last), alone(raft_id, &recovery.server.api)?),
            },
            state: Arc::new(state),
        };
        seed(&directory, snapshot, vote(last.leader_id.term, raft_id)).await?;
        let mut format = Format {
            version: FORMAT_VERSION,
            grid,
            raft_id,
            server: ServerId(0),
            introduction: None,
            epoch: recovery.epoch,
        };
        let started = Self::start(&directory, clock, format.clone()).await?;
        let outcome = started.propose(Entry::Recovered(Box::new(recovery))).await;
        let state = started.local();
        format.server = started.server().unwrap_or(format.server);
        started.shutdown().await?;
        if let Outcome::Refused(refusal) = outcome? {
            return Err(GridError::Refused(refusal));
        }
        blocking(move || Ok(directory.complete(&format)?)).await?;
        Ok(state)
    }
}

pub(crate) async fn open(dir: &Path) -> Result<Opened, GridError> {
    let path = dir.to_owned();
    let (directory, format, mut log, latest) = blocking(move || {
        let (directory, format) = Directory::open(&path, None)?;
        let directory = Arc::new(directory);
        let log = Log::<Real>::open(&directory, |_| {})?;
        let (purged, _) = log.bounds();
        match SnapshotFiles::open(&directory, purged) {
            Ok((_, latest)) => Ok((directory, format, log, latest)),
            Err(e) => {
                let _closed = futures::executor::block_on(log.close());
                Err(e.into())
            }
        }
    })
    .await?;
    let survey = survey(&mut log, latest, format.raft_id).await;
    match survey {
        Ok(survey) if survey.grid() == Some(format.grid) => Ok(Opened {
            directory,
            log,
            survey,
            format,
        }),
        Ok(survey) => {
            close(&log).await?;
            Err(GridError::Mixed {
                dir: dir.to_owned(),
                expected: format.grid,
                found: survey.grid(),
            })
        }
        Err(e) => {
            close(&log).await?;
            Err(e)
        }
    }
}

/// Applies the whole log, as a leader with this log would.
async fn survey(
    log: &mut Log<Real>,
    latest: Option<Snapshot>,
    raft_id: u64,
) -> Result<Survey, GridError> {
    let unread = |e: std::io::Error| GridError::Interrupted(format!("its log: {e}"));
    let (mut state, mut members, covered) = match latest {
        Some(snapshot) => (
            snapshot.state.as_ref().clone(),
            snapshot.meta.last_membership.membership().clone(),
            snapshot.meta.last_log_id,
        ),
        None => Default::default(),
    };
    let first = covered.map_or(0, |id| id.index() + 1);
    let entries = log.try_get_log_entries(first..).await.map_err(unread)?;
    for entry in entries {
        let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index());
        match entry.payload {
            EntryPayload::Normal(proposal) => drop(apply(&mut state, term, index, &proposal.0)),
            EntryPayload::Blank => (state.term, state.index) = (term, index),
            EntryPayload::Membership(found) => {
                (state.term, state.index) = (term, index);
                members = found;
            }
        }
    }
    let (_, last) = log.bounds();
    let agreed = log.read_committed().await.map_err(unread)?;
    let vote = log.read_vote().await.map_err(unread)?;
    let place = |id: Option<LogId>| id.map_or((0, 0), |id| (id.leader_id.term, id.index()));
    Ok(Survey {
        raft_id,
        last: place(last.max(covered)),
        agreed: place(agreed.max(covered)).1,
        term: vote.map_or(0, |vote| vote.leader_id.term),
        voters: members.voter_ids().collect(),
        state: Arc::new(state),
    })
}

/// Who votes from now on, and the new life: two entries behind all others, written at once. The vote goes first: without
/// the entries it says nothing.
pub(crate) async fn write(
    opened: &Opened,
    now: Timestamp,
    recovery: Recovery,
) -> Result<(), GridError> {
    let Survey {
        state,
        raft_id,
        last,
        term,
        ..
    } = &opened.survey;
    let unwritten = |e: std::io::Error| GridError::Interrupted(format!("the log: {e}"));
    let members = alone(*raft_id, &recovery.server.api)?;
    let term = term.max(&last.0).saturating_add(1);
    let at = state.time.max(now);
    let entry = Entry::Recovered(Box::new(recovery));
    let envelope = Envelope { at, entry };
    let tried = apply(
        &mut state.as_ref().clone(),
        term,
        last.1.saturating_add(2),
        &envelope,
    );
    if let Outcome::Refused(refusal) = tried {
        return Err(GridError::Refused(refusal));
    }
    let place = |after: u64| log_id(term, *raft_id, last.1.saturating_add(after));
    let entries: [LogEntry; 2] = [
        RaftEntry::new(place(1), Payload::Membership(members)),
        RaftEntry::new(place(2), Payload::Normal(Proposal(envelope))),
    ];
    let mut log = opened.log.clone();
    let candidate = vote(term, *raft_id);
    log.save_vote(&candidate).await.map_err(unwritten)?;
    let (done, durable) = Real::oneshot();
    log.append(entries, IOFlushed::signal(done))
        .await
        .map_err(unwritten)?;
    let gone = || std::io::Error::other("its writer ended");
    let answer = durable.await.map_err(|_| unwritten(gone()))?;
    answer.map_err(unwritten)
}

/// Puts a snapshot, and a log that goes on behind it, into an empty directory.
async fn seed(
    directory: &Arc<Directory>,
    snapshot: Snapshot,
    vote: Vote<Leader>,
) -> Result<(), GridError> {
    let unwritten = |e: std::io::Error| GridError::Interrupted(format!("the first snapshot: {e}"));
    let last = snapshot.meta.last_log_id;
    let opening = Arc::clone(directory);
    let (files, mut log) = blocking(move || {
        let (files, _) = SnapshotFiles::open(&opening, None)?;
        Ok((files, Log::<Real>::open(&opening, |_| {})?))
    })
    .await?;
    let written = async {
        files.save(snapshot).await?;
        if let Some(last) = last {
            log.purge(last).await?;
        }
        log.save_vote(&vote).await
    }
    .await;
    close(&log).await?;
    written.map_err(unwritten)
}

async fn close(log: &Log<Real>) -> Result<(), GridError> {
    let closed = log.close().await;
    closed.map_err(|e| GridError::Interrupted(format!("closing the log: {e}")))
}

fn vote(term: u64, raft_id: u64) -> Vote<Leader> {
    Vote::new(term, raft_id)
}

fn log_id(term: u64, raft_id: u64, index: u64) -> LogId {
    LogId::new(Leader::new_committed(term, raft_id), index)
}

fn alone(raft_id: u64, api: &str) -> Result<Members<u64, BasicNode>, GridError> {
    let node = BasicNode {
        addr: api.to_owned(),
    };
    let nodes = BTreeMap::from([(raft_id, node)]);
    Members::new(vec![BTreeSet::from([raft_id])], nodes)
        .map_err(|e| GridError::Interrupted(e.to_string()))
}
