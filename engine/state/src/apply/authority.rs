//! Another authority takes over: `begin`, what servers say, and what follows from it.

use coppice_schema::Digest;
use coppice_schema::ids::{Address, ServerId};
use coppice_schema::known::ServerState;

use crate::authority::{Rotation, Step, Successor};
use crate::entry::{Outcome, Refusal};
use crate::state::{Happening, State};

pub(super) fn begun(
    state: &mut State,
    successor: &Successor,
    author: &str,
) -> Result<Outcome, Refusal> {
    let (old, new) = (successor.old.key, successor.new.key);
    if let Some(rotation) = &state.authorities.rotation {
        return if rotation.successor.new.key == new {
            Ok(Outcome::Done)
        } else {
            let what = "a new authority that takes over".to_owned();
            Err(Refusal::Exists(what))
        };
    }
    let signs = state.authorities.current.as_ref().map(|it| it.key);
    let spent = state.authorities.former.contains(&new) || old == new || signs == Some(new);
    if signs.is_some_and(|signs| signs != old) || spent {
        return Err(Refusal::Absent(format!("authority {old} that signs")));
    }
    state.authorities.rotation = Some(Rotation {
        successor: successor.clone(),
        step: Step::Trust,
        trust: Default::default(),
        show: Default::default(),
        begun: state.time,
        author: author.to_owned(),
    });
    let what = "a new authority is to take over".to_owned();
    super::people::changed(state, Address::Grid, what, author)
}

/// A server trusts the new authority; `shows`: and has a certificate of it.
pub(super) fn followed(
    state: &mut State,
    server: ServerId,
    key: Digest,
    shows: bool,
) -> Result<Outcome, Refusal> {
    let name = super::member(state, server)?.name.clone();
    if super::member(state, server)?.state == ServerState::Removed {
        return Err(Refusal::Absent(format!("server {name}")));
    }
    let rotation = rotation(state, key)?;
    rotation.trust.insert(server);
    if shows {
        rotation.show.insert(server);
    }
    Ok(Outcome::Done)
}

/// A person does not wait for those that are away. Who is there is always waited for: it would be cut off.
pub(super) fn dropped(state: &mut State, key: Digest, author: &str) -> Result<Outcome, Refusal> {
    let step = rotation(state, key)?.step;
    let (open, away) = state.authority_waits();
    let there: Vec<String> = open
        .difference(&away)
        .filter_map(|id| Some(state.servers.get(id)?.name.to_string()))
        .collect();
    if step == Step::Trust || !there.is_empty() {
        let by = match there.as_slice() {
            [] => "every server".to_owned(),
            names => names.join(", "),
        };
        let what = "the old authority".to_owned();
        return Err(Refusal::InUse { what, by });
    }
    finish(state);
    let what = "the old authority is not trusted any more".to_owned();
    super::people::changed(state, Address::Grid, what, author)
}

fn rotation(state: &mut State, key: Digest) -> Result<&mut Rotation, Refusal> {
    let found = state.authorities.rotation.as_mut();
    found
        .filter(|it| it.successor.new.key == key)
        .ok_or_else(|| Refusal::Absent(format!("authority {key} that takes over")))
}

/// What follows from what servers said, and from who is a member and there.
pub(super) fn advance(state: &mut State) {
    while let Some(rotation) = &state.authorities.rotation {
        let step = rotation.step;
        if !state.authority_waits().0.is_empty() {
            return;
        }
        let what = match step {
            Step::Trust => {
                if let Some(rotation) = &mut state.authorities.rotation {
                    rotation.step = Step::Show;
                }
                "every server trusts the new authority, which signs from now on"
            }
            Step::Show => {
                finish(state);
                "every server has a certificate of the new authority; the old one is not trusted any more"
            }
        };
        let what = what.to_owned();
        state.record(Address::Grid, Happening::Done { what });
    }
}

fn finish(state: &mut State) {
    if let Some(rotation) = state.authorities.rotation.take() {
        let Successor {
            old, new, cross, ..
        } = rotation.successor;
        state.authorities.former.push(old.key);
        state.authorities.current = Some(new);
        state.authorities.cross = Some(cross);
    }
}
