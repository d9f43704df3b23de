//! Tokens: made, shown once, revoked.

use axum::http::StatusCode;
use coppice_schema::ids::is_name;
use coppice_state::entry::Entry;
use coppice_state::token::{Token, TokenId};

use crate::api::{Code, Problem, TokenCreated, TokenInfo, TokenRequest};
use crate::auth::{Who, expired, mint};
use crate::bodies::Json;
use crate::params::Named;
use crate::portal::Portal;

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", responses((status = 200, body = Vec<TokenInfo>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<TokenInfo>> {
    let state = portal.look().await.state;
    let each = |(name, token): (&TokenId, &Token)| info(&portal, name, token);
    axum::Json(state.tokens.iter().map(each).collect())
}

/// Makes a token. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = TokenRequest, responses(
    (status = 201, body = TokenCreated), (status = 409, body = Problem)))]
pub(crate) async fn create(
    portal: Portal,
    who: Who,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, axum::Json<TokenCreated>), Box<Problem>> {
    if !is_name(&request.name) {
        return Err(Problem::new(
            Code::Request,
            "the token's name is not one",
            "use lower-case letters, digits, '-' and '_', at most 40 characters",
        ));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| Problem::internal("draw random bits", &error))?;
    let id = TokenId(request.name);
    let (text, hash) = mint(&id, random);
    let now = portal.now();
    let token = Token {
        hash,
        scope: request.scope,
        created: now,
        expires: request.expires_in.map(|span| now.after(span)),
    };
    let info = info(&portal, &id, &token);
    let entry = Entry::TokenCreated {
        id,
        token,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok((
        StatusCode::CREATED,
        axum::Json(TokenCreated { token: text, info }),
    ))
}

/// Revokes a token: it is refused from the next request on, and its streams end.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", params(("name" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn revoke(
    portal: Portal,
    who: Who,
    Named(name): Named<String>,
) -> Result<StatusCode, Box<Problem>> {
    let id = TokenId(name);
    let state = portal.look_surely().await?.state;
    if !state.tokens.contains_key(&id) && !state.join_tokens.contains_key(&id) {
        let short: String = id.0.chars().take(80).collect();
        return Err(Problem::absent(
            format!("token {short}"),
            "`coppice token list` shows all of them",
        ));
    }
    let entry = Entry::TokenRevoked {
        id,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(portal: &Portal, name: &TokenId, token: &Token) -> TokenInfo {
    TokenInfo {
        name: name.clone(),
        scope: token.scope,
        created: token.created,
        expires: token.expires,
        expired: expired(token.expires, portal.now()),
    }
}
