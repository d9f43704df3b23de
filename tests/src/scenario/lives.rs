//! The lives of a grid: backups, restores and recoveries.

use coppice_schema::ids::{ServerId, ServerName};
use coppice_schema::known::Request;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::{Entry, Envelope, State, apply, join};
use coppice_world::clock::Clock;

use super::hands::said;
use super::stage::Stage;

impl Stage {
    pub(super) fn lives(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["backup"] => {
                self.kept = Some(self.world.log.state().as_ref().clone());
                Ok(String::new())
            }
            ["restore", server] => {
                let state = self.kept.clone().ok_or("there is no backup")?;
                self.begin(state, Origin::Backup { keys: true }, server, &[])
            }
            ["recover", server, off @ ..] => {
                let state = self.world.log.state().as_ref().clone();
                self.begin(state, Origin::Log, server, off)
            }
            ["discard", member, server] => {
                let member = member.parse().map_err(|e| format!("{e}"))?;
                let server = self.server(server)?;
                let entry = Entry::Requested {
                    request: Request::Discard { member, server },
                    author: "ada".to_owned(),
                };
                Ok(said(&self.world.log.append(entry)))
            }
            _ => Err("no such command".to_owned()),
        }
    }

    /// Another life of the grid, from `state`.
    fn begin(
        &mut self,
        mut state: State,
        from: Origin,
        server: &str,
        off: &[&str],
    ) -> Result<String, String> {
        let name: ServerName = server.parse().map_err(|e| format!("{e}"))?;
        let off = off.iter().map(|server| self.server(server));
        let off = off.collect::<Result<_, _>>()?;
        let epoch = state.epoch.next(state.index);
        let known = state.server_named(&name).map(|(_, known)| known.raft_id);
        let raft_id = match from {
            Origin::Log => known.ok_or("no such server")?,
            Origin::Backup { .. } => join::raft_id(epoch, state.index),
        };
        let recovery = Recovery {
            epoch,
            from,
            server: NewServer {
                name: name.clone(),
                raft_id,
                api: format!("{name}:7443"),
            },
            off,
            author: "ada".to_owned(),
        };
        let entry = Entry::Recovered(Box::new(recovery));
        let at = self.world.clock.now();
        let (term, index) = (state.term + 1, state.index + 1);
        let outcome = apply(&mut state, term, index, &Envelope { at, entry });
        self.world.go_on_from(state, &name, raft_id);
        self.look()?;
        Ok(said(&outcome))
    }

    fn server(&self, name: &str) -> Result<ServerId, String> {
        let name: ServerName = name.parse().map_err(|e| format!("{e}"))?;
        let state = self.world.log.state();
        let found = state.server_named(&name).map(|(id, _)| id);
        found.ok_or_else(|| format!("no server {name}"))
    }
}
