//! Machines that become members.

use axum::extract::Extension;
use axum::http::StatusCode;
use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId, ServerName, is_name};
use coppice_schema::known::ServerState;
use coppice_schema::units::Span;
use coppice_state::State;
use coppice_state::admission::AdmissionError;
use coppice_state::entry::{Entry, Outcome, Refusal};
use coppice_state::join::{JoinRefusal, JoinToken, Joiner, Role};
use coppice_state::state::Server;
use coppice_state::token::TokenId;

use crate::api::{
    CLOCKS_APART, Code, JoinMember, JoinRequest, JoinResponse, JoinSecret, JoinTerms,
    JoinTokenCreated, JoinTokenInfo, JoinTokenRequest, Problem,
};
use crate::auth::{Peer, Who, failed};
use crate::bodies::Json;
use crate::portal::{Portal, no_quorum, refused};
use crate::servers;

/// How long a join token lasts unless something else is asked for.
const LASTS: Span = Span::hours(1);
/// And at most: whoever finds an old one must not get a server's rights with it.
const LASTS_AT_MOST: Span = Span::hours(30 * 24);

/// All join tokens that are remembered, without their secrets.
#[utoipa::path(get, path = "/api/v1/join-tokens", responses((status = 200, body = Vec<JoinTokenInfo>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<JoinTokenInfo>> {
    let state = portal.look().await.state;
    let each = |(name, token): (&TokenId, &JoinToken)| JoinTokenInfo {
        name: name.clone(),
        role: token.role,
        created: token.created,
        expires: token.expires,
        expired: token.expires <= portal.now(),
        used: token.spent.is_some(),
    };
    axum::Json(state.join_tokens.iter().map(each).collect())
}

/// Makes a token by which one machine may join. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/join-tokens", request_body = JoinTokenRequest, responses(
    (status = 201, body = JoinTokenCreated), (status = 409, body = Problem)))]
pub(crate) async fn invite(
    portal: Portal,
    who: Who,
    Json(request): Json<JoinTokenRequest>,
) -> Result<(StatusCode, axum::Json<JoinTokenCreated>), Box<Problem>> {
    let random = || {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map(|()| Digest(random))
            .map_err(|error| Problem::internal("draw random bits", &error))
    };
    let name = match request.name {
        Some(name) => name,
        None => {
            let drawn: String = random()?.to_string().chars().take(8).collect();
            format!("join-{drawn}")
        }
    };
    if !is_name(&name) {
        return Err(Problem::new(
            Code::Request,
            "the token's name is not one",
            "use lower-case letters, digits, '-' and '_', at most 40 characters",
        ));
    }
    let lasts = request.expires_in.unwrap_or(LASTS);
    if lasts == Span(0) || lasts > LASTS_AT_MOST {
        return Err(Problem::new(
            Code::Request,
            format!("a join token cannot last {lasts}"),
            format!(
                "let it last {LASTS_AT_MOST} at most; it is used once, and another is made in a moment"
            ),
        ));
    }
    let now = portal.now();
    let secret = JoinSecret {
        role: request.role,
        expires: now.after(lasts),
        authority: portal.app.admission.fingerprint(),
        token: TokenId(name),
        secret: random()?,
    };
    let token = JoinToken {
        hash: Digest::of(&secret.secret.0),
        role: secret.role,
        created: now,
        expires: secret.expires,
        spent: None,
    };
    let entry = Entry::JoinTokenCreated {
        id: secret.token.clone(),
        token,
        author: who.author(),
    };
    portal.propose(entry).await?;
    let created = JoinTokenCreated {
        token: secret.to_string(),
        name: secret.token,
        role: secret.role,
        expires: secret.expires,
    };
    Ok((StatusCode::CREATED, axum::Json(created)))
}

