//! Frames, whatever comes.

use futures::executor::block_on;
use futures::io::{AllowStdIo, Cursor};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::world::founding;
use crate::link::{Answer, Question};
use crate::types::Real;
use crate::wire::{FrameError, Greeting, Hello, read_frame, write_frame};
use coppice_state::Entry;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Thing {
    text: String,
    bytes: Vec<u8>,
}

fn framed(thing: &Thing) -> Vec<u8> {
    let mut stream = AllowStdIo::new(Vec::new());
    block_on(write_frame(&mut stream, thing, 1 << 20)).unwrap();
    stream.into_inner()
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8], most: u64) -> Result<Option<T>, FrameError> {
    block_on(read_frame(&mut Cursor::new(bytes), most))
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_a_part_of_it_never_is(
        text in ".{0,40}",
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let thing = Thing { text, bytes };
        let frame = framed(&thing);
        prop_assert_eq!(read::<Thing>(&frame, 1 << 20).unwrap(), Some(thing));
        let part = &frame[..cut.index(frame.len())];
        match read::<Thing>(part, 1 << 20) {
            Ok(None) => prop_assert!(part.is_empty()),
            Err(FrameError::Cut) => prop_assert!(!part.is_empty()),
            other => prop_assert!(false, "{:?}", other),
        }
        let short = u64::try_from(frame.len() - 5).unwrap();
        let refused = read::<Thing>(&frame, short);
        let too_large = matches!(refused, Err(FrameError::TooLarge { .. }));
        prop_assert!(too_large);
    }

    #[test]
    fn no_bytes_do_harm(
        length in prop_oneof![0..300u32, any::<u32>()],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(bytes);
        // Read or refused: what matters is that each comes back, and takes no more memory than came.
        drop(read::<Hello>(&frame, 16 << 10));
        drop(read::<Greeting>(&frame, 16 << 10));
        drop(read::<Question<Real>>(&frame, u64::from(u32::MAX)));
        drop(read::<Answer<Real>>(&frame, u64::from(u32::MAX)));
    }

    #[test]
    fn a_question_with_some_bytes_changed_does_no_harm(
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let begin = founding(super::world::GRID);
        let question = Question::<Real>::Propose(Box::new(Entry::Founded {
            grid: begin.grid,
            epoch: begin.epoch,
            server: begin.server,
            token: begin.token,
        }));
        let mut stream = AllowStdIo::new(Vec::new());
        block_on(write_frame(&mut stream, &question, 1 << 20)).unwrap();
        let mut frame = stream.into_inner();
        for (place, byte) in at {
            let place = 4 + place.index(frame.len() - 4);
            frame[place] = byte;
        }
        drop(read::<Question<Real>>(&frame, 1 << 20));
    }
}

#[test]
fn a_frame_that_is_too_long_is_not_written() {
    let thing = Thing {
        text: String::new(),
        bytes: vec![200; 1_000],
    };
    let mut stream = AllowStdIo::new(Vec::new());
    let refused = block_on(write_frame(&mut stream, &thing, 100));
    assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
    assert!(stream.into_inner().is_empty());
}
