//! Who is not let in, and what whoever is let in cannot do.

use std::sync::Arc;

use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::Agreement;
use coppice_state::state::FEATURE_LEVEL;
use futures::io::BufReader;
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::sites::{GRID, LATER, Site, Sites, all_vote, copy, identity, now};
use super::world::secret;
use crate::dial::Caller;
use crate::link::{Handed, LinkError, Question};
use crate::types::{Membership, Real, SnapshotMeta};
use crate::wire::{
    Dial, FrameError, Greeting, Hello, PROTOCOL, Rejection, WIRE, WIRE_OLDEST, read_frame,
    write_frame,
};
use crate::{GridKey, Identity, Renewal, Subject};
use coppice_world::hypervisor::ByteStream;

fn caller(identity: &Identity) -> Caller {
    let renewal = Renewal::of(identity).unwrap();
    Caller::new(renewal.between_servers(PROTOCOL).unwrap().1)
}

async fn dial(identity: &Identity, site: &Site) -> Result<ByteStream, LinkError> {
    let dialled = caller(identity).dial(site.address.clone()).await?;
    assert_eq!(dialled.0, site.server);
    Ok(dialled.1)
}

fn hello(server: ServerId, raft_id: u64) -> Hello {
    Hello {
        wire: WIRE,
        wire_oldest: WIRE_OLDEST,
        grid: GRID,
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server,
        raft_id,
        feature_level: FEATURE_LEVEL,
        needs_level: 0,
        to: None,
        opens: "log".to_owned(),
    }
}

/// What is answered to `hello`; `Err` where the connection ends, as after a certificate that is refused.
async fn greeted(
    identity: &Identity,
    site: &Site,
    hello: &Hello,
) -> Result<Greeting, std::io::Error> {
    let stream = dial(identity, site).await.map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(stream);
    let failed = |e: FrameError| {
        if let FrameError::Io(e) = e {
            return e;
        }
        std::io::Error::other(e)
    };
    write_frame(&mut stream, hello, 1 << 14)
        .await
        .map_err(failed)?;
    let greeting = read_frame(&mut stream, 1 << 14).await.map_err(failed)?;
    greeting.ok_or_else(|| std::io::Error::other("closed"))
}