/// What a machine must know before it trusts this grid.
#[utoipa::path(get, path = "/api/v1/join", responses((status = 200, body = JoinTerms)), security(()))]
pub(crate) async fn terms(portal: Portal) -> axum::Json<JoinTerms> {
    axum::Json(JoinTerms {
        authority: portal.app.admission.authority(),
        former: portal.app.agreement.local().authorities.former.clone(),
        version: portal.app.version.clone(),
        wire: *portal.app.admission.speaks().end(),
        wire_oldest: *portal.app.admission.speaks().start(),
        time: portal.now(),
    })
}

/// A machine becomes a member. Doing it again with the same key gives the same; the token is spent by the first key.
#[utoipa::path(post, path = "/api/v1/join", request_body = JoinRequest, responses(
    (status = 200, body = JoinResponse), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 409, body = Problem), (status = 503, body = Problem)), security(()))]
pub(crate) async fn join(
    portal: Portal,
    peer: Option<Extension<Peer>>,
    Json(request): Json<JoinRequest>,
) -> Result<axum::Json<JoinResponse>, Box<Problem>> {
    let peer = peer.map(|Extension(peer)| peer);
    let proof = Digest::of(&request.secret.0);
    let state = portal.look_surely().await?.state;
    // Before anything is proposed: whoever has no token must not be able to fill the log.
    let known = state.join_tokens.get(&request.token);
    let held = known.map_or(Digest([0; 32]), |token| token.hash);
    let same = blake3::Hash::from_bytes(held.0) == blake3::Hash::from_bytes(proof.0);
    if known.is_none() || !same {
        let unknown = JoinRefusal::Unknown(request.token);
        return Err(failed(&portal, peer, not_joined(&unknown)));
    }
    let ours = portal.app.admission.speaks();
    if request.wire < *ours.start() || *ours.end() < request.wire_oldest {
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "this server's version is {}, that of {} is {}, and they have no form in common to speak with each other",
                portal.app.version, request.name, request.version
            ),
            "install the version of the program that the grid has, and join again",
        ));
    }
    let apart = portal.now().apart(request.time);
    if apart > CLOCKS_APART {
        tracing::warn!(
            server = %request.name, clock_apart = %apart,
            "the clock of the machine that joins differs from this server's; set both by NTP"
        );
    }
    let key = portal
        .app
        .admission
        .examine(&request.request)
        .map_err(|e| not_admitted(&e))?;
    if request.again {
        gives_way(&portal, &request.name, key).await?;
    }
    let joiner = Joiner {
        token: request.token,
        proof,
        key,
        name: request.name.clone(),
        role: request.role,
        api: request.api,
        feature_level: request.feature_level,
        again: request.again,
    };
    match portal
        .app
        .agreement
        .propose(Entry::ServerJoined(Box::new(joiner)))
        .await
    {
        Ok(Outcome::Refused(Refusal::Join(refusal))) => return Err(not_joined(&refusal)),
        Ok(Outcome::Refused(refusal)) => return Err(refused(refusal)),
        Ok(Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. }) => {}
        Err(error) => return Err(no_quorum(error)),
    }
    let state = portal.look_surely().await?.state;
    let member = state.servers.iter().find(|(_, s)| s.key == Some(key));
    let (id, member) = member.ok_or_else(|| {
        Problem::absent(
            format!("server {} any more", request.name),
            "somebody removed it meanwhile: join again in an empty directory",
        )
    })?;
    let certificate = portal
        .app
        .admission
        .certify(request.request, *id, request.names)
        .await
        .map_err(|e| not_admitted(&e))?;
    answer(&portal, &state, *id, member, certificate).map(axum::Json)
}

/// The member whose place is taken must be silent: its desktops would be grown anew while people are in the old ones.
async fn gives_way(portal: &Portal, name: &ServerName, key: Digest) -> Result<(), Box<Problem>> {
    let seen = portal.look_at_all().await;
    let Some((id, member)) = seen.state.server_named(name) else {
        return Ok(());
    };
    // Whoever goes on with what was cut off takes nobody's place any more.
    if member.key == Some(key) {
        return Ok(());
    }
    if let Some(ago) = servers::answered(portal, &seen, id, member) {
        return Err(Problem::new(
            Code::InUse,
            format!(
                "the name {name} is in use: {}, the server that has it, answered the grid {ago} ago, and its desktops may be in use",
                member.api
            ),
            format!(
                "if this is another machine, choose another name and join as a new server: coppice join ADDRESS TOKEN --name NAME; \
                 if it is to take the place of {name}, stop `coppice serve` on {} first, and try again some seconds later",
                member.api
            ),
        ));
    }
    // Whoever leads has always heard itself.
    if seen
        .standing
        .parts
        .values()
        .all(|part| part.heard.is_none())
    {
        return Err(Problem::new(
            Code::Quorum,
            format!("whoever leads the grid did not say at once whether it hears {name}"),
            "try again some seconds later",
        ));
    }
    Ok(())
}

