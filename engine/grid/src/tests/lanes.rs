//! One side of a wire, and another one that does what it should not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_schema::ids::{Epoch, ServerId};
use coppice_state::Entry;
use coppice_world::hypervisor::ByteStream;
use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncWriteExt, FutureExt};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::sites::GRID;
use crate::link::{Answer, Lane, Link, LinkError, Question, Target};
use crate::machine::Machine;
use crate::memory::MemoryDisk;
use crate::roster::Roster;
use crate::types::Real;
use crate::wire::{Dial, Greeting, Hello, WIRE, Wire, read_frame, write_frame};
use crate::{Introduction, Member};

const HIM: ServerId = ServerId(5);

/// What the other side does with the questions of one connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Cannot be reached.
    Absent,
    /// Answers each with the connection's number.
    Answers,
    /// Answers one, and hangs up when the next one has come.
    HangsUp,
    /// Reads, and never answers.
    Silent,
}

/// Each connection as the next of these.
struct Other {
    manners: Mutex<Vec<Manner>>,
    dialled: Arc<AtomicUsize>,
}

impl Dial for Other {
    fn dial(&self, _: String) -> BoxFuture<'static, Result<(ServerId, ByteStream), LinkError>> {
        let number = self.dialled.fetch_add(1, Ordering::SeqCst) + 1;
        let manner = self.manners.lock().unwrap().pop().unwrap();
        async move {
            if let Manner::Absent = manner {
                return Err(LinkError::Unreachable("nobody is there".to_owned()));
            }
            let (mine, his) = tokio::io::duplex(1 << 20);
            tokio::spawn(serve(Box::pin(his.compat()), manner, number));
            Ok((HIM, Box::pin(mine.compat()) as ByteStream))
        }
        .boxed()
    }
}

async fn serve(stream: ByteStream, manner: Manner, number: usize) {
    let mut stream = BufReader::new(stream);
    let hello: Hello = read_frame(&mut stream, 1 << 20).await.unwrap().unwrap();
    assert_eq!(hello.opens, "calls");
    let raft_id = 2;
    let welcome = Greeting::Welcome {
        wire: WIRE,
        raft_id,
    };
    write_frame(&mut stream, &welcome, 1 << 20).await.unwrap();
    let mut answered = 0;
    while let Ok(Some(_)) = read_frame::<Question<Real>>(&mut stream, 1 << 20).await {
        match manner {
            Manner::Silent => continue,
            Manner::HangsUp if answered > 0 => {
                stream.close().await.unwrap();
                return;
            }
            Manner::Absent | Manner::Answers | Manner::HangsUp => {}
        }
        answered += 1;
        let answer = Answer::<Real>::Read(u64::try_from(number).unwrap());
        if write_frame(&mut stream, &answer, 1 << 20).await.is_err() {
            return;
        }
    }
}

/// A wire to him, whose connections go by `manners`, the last first.
fn wire(manners: &[Manner]) -> (Wire<Real>, Arc<AtomicUsize>) {
    let disk = MemoryDisk::<Real>::new(1, Duration::ZERO);
    let machine = Machine::<Real>::new(Arc::new(disk.snapshots()), None);
    let him = Member {
        raft_id: 2,
        address: "him:1".to_owned(),
    };
    let me = Introduction {
        grid: GRID,
        epoch: Epoch::default(),
        server: ServerId(4),
        raft_id: 1,
        members: BTreeMap::from([(HIM, him)]),
    };
    let wire = Wire::new(Roster::new(me, machine.published()));
    // The roster reads what the machine publishes.
    std::mem::forget(machine);
    let dialled = Arc::new(AtomicUsize::new(0));
    let other = Other {
        manners: Mutex::new(manners.iter().rev().copied().collect()),
        dialled: Arc::clone(&dialled),
    };
    wire.connect(Arc::new(other));
    (wire, dialled)
}

async fn ask(wire: &Wire<Real>, question: Question<Real>, within: u64) -> Result<u64, LinkError> {
    let to = Target {
        raft_id: 2,
        address: String::new(),
    };
    let within = Duration::from_millis(within);
    let answer = wire.ask(&to, Lane::Calls, &question, within).await?;
    let Answer::Read(number) = answer else {
        panic!("{answer:?}");
    };
    Ok(number)
}

fn proposal() -> Question<Real> {
    Question::Propose(Box::new(Entry::Tick))
}

const LONG: u64 = 60_000;

#[tokio::test]
async fn a_connection_is_used_again_and_a_question_that_is_given_up_takes_it_along() {
    let (wire, dialled) = wire(&[Manner::Answers]);
    for _ in 0..3 {
        assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(1));
    }
    assert_eq!(dialled.load(Ordering::SeqCst), 1);

    let (wire, _) = self::wire(&[Manner::Silent, Manner::Answers]);
    let lost = ask(&wire, Question::Read, 30).await;
    assert!(matches!(lost, Err(LinkError::Lost(_))), "{lost:?}");
    assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(2));
    // Dropped by whoever asked.
    let (wire, dialled) = self::wire(&[Manner::Silent, Manner::Answers]);
    let mut dropped = Box::pin(ask(&wire, Question::Read, LONG));
    for _ in 0..100 {
        assert!((&mut dropped).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(dropped);
    assert_eq!(dialled.load(Ordering::SeqCst), 1);
    assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(2));
}

#[tokio::test]
async fn only_what_may_be_asked_twice_is() {
    let (wire, dialled) = wire(&[Manner::HangsUp, Manner::Answers]);
    assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(1));
    // It hangs up with the question in its hand: a read is asked again,
    assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(2));
    assert_eq!(dialled.load(Ordering::SeqCst), 2);

    let (wire, dialled) = self::wire(&[Manner::HangsUp, Manner::Answers]);
    assert_eq!(ask(&wire, Question::Read, LONG).await, Ok(1));
    // a proposal is not: it may have been agreed on.
    let lost = ask(&wire, proposal(), LONG).await;
    assert!(matches!(lost, Err(LinkError::Lost(_))), "{lost:?}");
    assert_eq!(dialled.load(Ordering::SeqCst), 1);
    assert_eq!(ask(&wire, proposal(), LONG).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_reached_is_not_tried_all_the_time() {
    let absent = [Manner::Absent; 200];
    let (wire, dialled) = wire(&absent);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let refused = ask(&wire, Question::Read, LONG).await;
        assert!(matches!(refused, Err(LinkError::Unreachable(_))));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Calls have eight connections, but whoever asks alone uses one.
    let tried = dialled.load(Ordering::SeqCst);
    assert!((8..=16).contains(&tried), "{tried}");
}
