//! Who asks, and whether they may.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use coppice_schema::Digest;
use coppice_schema::ids::is_name;
use coppice_schema::units::Timestamp;
use coppice_state::token::{Scope, TokenId};
use governor::clock::MonotonicClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::api::{Code, Problem};
use crate::portal::Portal;

/// Failed attempts that an address has at once, before it must wait.
const FAILURES_BURST: u32 = 20;
/// Failed attempts that it gets back each minute.
const FAILURES_PER_MINUTE: u32 = 20;
/// Addresses remembered before those that have been quiet are forgotten.
const ADDRESSES_KEPT: usize = 10_000;

/// Where a connection comes from; [`crate::serve()`] puts it into each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The token that a request came with.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) name: TokenId,
    /// What it may do.
    pub(crate) scope: Scope,
    /// The hash it was known by: a stream that outlives its token ends by it.
    hash: Digest,
}

impl Who {
    /// What entries name as author.
    pub(crate) fn author(&self) -> String {
        self.name.0.clone()
    }

    /// Whether the token may still be used. Long streams ask now and then.
    pub(crate) fn still_welcome(&self, portal: &Portal) -> bool {
        let state = portal.app.agreement.local();
        state
            .tokens
            .get(&self.name)
            .is_some_and(|token| token.hash == self.hash && !expired(token.expires, portal.now()))
    }
}

/// A bearer token for `name` and its 256 random bits, and the hash under which the grid keeps it: the text is
/// `NAME.HEX`, the hash is BLAKE3 of the 32 bytes.
#[must_use]
pub fn mint(name: &TokenId, random: [u8; 32]) -> (String, Digest) {
    let hex = Digest(random);
    (format!("{name}.{hex}"), Digest::of(&random))
}

/// Takes a bearer token's text apart: its name, and the hash of its secret.
#[must_use]
pub fn parse_token(text: &str) -> Option<(TokenId, Digest)> {
    let (name, hex) = text.rsplit_once('.')?;
    let secret: Digest = hex.parse().ok()?;
    is_name(name).then(|| (TokenId(name.to_owned()), Digest::of(&secret.0)))
}

pub(crate) fn expired(expires: Option<Timestamp>, now: Timestamp) -> bool {
    expires.is_some_and(|at| at <= now)
}

/// Lets a request through if its token's scope suffices; the rest of the request is not read before.
pub(crate) async fn guard(
    State((portal, needed)): State<(Portal, Scope)>,
    mut request: Request,
    next: Next,
) -> Response {
    match admit(&portal, needed, &request) {
        Ok(who) => {
            let path = request.uri().path().to_owned();
            if !request.method().is_safe() {
                tracing::info!(author = %who.name, method = %request.method(), path, "request");
            }
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(problem) => {
            let peer = request.extensions().get::<Peer>().copied();
            failed(&portal, peer, problem).into_response()
        }
    }
}

fn admit(portal: &Portal, needed: Scope, request: &Request) -> Result<Who, Box<Problem>> {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("the request has no token"))?;
    let text = header.to_str().ok().and_then(bearer);
    let (name, hash) = text
        .and_then(parse_token)
        .ok_or_else(|| unauthorized("the token does not have the form NAME.SECRET"))?;
    let state = portal.app.agreement.local();
    let token = state.tokens.get(&name);
    // Unknown names are compared too, so that they cannot be told from known ones by time.
    let held = token.map_or(Digest([0; 32]), |token| token.hash);
    let same = blake3::Hash::from_bytes(held.0) == blake3::Hash::from_bytes(hash.0);
    let Some(token) = token.filter(|_| same) else {
        return Err(unauthorized("the grid does not know this token"));
    };
    if expired(token.expires, portal.now()) {
        return Err(unauthorized(&format!("the token {name} has expired")));
    }
    if token.scope < needed {
        return Err(Problem::new(
            Code::Forbidden,
            format!(
                "the token {name} has the scope {}, and this needs {needed}",
                token.scope
            ),
            format!("ask an admin for a token: `coppice token create NAME --scope {needed}`"),
        ));
    }
    let scope = token.scope;
    Ok(Who { name, scope, hash })
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn unauthorized(detail: &str) -> Box<Problem> {
    Problem::new(
        Code::Unauthorized,
        detail,
        "give a token's file with --token-file or COPPICE_TOKEN_FILE; an admin makes one with `coppice token create`",
    )
}

/// Counts failures of authentication per address. A scope that does not suffice is no such failure. Whoever has a
/// valid token is never refused by this: others behind the same address must not lock them out.
pub(crate) fn failed(portal: &Portal, peer: Option<Peer>, problem: Box<Problem>) -> Box<Problem> {
    if problem.code == Code::Unauthorized && !portal.failures.one_more(peer) {
        return Problem::new(
            Code::TooMany,
            format!("{}, and there were too many such requests", problem.detail),
            "wait a minute, and check the token",
        );
    }
    problem
}

type PerAddress = RateLimiter<
    IpAddr,
    HashMapStateStore<IpAddr>,
    MonotonicClock,
    NoOpMiddleware<std::time::Instant>,
>;

/// Failed attempts by address.
pub(crate) struct Failures(PerAddress);

impl Failures {
    pub(crate) fn new() -> Self {
        let burst = NonZeroU32::new(FAILURES_BURST).unwrap_or(NonZeroU32::MIN);
        let refill = NonZeroU32::new(FAILURES_PER_MINUTE).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(refill).allow_burst(burst);
        Self(RateLimiter::new(
            quota,
            HashMapStateStore::default(),
            MonotonicClock,
        ))
    }

    /// Counts one; `false` when it is one too many.
    fn one_more(&self, peer: Option<Peer>) -> bool {
        if self.0.len() > ADDRESSES_KEPT {
            self.0.retain_recent();
        }
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| network(peer.0));
        self.0.check_key(&address).is_ok()
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

impl FromRequestParts<Portal> for Who {
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, _: &Portal) -> Result<Self, Box<Problem>> {
        let who = parts.extensions.get::<Self>().cloned();
        who.ok_or_else(|| Problem::internal("say who asks", &"a route without a guard"))
    }
}
