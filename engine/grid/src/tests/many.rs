//! A grid of several servers, as its callers see it: real TLS, real ports, real disks.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_schema::ids::ServerId;
use coppice_schema::units::Span;
use coppice_state::agreement::SUSPECT;
use coppice_state::token::TokenId;
use coppice_state::{Agreement, AgreementError, Entry, Outcome};
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{PeerError, Purpose, Serves};
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use tokio::net::TcpListener;

use super::grid::entries;
use super::sites::{Sites, all_vote, leader_of, pause, set_voters};
use super::world::{secret, secrets};
use crate::replica::{Former, MembersError};

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_agree_and_any_of_them_answers() {
    let (_kept, sites) = Sites::with(2).await;
    all_vote(&sites).await;
    for (n, site) in sites.iter().enumerate() {
        let outcome = site.grid.propose(secret(&format!("s{n}"), 100)).await;
        assert_eq!(outcome, Ok(Outcome::Done));
        // Whoever proposed sees it at once, wherever.
        assert!(secrets(&site.grid).contains(&format!("s{n}")));
        for reader in &sites {
            let seen = reader.grid.read().await.unwrap();
            assert!(seen.secrets.contains_key(&format!("s{n}").parse().unwrap()));
        }
    }
    let last = sites[0].grid.local().index;
    let digests: BTreeSet<_> =
        futures::future::join_all(sites.iter().map(|s| s.until(|state| state.index >= last)))
            .await
            .iter()
            .map(|state| state.digest())
            .collect();
    assert_eq!(digests.len(), 1);
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_takes_nothing_with_it() {
    let (_kept, mut sites) = Sites::with(2).await;
    all_vote(&sites).await;
    let clients: Vec<_> = sites[1..]
        .iter()
        .flat_map(|site| (0..4).map(|client| (Arc::clone(&site.grid), client)))
        .map(|(grid, client)| {
            tokio::spawn(async move {
                let mut acked = Vec::new();
                let mut n = 0;
                let mut failed = false;
                // On until the grid has failed somebody and served everybody again.
                while !failed || n < 40 {
                    let name = format!("r{}-c{client}-n{n}", grid.raft_id());
                    match grid.propose(secret(&name, 50)).await {
                        Ok(Outcome::Done) => acked.push(name),
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => failed = true,
                    }
                    failed = failed || n > 400;
                    n += 1;
                }
                acked
            })
        })
        .collect();
    sites[1].until(|state| state.secrets.len() > 50).await;
    let first = sites[0].raft_id();
    sites.remove(0).kill().await;
    let acked: Vec<String> = futures::future::join_all(clients)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert!(acked.len() > 100);
    let leader = leader_of(&sites).await;
    assert_ne!(sites[leader].raft_id(), first);
    for site in &sites {
        let state = site.grid.read().await.unwrap();
        for name in &acked {
            assert!(state.secrets.contains_key(&name.parse().unwrap()), "{name}");
        }
    }
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_can_be_stopped_and_started() {
    let (kept, sites) = Sites::with(2).await;
    all_vote(&sites).await;
    sites[1].grid.propose(secret("before", 10)).await.unwrap();
    let servers: Vec<_> = sites.iter().map(|s| s.server).collect();
    let addresses: Vec<_> = sites.iter().map(|s| s.address.clone()).collect();
    for site in sites {
        site.kill().await;
    }
    let mut again = Vec::new();
    for (n, (server, address)) in servers.into_iter().zip(addresses).enumerate() {
        let listener = TcpListener::bind(&address).await.unwrap();
        let n = u64::try_from(n).unwrap();
        again.push(kept.open(n, server, listener).await);
    }
    for site in &again {
        let state = site.grid.read().await.unwrap();
        assert!(state.secrets.contains_key(&"before".parse().unwrap()));
    }
    for site in again {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_found_where_it_says_that_it_is() {
    let (kept, mut sites) = Sites::with(1).await;
    let leader = sites[0].grid.replica().clone();
    let basis = leader.members();
    let (raft_id, server) = (sites[1].raft_id(), sites[1].server);
    leader
        .add_learner(&basis, raft_id, sites[1].address.clone())
        .await
        .unwrap();
    sites[1].until(|state| state.grid.is_some()).await;
    sites.remove(1).stop().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let moved = kept.open(1, server, listener).await;
    let described = sites[0].grid.propose(Entry::ServerDescribed {
        server,
        labels: BTreeSet::new(),
        capacity: Default::default(),
        api: moved.address.clone(),
        feature_level: coppice_state::state::FEATURE_LEVEL,
    });
    assert_eq!(described.await, Ok(Outcome::Done));
    let there = |state: &coppice_state::State| state.servers[&server].api == moved.address;
    moved.until(there).await;
    sites.push(moved);
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_votes_alone_is_a_majority_whoever_else_is_silent() {
    let (_kept, mut sites) = Sites::with(1).await;
    let leader = sites[0].grid.replica().clone();
    let majority = || leader.standing().majority;
    assert_eq!(majority(), Some(Span(0)), "nobody else takes part");
    let learner = sites[1].raft_id();
    leader
        .add_learner(&leader.members(), learner, sites[1].address.clone())
        .await
        .unwrap();
    let silent = || leader.standing().parts[&learner].heard;
    // One that was never heard would be silent for no time.
    while silent().is_none() {
        pause().await;
    }
    sites.remove(1).kill().await;
    while silent().is_none_or(|ago| ago <= SUSPECT) {
        pause().await;
    }
    assert_eq!(majority(), Some(Span(0)));
    sites.remove(0).stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_far_behind_gets_a_snapshot() {
    let (_kept, sites) = Sites::with(1).await;
    let leader = sites[0].grid.replica();
    for n in 0..30 {
        leader
            .propose(secret(&format!("s{n}"), 2_000))
            .await
            .unwrap();
    }
    leader.snapshot().await.unwrap();
    let covered = leader.local().index;
    leader.raft().trigger().purge_log(covered).await.unwrap();
    loop {
        let (purged, _) = sites[0].grid.log().bounds();
        if purged.is_some_and(|id| id.index() >= covered) {
            break;
        }
        pause().await;
    }
    let basis = leader.members();
    leader
        .add_learner(&basis, sites[1].raft_id(), sites[1].address.clone())
        .await
        .unwrap();
    sites[1].until(|state| state.index >= covered).await;
    let as_entries = entries(&sites[1].grid).await;
    let old = as_entries.iter().filter(|(index, ..)| *index <= covered);
    assert_eq!(old.count(), 0, "it came as a log");
    assert_eq!(secrets(&sites[1].grid), secrets(&sites[0].grid));
    // And goes on from there.
    sites[1].grid.propose(secret("after", 10)).await.unwrap();
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_larger_than_a_frame_go_one_after_the_other() {
    let (_kept, sites) = Sites::with(1).await;
    let leader = sites[0].grid.replica();
    for n in 0..3 {
        leader
            .propose(secret(&format!("s{n}"), 1 << 20))
            .await
            .unwrap();
    }
    let refused = leader.propose(Entry::TokenRevoked {
        id: TokenId(String::new()),
        author: "x".repeat(33 << 20),
    });
    let refused = refused.await;
    assert!(
        matches!(refused, Err(AgreementError::TooLarge { .. })),
        "{refused:?}"
    );
    let basis = leader.members();
    leader
        .add_learner(&basis, sites[1].raft_id(), sites[1].address.clone())
        .await
        .unwrap();
    // Whoever has only just heard who leads says nothing before it knows what that one knew.
    let seen = sites[1].grid.read().await.unwrap();
    assert_eq!(seen.secrets.len(), 3);
    let (purged, _) = sites[1].grid.log().bounds();
    assert!(purged.is_none(), "it came as a snapshot");
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_part_changes_only_from_what_was_looked_at() {
    let (_kept, sites) = Sites::with(2).await;
    let (leader, other) = (sites[0].grid.replica(), sites[1].grid.replica());
    let [first, second, third] = [0, 1, 2].map(|at| sites[at].raft_id());
    let empty = leader.members();
    assert_eq!(empty.voters, BTreeSet::from([first]));
    leader
        .add_learner(&empty, second, sites[1].address.clone())
        .await
        .unwrap();
    let stale = leader
        .add_learner(&empty, third, sites[2].address.clone())
        .await;
    assert_eq!(stale, Err(MembersError::Moved));
    let basis = leader.members();
    assert_eq!(basis.learners, BTreeSet::from([second]));
    let stranger = leader
        .set_voters(&basis, BTreeSet::from([first, 9]), Former::Learn)
        .await;
    assert!(matches!(
        stranger,
        Err(MembersError::Unfit { raft_id: 9, .. })
    ));
    assert_eq!(
        leader.remove(&basis, first).await,
        Err(MembersError::Nobody)
    );
    assert!(matches!(
        leader.transfer_leader(second).await,
        Err(MembersError::Unfit { raft_id, .. }) if raft_id == second
    ));
    set_voters(&sites[0], &BTreeSet::from([first, second])).await;
    sites[1].grid.read().await.unwrap();
    assert_eq!(
        other.transfer_leader(second).await,
        Err(MembersError::NotLeader {
            leader: Some(first)
        })
    );
    sites[0].grid.propose(Entry::Tick).await.unwrap();
    while leader.transfer_leader(second).await.is_err() {
        // It was not heard of yet.
        pause().await;
    }
    let leading = leader_of(&sites[..2]).await;
    assert_eq!(sites[leading].raft_id(), second);
    sites[0]
        .grid
        .propose(secret("forwarded", 10))
        .await
        .unwrap();

    // Demoted, then gone altogether.
    let basis = other.members();
    other
        .set_voters(&basis, BTreeSet::from([second]), Former::Learn)
        .await
        .unwrap();
    // What a change came to is shown a moment after it is agreed on.
    let basis = loop {
        let basis = other.members();
        if basis.learners == BTreeSet::from([first]) {
            break basis;
        }
        pause().await;
    };
    other.remove(&basis, first).await.unwrap();
    while !other.members().learners.is_empty() {
        pause().await;
    }
    for site in sites {
        site.stop().await;
    }
}

/// Sends back what comes.
struct Echo;

impl Serves for Echo {
    fn serve(&self, from: ServerId, mut stream: ByteStream) -> BoxFuture<'static, ()> {
        async move {
            let mut buffer = [0; 64];
            stream
                .write_all(format!("{from}:").as_bytes())
                .await
                .unwrap();
            while let Ok(read) = stream.read(&mut buffer).await {
                if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                let _ = stream.flush().await;
            }
        }
        .boxed()
    }
}

async fn said(stream: &mut ByteStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

async fn heard(stream: &mut ByteStream, text: &str) {
    let mut buffer = vec![0; text.len()];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(buffer, text.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_to_whatever_serves_them() {
    let (_kept, sites) = Sites::with(1).await;
    sites[1].grid.serve(Purpose::Images, Arc::new(Echo));
    let peers = sites[0].grid.peers();
    let mut stream = peers
        .connect(sites[1].server, Purpose::Images)
        .await
        .unwrap();
    said(&mut stream, "an image").await;
    heard(&mut stream, &format!("{}:an image", sites[0].server)).await;
    let refused = peers.connect(sites[1].server, Purpose::Consoles).await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })));
    let nobody = peers.connect(ServerId(0), Purpose::Images).await;
    assert!(matches!(nobody, Err(PeerError::Stranger(ServerId(0)))));
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_is_out_at_once() {
    let (_kept, sites) = Sites::with(1).await;
    let (site, other) = (&sites[0], &sites[1]);
    site.grid.serve(Purpose::Images, Arc::new(Echo));
    other.grid.serve(Purpose::Images, Arc::new(Echo));
    let (here, there) = (site.grid.peers(), other.grid.peers());
    let mut inward = there.connect(site.server, Purpose::Images).await.unwrap();
    let mut outward = here.connect(other.server, Purpose::Images).await.unwrap();
    heard(&mut inward, &format!("{}:", other.server)).await;
    heard(&mut outward, &format!("{}:", site.server)).await;
    let removed = site.grid.propose(Entry::ServerRemoved {
        server: other.server,
        gone: false,
        author: "test".to_owned(),
    });
    assert_eq!(removed.await, Ok(Outcome::Done));
    for stream in [&mut inward, &mut outward] {
        let mut rest = Vec::new();
        // Ended, or broken.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
    let why = there.connect(site.server, Purpose::Images).await;
    let why = why.err().unwrap().to_string();
    assert!(why.contains("is no member of this grid"), "{why}");
    let why = here.connect(other.server, Purpose::Images).await;
    assert_eq!(why.err().unwrap(), PeerError::Stranger(other.server));
    for site in sites {
        site.stop().await;
    }
}
