//! Looking on: what a grid is, again whenever something happens there, also over a while in which nobody answers.

use std::time::{Duration, Instant};

use hyper::Method;
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientError, Lines};
use crate::screen::Screen;

/// How long a server that is started again may be away, for whoever waits for something to be done.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How often the grid is asked when it says nothing by itself.
const PULSE: Duration = Duration::from_secs(2);
/// From an attempt that failed to the next.
const AGAIN: Duration = Duration::from_millis(500);
/// Many things happen at once: one look serves them all.
const CALM: Duration = Duration::from_millis(100);

/// Somebody who looks on.
pub(crate) struct Watch<'a> {
    client: &'a Client,
    patience: Duration,
    events: Option<Lines>,
    away: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// Looks on, and gives up a server that does not answer for `patience`.
    pub(crate) fn new(client: &'a Client, patience: Duration) -> Self {
        Self {
            client,
            patience,
            events: None,
            away: None,
        }
    }

    /// The same, from now on: nothing that happens after this is missed.
    pub(crate) async fn begin(client: &'a Client, patience: Duration) -> Result<Self, ClientError> {
        let mut watch = Self::new(client, patience);
        watch.events = Some(client.lines(Method::GET, "/events").await?);
        Ok(watch)
    }

    /// What is at `path`, or nothing while the server is away.
    ///
    /// # Errors
    /// What does not pass, or has not passed within the patience.
    pub(crate) async fn look<T: DeserializeOwned>(
        &mut self,
        path: &str,
    ) -> Result<Option<T>, ClientError> {
        let found = self.client.get(path).await;
        self.outlast(found, ClientError::passes)
    }

    /// What is at `path`, as soon as the server says it; a person is told of each while in which it does not.
    ///
    /// # Errors
    /// As of [`Self::look`].
    pub(crate) async fn get<T: DeserializeOwned>(
        &mut self,
        path: &str,
        screen: &Screen,
    ) -> Result<T, ClientError> {
        let client = self.client;
        let attempt = async || client.get(path).await;
        self.ask(attempt, ClientError::passes, screen).await
    }

    /// The same of what `attempt` finds.
    ///
    /// # Errors
    /// As of [`Self::look`].
    pub(crate) async fn ask<T, E>(
        &mut self,
        attempt: impl AsyncFn() -> Result<T, E>,
        passes: impl Fn(&E) -> bool,
        screen: &Screen,
    ) -> Result<T, E> {
        loop {
            let before = self.away;
            if let Some(found) = self.outlast(attempt().await, &passes)? {
                return Ok(found);
            }
            if before.is_none() {
                let target = self.client.target();
                screen.note(&format!("{target} does not answer, trying again"));
            }
            self.wait().await;
        }
    }

    fn outlast<T, E>(
        &mut self,
        found: Result<T, E>,
        passes: impl Fn(&E) -> bool,
    ) -> Result<Option<T>, E> {
        match found {
            Ok(found) => {
                self.away = None;
                Ok(Some(found))
            }
            Err(error) if passes(&error) => {
                self.events = None;
                let since = *self.away.get_or_insert_with(Instant::now);
                if since.elapsed() > self.patience {
                    return Err(error);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Until the grid says that something happened, or a little while; whether something may have happened.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.events.is_none() && self.away.is_none() {
            self.events = self.client.lines(Method::GET, "/events").await.ok();
            if self.events.is_some() {
                // Nobody knows what was until now.
                return true;
            }
        }
        let Some(events) = &mut self.events else {
            tokio::time::sleep(AGAIN).await;
            return false;
        };
        let came = tokio::time::timeout(PULSE, events.next_event()).await;
        if matches!(came, Ok(Ok(None) | Err(_))) {
            self.events = None;
        }
        tokio::time::sleep(CALM).await;
        came.is_ok()
    }
}
