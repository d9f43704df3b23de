//! Questions to the guest, through QEMU's agent: <https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html>.

use coppice_schema::known::{Feature, GuestState};
use serde::Deserialize;
use uuid::Uuid;
use virt::domain::Domain;

use super::gate::Way;
use super::{Libvirt, duration};
use crate::hypervisor::HypervisorError;

/// Seconds in which a guest must answer a question.
const PATIENCE: i32 = 5;
/// Seconds in which an agent must say that it is there. One that is well takes milliseconds.
const PING: i32 = 2;

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

#[derive(Deserialize)]
struct HostName {
    #[serde(rename = "host-name")]
    host_name: String,
}

#[derive(Deserialize)]
struct User {}

#[derive(Deserialize)]
struct Pong {}

impl Libvirt {
    pub(super) async fn ask(&self, uuid: Uuid) -> Result<GuestState, HypervisorError> {
        if self.shared.has_no_agents() {
            // Only who is there can be silent.
            self.live("ask", uuid).await?;
            return Err(HypervisorError::Lacks(Feature::Agent));
        }
        // Whoever was to let its file systems go on may have died before.
        let frozen = self.frozen(uuid);
        let asked = move |domain: &Domain| {
            frozen.release(domain);
            question(domain)
        };
        let said = self.inquire(uuid, asked).await?;
        Ok(said.unwrap_or(GuestState::Silent))
    }

    /// Whether its agent is there and listens.
    pub(super) async fn agent_answers(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        let ping =
            |domain: &Domain| put::<Pong>(domain, r#"{"execute":"guest-ping"}"#, PING).is_some();
        Ok(self.inquire(uuid, ping).await? == Some(true))
    }

    /// Puts questions to a guest. `None`: it cannot be asked, or did not answer in time.
    pub(super) async fn inquire<T: Send + 'static>(
        &self,
        uuid: Uuid,
        questions: impl FnOnce(&Domain) -> T + Send + 'static,
    ) -> Result<Option<T>, HypervisorError> {
        if !self.agent_connected(uuid).await? {
            return Ok(None);
        }
        let gate = self.shared.gates.of(uuid);
        let limit = duration(self.shared.limits.ask);
        // One question at a time: a guest that leaves one open would leave the next open too.
        let Some(passage) = gate.pass(Way::Ask, limit).await else {
            return Ok(None);
        };
        let shared = self.shared.clone();
        let answer = self.shared.acts.call(limit, move || {
            let _passage = passage;
            let (_, domain) = shared.link.domain("ask", uuid)?;
            Ok(Some(questions(&domain)))
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => {
                gate.note_late(Way::Ask);
                Ok(None)
            }
        }
    }
}

/// Longest host name that is passed on, in bytes: RFC 1035, 2.3.4.
const HOST_NAME_MAX: usize = 253;

/// A guest that does not answer, or nonsense, is silent.
fn question(domain: &Domain) -> GuestState {
    let name: Option<HostName> = put(domain, r#"{"execute":"guest-get-host-name"}"#, PATIENCE);
    let Some(host_name) = name.map(told_name) else {
        return GuestState::Silent;
    };
    let users: Option<Vec<User>> = put(domain, r#"{"execute":"guest-get-users"}"#, PATIENCE);
    GuestState::Answers {
        hostname: host_name,
        users: users.and_then(|users| u32::try_from(users.len()).ok()),
    }
}

/// The name as far as it can be one. What a guest says goes into the grid's log: it may not choose how much.
fn told_name(HostName { host_name }: HostName) -> String {
    if host_name.len() > HOST_NAME_MAX || host_name.contains(char::is_control) {
        return String::new();
    }
    host_name
}

fn put<T: for<'de> Deserialize<'de>>(domain: &Domain, question: &str, patience: i32) -> Option<T> {
    let said = domain.qemu_agent_command(question, patience, 0).ok()?;
    understand(&said)
}

fn understand<T: for<'de> Deserialize<'de>>(said: &str) -> Option<T> {
    serde_json::from_str::<Answer<T>>(said)
        .ok()
        .map(|answer| answer.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_choose_how_much_is_remembered_of_its_name() {
        let told = |host_name: &str| {
            let host_name = host_name.to_owned();
            told_name(HostName { host_name })
        };
        assert_eq!(told("lab-007.example"), "lab-007.example");
        assert_eq!(told(&"a".repeat(254)), "");
        assert_eq!(told("lab\n007"), "");
    }

    #[test]
    fn answers_are_understood_and_nonsense_is_not() {
        let name: Option<HostName> = understand(r#"{"return":{"host-name":"lab-007"}}"#);
        assert_eq!(name.unwrap().host_name, "lab-007");
        let users: Option<Vec<User>> =
            understand(r#"{"return":[{"user":"eve","login-time":1.5}]}"#);
        assert_eq!(users.unwrap().len(), 1);
        assert!(understand::<HostName>(r#"{"error":{"class":"CommandNotFound"}}"#).is_none());
        assert!(understand::<HostName>("").is_none());
    }
}
