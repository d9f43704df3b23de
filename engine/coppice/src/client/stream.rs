//! Answers that come bit by bit: lines of JSON, and server-sent events.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::error::{self, ClientError};

/// Longest line that is waited for: nothing the API sends is near it.
const LINE_MAX: usize = 8 << 20;

/// An answer read line by line.
pub(crate) struct Lines {
    server: String,
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

/// An event of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ServerEvent {
    /// Its kind.
    pub(crate) event: String,
    /// Its number, if it has one.
    pub(crate) id: Option<u64>,
    /// What it carries.
    pub(crate) data: String,
}

impl Lines {
    pub(super) fn new(server: String, body: Incoming) -> Self {
        Self {
            server,
            body,
            buffer: BytesMut::new(),
            ended: false,
        }
    }

    /// The next line without its end; `None` when the answer is over.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let text = String::from_utf8_lossy(&line[..end]);
                return Ok(Some(text.trim_end_matches('\r').to_owned()));
            }
            if self.ended {
                let rest = self.buffer.split();
                let text = String::from_utf8_lossy(&rest).into_owned();
                return Ok((!text.is_empty()).then_some(text));
            }
            if self.buffer.len() > LINE_MAX {
                return Err(self.broken("a line of the answer does not end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(self.broken(&error::chain(&e))),
                None => self.ended = true,
            }
        }
    }

    /// The next line as JSON.
    pub(crate) async fn next_json<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.next().await? {
            if line.trim().is_empty() {
                continue;
            }
            return serde_json::from_str(&line)
                .map(Some)
                .map_err(|e| ClientError::Answer {
                    what: "understand a line of the answer".to_owned(),
                    cause: e.to_string(),
                });
        }
        Ok(None)
    }

    /// The next server-sent event; `None` when the stream is over.
    pub(crate) async fn next_event(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        let mut event = ServerEvent::default();
        while let Some(line) = self.next().await? {
            if event.take_line(&line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn broken(&self, cause: &str) -> ClientError {
        ClientError::Broken {
            server: self.server.clone(),
            cause: cause.to_owned(),
        }
    }
}

impl ServerEvent {
    /// Takes a line of the stream in; true when it ends an event that carries something.
    fn take_line(&mut self, line: &str) -> bool {
        if line.is_empty() {
            let whole = !self.data.is_empty() || !self.event.is_empty();
            return whole;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = value.to_owned(),
            "id" => self.id = value.parse().ok(),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_standard_has_them() {
        let mut event = ServerEvent::default();
        let ended: Vec<bool> = [
            ": keep-alive",
            "",
            "event: run",
            "id: 7",
            "data: a",
            "data:b",
            "",
        ]
        .iter()
        .map(|line| event.take_line(line))
        .collect();
        assert_eq!(ended, [false, false, false, false, false, false, true]);
        assert_eq!(
            event,
            ServerEvent {
                event: "run".to_owned(),
                id: Some(7),
                data: "a\nb".to_owned()
            }
        );
    }
}