fn why(greeting: Greeting) -> Rejection {
    match greeting {
        Greeting::Rejected { why, text } => {
            let why: Rejection = why.deserialized().unwrap();
            assert_eq!(why.to_string(), text);
            why
        }
        Greeting::Welcome { .. } => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_a_members_is_refused_with_the_reason() {
    let (kept, sites) = Sites::with(1).await;
    let site = &sites[0];
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let copied = |name: &str| {
        copy(&kept.dir(0).join("identity"), &at(name));
        at(name)
    };
    let (me, raft_id) = (sites[1].server, sites[1].raft_id());
    std::fs::create_dir(at("stranger")).unwrap();

    // Another authority, for a grid of the same name: neither side trusts the other.
    let stranger = identity(&at("stranger"), GRID, me, now());
    let refused = dial(&stranger, site).await.err().unwrap();
    assert!(
        matches!(&refused, LinkError::Distrusted(Rejection::Certificate(why)) if why.contains("another authority")),
        "{refused:?}"
    );
    // One that takes this grid's authority for its own is refused by the other side.
    let both = std::fs::read_to_string(at("stranger").join("ca.pem")).unwrap()
        + &std::fs::read_to_string(kept.dir(0).join("identity/ca.pem")).unwrap();
    std::fs::write(at("stranger").join("ca.pem"), both).unwrap();
    let stranger = identity(&at("stranger"), GRID, me, now());
    let refused = greeted(&stranger, site, &hello(me, raft_id))
        .await
        .unwrap_err();
    let told = crate::tls::alert(&refused).unwrap();
    assert!(told.contains("another authority"), "{told}");

    // Over.
    let long_ago = Timestamp(now().since(Timestamp(Span::hours(24 * 100).0)).0);
    let old = identity(&copied("old"), GRID, me, long_ago);
    let refused = greeted(&old, site, &hello(me, raft_id)).await.unwrap_err();
    let told = crate::tls::alert(&refused).unwrap();
    assert!(told.contains("clock"), "{told}");

    // Sound, but of one that is no member any more: ids are not used twice.
    let gone = ServerId(0);
    let removed = identity(&copied("removed"), GRID, gone, now());
    let answer = greeted(&removed, site, &hello(gone, 7)).await.unwrap();
    assert_eq!(why(answer), Rejection::Stranger(gone));

    // One that may have joined since brings entries, and asks for nothing.
    let later = LATER;
    let lately = identity(&copied("later"), GRID, later, now());
    let answer = greeted(&lately, site, &hello(later, 8)).await.unwrap();
    assert!(matches!(answer, Greeting::Welcome { raft_id: 1, .. }));
    let calls = Hello {
        opens: "calls".to_owned(),
        ..hello(later, 8)
    };
    let answer = greeted(&lately, site, &calls).await.unwrap();
    assert_eq!(why(answer), Rejection::NotYet(later));
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_authority_takes_over_from_another_both_count() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let pem = |name: &str| std::fs::read_to_string(at(name).join("ca.pem")).unwrap();
    let (old, new) = (ServerId(2), ServerId(5));
    for (name, server) in [("old", old), ("new", new)] {
        std::fs::create_dir(at(name)).unwrap();
        identity(&at(name), GRID, server, now());
    }
    let (first, second) = (pem("old"), pem("new"));
    std::fs::write(at("old").join("ca.pem"), format!("{first}{second}")).unwrap();
    std::fs::write(at("new").join("ca.pem"), format!("{second}{first}")).unwrap();
    let calls = caller(&identity(&at("new"), GRID, new, now()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shown = Renewal::of(&identity(&at("old"), GRID, old, now())).unwrap();
    let called = shown.between_servers(PROTOCOL).unwrap().0;
    let acceptor = tokio_rustls::TlsAcceptor::from(called);
    let connect = || async {
        let accepted = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap();
            Ok::<_, std::io::Error>(crate::tls::shown(certificates))
        };
        futures::future::join(calls.dial(address.clone()), accepted).await
    };
    let (dialled, accepted) = connect().await;
    assert_eq!((dialled.unwrap().0, accepted.unwrap()), (old, Some(new)));

    // The take-over is done: what only the other signed does not count any more, without a restart.
    std::fs::write(at("old").join("ca.pem"), first).unwrap();
    let subject = Subject {
        grid: GRID,
        id: old,
        server: format!("s{old}").parse().unwrap(),
        names: Default::default(),
    };
    let key = GridKey::open(&at("old")).unwrap();
    shown.look(&at("old"), &subject, now(), Some(&key)).unwrap();
    let (_, accepted) = connect().await;
    let refused = crate::tls::distrust(&accepted.unwrap_err()).unwrap();
    assert!(refused.contains("another authority"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_belong_here_learns_why() {
    let (kept, sites) = Sites::with(1).await;
    let (site, me, raft_id) = (&sites[0], sites[1].server, sites[1].raft_id());
    let member = identity(&kept.dir(1).join("identity"), GRID, me, now());
    let good = hello(me, raft_id);
    assert!(matches!(
        greeted(&member, site, &good).await.unwrap(),
        Greeting::Welcome {
            raft_id: 1,
            wire: WIRE
        }
    ));
    let epoch = |number, recovery| Epoch { number, recovery };
    let other = GridId([9; 16]);
    let cases = [
        (
            Hello {
                grid: other,
                ..good.clone()
            },
            Rejection::OtherGrid {
                ours: GRID,
                theirs: other,
            },
        ),
        (
            Hello {
                epoch: epoch(2, 5),
                ..good.clone()
            },
            Rejection::OtherEpoch {
                ours: epoch(1, 0),
                theirs: epoch(2, 5),
            },
        ),
        (
            Hello {
                server: LATER,
                ..good.clone()
            },
            Rejection::Impostor {
                says: LATER,
                raft_id,
            },
        ),
        (
            Hello {
                raft_id: 3,
                ..good.clone()
            },
            Rejection::Impostor {
                says: me,
                raft_id: 3,
            },
        ),
        (
            Hello {
                to: Some(5),
                ..good.clone()
            },
            Rejection::SomebodyElse { wanted: 5, here: 1 },
        ),
        (
            Hello {
                wire: 9,
                wire_oldest: 8,
                ..good.clone()
            },
            Rejection::Wire {
                oldest: 8,
                newest: 9,
            },
        ),
        (
            Hello {
                feature_level: 0,
                ..good.clone()
            },
            Rejection::FeatureLevel {
                needed: FEATURE_LEVEL,
                level: 0,
            },
        ),
        (
            Hello {
                needs_level: 999,
                ..good.clone()
            },
            Rejection::FeatureLevel {
                needed: 999,
                level: FEATURE_LEVEL,
            },
        ),
        (
            Hello {
                opens: "tea".to_owned(),
                ..good.clone()
            },
            Rejection::NothingServes("tea".to_owned()),
        ),
    ];
    for (hello, expected) in cases {
        let answer = greeted(&member, site, &hello).await.unwrap();
        assert_eq!(why(answer), expected);
    }
    // A newer one speaks the form that both know.
    let newer = Hello {
        wire: WIRE + 1,
        ..good
    };
    let answer = greeted(&member, site, &newer).await.unwrap();
    assert!(matches!(answer, Greeting::Welcome { wire: WIRE, .. }));
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_certificate_or_speaks_something_else_gets_nothing() {
    let (kept, sites) = Sites::with(0).await;
    let site = &sites[0];
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(kept.dir(0).join("identity/ca.pem")).unwrap();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bare = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bare = Arc::new(bare);
    let stream = tokio::net::TcpStream::connect(&site.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    // A client can trust the same certificate, and without one of its own comes no further.
    let connected = TlsConnector::from(bare)
        .connect(name, stream)
        .await
        .unwrap();
    let mut stream = connected.compat();
    let refused = stream.read(&mut [0]).await.unwrap_err();
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
    for site in sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_member_sends_does_harm() {
    let (kept, sites) = Sites::with(1).await;
    all_vote(&sites).await;
    let (site, me, raft_id) = (&sites[0], sites[1].server, sites[1].raft_id());
    let member = identity(&kept.dir(1).join("identity"), GRID, me, now());
    let opened = |opens: &'static str| {
        let member = &member;
        async move {
            let mut stream = BufReader::new(dial(member, site).await.unwrap());
            let hello = Hello {
                opens: opens.to_owned(),
                ..hello(me, raft_id)
            };
            write_frame(&mut stream, &hello, 1 << 14).await.unwrap();
            let greeting = read_frame(&mut stream, 1 << 14).await.unwrap();
            assert!(matches!(greeting, Some(Greeting::Welcome { .. })));
            stream
        }
    };
    let nothing = |mut stream: BufReader<ByteStream>| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
    };

    // Not even a greeting.
    let mut stream = dial(&member, site).await.unwrap();
    stream.write_all(&[0xff; 400]).await.unwrap();
    stream.flush().await.unwrap();
    nothing(BufReader::new(stream)).await;
    // Longer than anything, and never sent.
    let mut stream = opened("heartbeat").await;
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    nothing(stream).await;
    // Garbage.
    let mut stream = opened("log").await;
    stream.write_all(&[0, 0, 0, 3, 1, 2, 3]).await.unwrap();
    stream.flush().await.unwrap();
    nothing(stream).await;
    // A question on the wrong lane.
    let mut stream = opened("votes").await;
    write_frame(&mut stream, &Question::<Real>::Read, 1 << 14)
        .await
        .unwrap();
    nothing(stream).await;

    // Snapshots: half of one, one with another digest, another grid's, one that ends elsewhere.
    let before = site.grid.local();
    let (vote, last) = {
        let raft = site.grid.replica().raft();
        let metrics =
            openraft::async_runtime::watch::WatchReceiver::borrow_watched(&raft.metrics()).clone();
        (metrics.vote, metrics.last_applied)
    };
    let announced = |index| {
        let mut id = last.unwrap();
        id.index = index;
        Question::<Real>::Snapshot(Handed {
            vote,
            meta: SnapshotMeta {
                last_log_id: Some(id),
                last_membership: Membership::default(),
            },
            state: Arc::default(),
        })
    };
    let state = |grid, index| {
        let mut state = (*before).clone();
        state.grid = Some(grid);
        state.index = index;
        state.secrets.clear();
        state.encode()
    };
    let ahead = before.index + 1_000;
    let other = GridId([9; 16]);
    let whole = state(GRID, ahead);
    let parcels = [
        (
            whole.len(),
            blake3::hash(&whole),
            whole[..whole.len() / 2].to_vec(),
        ),
        (whole.len(), blake3::hash(b"?"), whole.clone()),
        (
            state(other, ahead).len(),
            blake3::hash(&state(other, ahead)),
            state(other, ahead),
        ),
        (
            state(GRID, 5).len(),
            blake3::hash(&state(GRID, 5)),
            state(GRID, 5),
        ),
        (usize::MAX, blake3::hash(&whole), whole.clone()),
        (3, blake3::hash(b"abc"), b"abc".to_vec()),
    ];
    for (length, digest, bytes) in parcels {
        let mut stream = opened("snapshot").await;
        write_frame(&mut stream, &announced(ahead), 1 << 20)
            .await
            .unwrap();
        let length = u64::try_from(length).unwrap();
        let _ = stream.write_all(&length.to_be_bytes()).await;
        let _ = stream.write_all(digest.as_bytes()).await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.close().await;
        nothing(stream).await;
    }
    site.grid.propose(secret("still", 10)).await.unwrap();
    sites[1].grid.propose(secret("here", 10)).await.unwrap();
    let state = site.grid.read().await.unwrap();
    assert!(state.index < ahead && state.secrets.len() == 2);
    for site in sites {
        site.stop().await;
    }
}
