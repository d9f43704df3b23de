//! The grid's certificate authority: looked at, and replaced by another.

use coppice_plans::plan::{Finding, FindingKind, Severity};
use coppice_schema::ids::{Address, ServerId, ServerName};
use coppice_schema::units::Span;
use coppice_state::State;
use coppice_state::authority::Step;
use coppice_state::entry::Entry;

use crate::api::{AuthorityInfo, AuthorityRotation, Code, Problem};
use crate::auth::Who;
use crate::join::not_admitted;
use crate::portal::Portal;

/// An authority that lives no longer than that is to be replaced.
const SOON: Span = Span::hours(365 * 24);
/// And with no more than that, certificates end before they are renewed.
const AT_ONCE: Span = Span::hours(90 * 24);

/// The authority, and what is under way with it.
#[utoipa::path(get, path = "/api/v1/authority", responses((status = 200, body = AuthorityInfo)))]
pub(crate) async fn look(portal: Portal) -> axum::Json<AuthorityInfo> {
    let state = portal.look().await.state;
    axum::Json(info(&portal, &state))
}

/// Makes a new authority, which takes over from the one that there is while everything goes on.
#[utoipa::path(post, path = "/api/v1/authority/rotate", responses(
    (status = 200, body = AuthorityInfo), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn rotate(
    portal: Portal,
    who: Who,
) -> Result<axum::Json<AuthorityInfo>, Box<Problem>> {
    let state = portal.look_surely().await?.state;
    if state.authorities.rotation.is_some() {
        return Err(Problem::new(
            Code::Conflict,
            "an authority takes over already",
            "`coppice ca show` says how far that is; another can begin after it",
        ));
    }
    let made = portal.app.admission.successor().await;
    let successor = made.map_err(|e| not_admitted(&e))?;
    let entry = Entry::AuthorityBegun {
        successor: Box::new(successor),
        author: who.author(),
    };
    portal.propose(entry).await?;
    // What was agreed on is applied here.
    let state = portal.app.agreement.local();
    Ok(axum::Json(info(&portal, &state)))
}

/// Drops the old authority without waiting for servers that are away.
#[utoipa::path(post, path = "/api/v1/authority/finish", responses(
    (status = 200, body = AuthorityInfo), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn finish(
    portal: Portal,
    who: Who,
) -> Result<axum::Json<AuthorityInfo>, Box<Problem>> {
    let state = portal.look_surely().await?.state;
    let Some(rotation) = &state.authorities.rotation else {
        return Err(Problem::absent(
            "authority that takes over".to_owned(),
            "`coppice ca rotate` begins it; when every server has a certificate of the new one, it is finished by itself",
        ));
    };
    let (open, away) = state.authority_waits();
    let there = names(&state, open.difference(&away));
    if rotation.step == Step::Trust || !there.is_empty() {
        let there: Vec<String> = there.iter().map(ToString::to_string).collect();
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "servers that are there would be cut off, since they do not have a certificate of the new authority yet: {}",
                if there.is_empty() {
                    "all".to_owned()
                } else {
                    there.join(", ")
                }
            ),
            "they get it by themselves, most often in seconds: `coppice ca show`. The log of `coppice serve` there says what it \
             waits for; one that is gone for good: `coppice server remove NAME --lost`",
        ));
    }
    let entry = Entry::AuthorityDropped {
        key: rotation.successor.new.key,
        author: who.author(),
    };
    portal.propose(entry).await?;
    // What was agreed on is applied here.
    let state = portal.app.agreement.local();
    Ok(axum::Json(info(&portal, &state)))
}

fn info(portal: &Portal, state: &State) -> AuthorityInfo {
    let (open, away) = state.authority_waits();
    let rotation = state.authorities.rotation.as_ref();
    AuthorityInfo {
        certificates: portal.app.admission.authority(),
        fingerprint: portal.app.admission.fingerprint(),
        expires: portal.app.admission.expires(),
        rotation: rotation.map(|it| AuthorityRotation {
            new: it.successor.new.key,
            step: it.step,
            begun: it.begun,
            author: it.author.clone(),
            waits_for: names(state, &open),
            away: names(state, &away),
        }),
    }
}

fn names<'a>(state: &State, ids: impl IntoIterator<Item = &'a ServerId>) -> Vec<ServerName> {
    let ids = ids.into_iter();
    ids.filter_map(|id| Some(state.servers.get(id)?.name.clone()))
        .collect()
}

/// What is to be known about the authority, as findings.
pub(crate) fn findings(portal: &Portal, state: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    let expires = portal.app.admission.expires();
    let left = expires.since(portal.now());
    if let Some(rotation) = &state.authorities.rotation {
        let (open, away) = state.authority_waits();
        let only_away = rotation.step == Step::Show && open == away;
        let words = |ids| {
            let names: Vec<String> = names(state, ids).iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        findings.push(Finding {
            object: Address::Grid,
            kind: FindingKind::AuthorityChanges {
                waits_for: names(state, &open)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            severity: if only_away {
                Severity::Warning
            } else {
                Severity::Note
            },
            remedy: if only_away {
                format!(
                    "start {}, or drop the old authority without waiting: coppice ca rotate --finish. What is started later \
                     joins again: coppice server rejoin ADDRESS TOKEN",
                    words(&away)
                )
            } else {
                "nothing: servers follow by themselves; coppice ca show".to_owned()
            },
        });
    } else if left < SOON {
        findings.push(Finding {
            object: Address::Grid,
            kind: FindingKind::AuthorityEnds { at: expires },
            severity: if left < AT_ONCE {
                Severity::Error
            } else {
                Severity::Warning
            },
            remedy: "make another, while everything goes on: coppice ca rotate".to_owned(),
        });
    }
    findings
}
