//! What daemon and watchdog say to each other: a length in four bytes, then JSON.

use std::io::{self, ErrorKind, Read, Write};

use coppice_schema::units::Span;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::Guard;

/// A question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// That, and nothing else, is in force from now on.
    Guard(Guard),
    /// What is in force?
    Guarding,
}

/// The answer to any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What is in force.
    pub(super) guard: Guard,
    /// The moment of the answer.
    pub(super) passed: Span,
    /// Why some of it could not be ended.
    #[serde(default)]
    pub(super) unable: Option<String>,
}

/// Far more than the desktops of a server take.
const LONGEST: usize = 1 << 20;
const LENGTH: usize = 4;

/// Asks, and waits for the answer.
pub(super) fn exchange<S: Read + Write>(stream: &mut S, request: &Request) -> io::Result<Answer> {
    stream.write_all(&encode(request)?)?;
    let mut length = [0; LENGTH];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; checked(length)?];
    stream.read_exact(&mut body)?;
    decode(&body)
}

/// A message with its length.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| ErrorKind::InvalidData)?;
    Ok([length.to_le_bytes().as_slice(), &body].concat())
}

/// Takes a whole message off the front of what has come, if there is one.
pub(super) fn take<T: DeserializeOwned>(come: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(length) = come.first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let end = LENGTH + checked(*length)?;
    let Some(body) = come.get(LENGTH..end) else {
        return Ok(None);
    };
    let message = decode(body)?;
    come.drain(..end);
    Ok(Some(message))
}

fn checked(length: [u8; LENGTH]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(length)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let sent = encode(&Request::Guarding).unwrap();
        let mut come = Vec::new();
        for byte in sent.iter().chain(&[7]) {
            assert!(come.len() >= sent.len() || take::<Request>(&mut come).unwrap().is_none());
            come.push(*byte);
        }
        assert_eq!(take::<Request>(&mut come).unwrap(), Some(Request::Guarding));
        assert_eq!(come, [7]);
    }

    #[test]
    fn a_message_without_end_is_refused() {
        assert!(take::<Request>(&mut vec![0xff; 8]).is_err());
        assert!(take::<Request>(&mut vec![2, 0, 0, 0, b'{', b'x']).is_err());
    }
}