fn answer(
    portal: &Portal,
    state: &State,
    id: ServerId,
    member: &Server,
    certificate: String,
) -> Result<JoinResponse, Box<Problem>> {
    let grid_key = match member.role {
        Role::Witness => None,
        Role::Server => {
            let key = portal.app.admission.grid_key();
            let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
            let none = || {
                Problem::new(
                    Code::Conflict,
                    "this server is a witness, and has no key of the grid to give",
                    "join through another server: `coppice server list` shows where each answers",
                )
            };
            Some(Digest(key.ok_or_else(none)?))
        }
    };
    let others = state
        .servers
        .iter()
        .filter(|(other, server)| **other != id && server.state != ServerState::Removed);
    let images = state.images.values().flatten();
    Ok(JoinResponse {
        grid: state.grid.unwrap_or(GridId([0; 16])),
        epoch: state.epoch.number,
        recovery: state.epoch.recovery,
        server: id,
        raft_id: member.raft_id,
        certificate,
        authority: portal.app.admission.authority(),
        grid_key,
        members: others
            .map(|(id, server)| JoinMember {
                server: *id,
                name: server.name.clone(),
                raft_id: server.raft_id,
                api: server.api.clone(),
            })
            .collect(),
        images: images.map(|(_, version)| version.data.0).sum(),
        feature_level: state.feature_level,
        time: portal.now(),
    })
}

/// Why a machine did not become a member, for whoever typed `coppice join`.
pub(crate) fn not_joined(refusal: &JoinRefusal) -> Box<Problem> {
    let detail = refusal.to_string();
    let another = |role: &str| {
        format!("ask an admin of the grid for another token: `coppice token create --role {role}`")
    };
    match refusal {
        JoinRefusal::Unknown(_) => Problem::new(Code::Unauthorized, detail, another("server")),
        JoinRefusal::Expired(_) => Problem::new(Code::Unauthorized, detail, another("server")),
        JoinRefusal::Spent { .. } => Problem::new(
            Code::Conflict,
            detail,
            format!(
                "each machine needs a token of its own; {}. To finish a join that was cut off, name the same directory",
                another("server")
            ),
        ),
        JoinRefusal::OtherRole { role, .. } => Problem::new(
            Code::Forbidden,
            detail,
            format!("join as a {role}, or {}", another("ROLE")),
        ),
        JoinRefusal::NameTaken(_) => Problem::new(
            Code::Exists,
            detail,
            "choose another name: --name NAME; if that server is gone for good, remove it first: `coppice server remove NAME --lost`",
        ),
        JoinRefusal::TooOld { .. } => Problem::new(
            Code::Conflict,
            detail,
            "install the version of the program that the grid has, and join again",
        ),
        JoinRefusal::Removed(_) => Problem::new(
            Code::Conflict,
            detail,
            "join anew with an empty directory: --data DIR",
        ),
    }
}

pub(crate) fn not_admitted(error: &AdmissionError) -> Box<Problem> {
    let detail = error.to_string();
    match error {
        AdmissionError::Request(_) => Problem::new(
            Code::Request,
            detail,
            "give host names and addresses with --names that a certificate can carry",
        ),
        AdmissionError::Unreachable(_) => Problem::new(
            Code::Quorum,
            detail,
            "start a server that votes, and try again",
        ),
        AdmissionError::Failed(_) => Problem::internal("sign a certificate", &detail),
    }
}
