//! A grid in memory: strict fakes that refuse what no test asked for.

mod gate;
mod screens;
mod shelf;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use coppice_portal::api::{Code, Problem};
use coppice_portal::{App, mint, router};
use coppice_schema::Digest;
use coppice_schema::desired::{Cache, Display, Firmware, Os, Video};
use coppice_schema::ids::{DesktopId, Epoch, GridId, Incarnation, SecretName, ServerId};
use coppice_schema::known::{
    Capacity, CopyState, DesktopSpec, DiskLevel, Hardware, Health, KnownDesktop, Phase,
};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::{Entry, Envelope, NewServer, Outcome, Report};
use coppice_state::secret::{Keyring, Vault, VaultError};
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Agreement, AgreementError, Leadership, Standing, State, apply};
use coppice_world::clock::Clock;
use coppice_world::peers::Alone;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt;

pub(crate) use gate::{Gate, request_of};
pub(crate) use screens::Screens;
pub(crate) use shelf::{Shelf, root_of};

pub(crate) const TERM: u64 = 3;
pub(crate) const SCOPES: [Scope; 5] = [
    Scope::Viewer,
    Scope::Planner,
    Scope::Helpdesk,
    Scope::Operator,
    Scope::Admin,
];

/// A grid of one server, `a`, and a client for it.
pub(crate) struct World {
    pub(crate) grid: Arc<Grid>,
    pub(crate) clock: Arc<Hands>,
    pub(crate) hypervisor: Arc<Screens>,
    pub(crate) disks: Arc<Shelf>,
    pub(crate) app: App,
    pub(crate) router: Router,
    /// Removed when the world ends.
    _directory: TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: String,
    pub(crate) body: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Hands(watch::channel(1_000_000).0));
        let grid = Arc::new(Grid::founded(Arc::clone(&clock)));
        let hypervisor = Arc::new(Screens::default());
        let directory = TempDir::new().unwrap();
        let disks = Arc::new(Shelf::default());
        let app = App {
            agreement: Arc::clone(&grid) as _,
            clock: Arc::clone(&clock) as _,
            vault: Arc::new(Key),
            keys: Arc::new(Key),
            admission: Arc::new(Gate),
            hypervisor: Arc::clone(&hypervisor) as _,
            disks: Arc::clone(&disks) as _,
            peers: Arc::new(Alone),
            server: grid.server(),
            uploads: directory.path().join("uploads"),
            version: "1.2.3".to_owned(),
        };
        let router = router(app.clone());
        Self {
            grid,
            clock,
            hypervisor,
            disks,
            app,
            router,
            _directory: directory,
        }
    }

    /// Sends a request as the token of `scope`.
    pub(crate) async fn send(
        &self,
        scope: Scope,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let token = format!("Bearer {}", secret(scope));
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::AUTHORIZATION, token)
            .body(body.into())
            .unwrap();
        self.raw(request).await
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let body = response.into_body().collect().await.unwrap();
        Answer {
            status,
            kind,
            body: body.to_bytes().to_vec(),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, scope: Scope, path: &str) -> T {
        self.send(scope, Method::GET, path, Body::empty())
            .await
            .json(StatusCode::OK)
    }

    pub(crate) async fn post(&self, scope: Scope, path: &str, body: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        self.send(scope, Method::POST, path, body).await
    }

    /// The desktop is on another server.
    pub(crate) fn gone_elsewhere(&self, id: &DesktopId) {
        self.grid.edit(|state| {
            let desktops = Arc::make_mut(&mut state.desktops);
            desktops.get_mut(id).unwrap().server = ServerId(99);
        });
    }

    /// Puts a desktop of pool `lab` into the state, as if it had grown, and its domain on the hypervisor.
    pub(crate) fn grow(&self, slot: u32, personal: bool) -> DesktopId {
        let id: DesktopId = format!("lab-{slot:03}").parse().unwrap();
        let member = id.member(Incarnation(1));
        let uuid = id.uuid(GRID, EPOCH, Incarnation(1));
        let spec = DesktopSpec {
            member: member.clone(),
            uuid,
            hostname: format!("pc-{slot}"),
            image: Digest([7; 32]),
            hardware: hardware(),
        };
        self.hypervisor.0.lock().unwrap().push(uuid);
        self.disks
            .0
            .lock()
            .unwrap()
            .overlays
            .push(shelf::overlay(&member));
        let server = self.grid.server();
        self.grid.edit(|state| {
            let since = state.time;
            let desktop = KnownDesktop {
                incarnation: Incarnation(1),
                server,
                spec,
                phase: Phase::Available { since },
                personal,
                failures: Default::default(),
                grown: since,
                wear: Default::default(),
                stayed: Default::default(),
                restored_from: None,
            };
            Arc::make_mut(&mut state.desktops).insert(id.clone(), desktop);
        });
        id
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self, status: StatusCode) -> T {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The answer as the problem it must be.
    #[track_caller]
    pub(crate) fn problem(&self, code: Code) -> Problem {
        assert_eq!(self.kind, "application/problem+json", "{}", self.text());
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.code, code, "{}", self.text());
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(self.status.as_u16(), code.status());
        assert!(!problem.help.is_empty() && !problem.detail.is_empty());
        problem
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The bearer token of the fixed token of a scope.
pub(crate) fn secret(scope: Scope) -> String {
    minted(scope).1.0
}

fn minted(scope: Scope) -> (TokenId, (String, Digest)) {
    let id = TokenId(format!("test-{scope}"));
    let random = [u8::try_from(scope as usize).unwrap() + 1; 32];
    let minted = mint(&id, random);
    (id, minted)
}

pub(crate) const GRID: GridId = GridId([5; 16]);
pub(crate) const EPOCH: Epoch = Epoch {
    number: 1,
    recovery: 0,
};

/// An agreement of one, in memory.
pub(crate) struct Grid {
    state: Mutex<Arc<State>>,
    applied: watch::Sender<u64>,
    clock: Arc<Hands>,
    /// No majority answers.
    pub(crate) alone: AtomicBool,
    /// And that was found out by asking.
    pub(crate) degraded: Mutex<Option<Timestamp>>,
    /// Servers that were met and are of another life of the grid.
    pub(crate) apart: Mutex<BTreeMap<ServerId, Epoch>>,
    /// Who takes part in the log.
    pub(crate) standing: Mutex<Standing>,
}

impl Grid {
    fn founded(clock: Arc<Hands>) -> Self {
        let grid = Self {
            state: Mutex::default(),
            applied: watch::channel(0).0,
            clock,
            alone: AtomicBool::new(false),
            degraded: Mutex::default(),
            apart: Mutex::default(),
            standing: Mutex::default(),
        };
        let token = |scope| {
            let (id, (_, hash)) = minted(scope);
            let token = Token {
                hash,
                scope,
                created: Timestamp(1),
                expires: None,
            };
            (id, token)
        };
        grid.agree(Entry::Founded {
            grid: GRID,
            epoch: EPOCH,
            server: NewServer {
                name: "a".parse().unwrap(),
                raft_id: 1,
                api: "a.example:7420".to_owned(),
            },
            token: token(Scope::Admin),
        });
        for scope in &SCOPES[..4] {
            let (id, token) = token(*scope);
            let author = "test".to_owned();
            grid.agree(Entry::TokenCreated { id, token, author });
        }
        let capacity = Capacity {
            cpus: 8,
            memory: Size::gib(32),
            disk: Size::gib(500),
            hypervisor: "fake".to_owned(),
            ..Default::default()
        };
        grid.agree(Entry::ServerDescribed {
            server: grid.server(),
            labels: Default::default(),
            capacity,
            api: "a.example:7420".to_owned(),
            feature_level: 1,
        });
        grid.report(BTreeMap::new());
        grid
    }

    /// The server says what images it has, whole.
    pub(crate) fn report(&self, images: BTreeMap<Digest, Option<CopyState>>) {
        let look = self.now().servers[&self.server()].look.clone();
        let outcome = self.agree(Entry::Reported(Box::new(Report {
            server: self.server(),
            boot: 1,
            sequence: look.map_or(0, |look| look.sequence) + 1,
            members: BTreeMap::new(),
            images,
            foreign: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            replicas: BTreeMap::new(),
            disk: DiskLevel::Fine,
            hypervisor: Health::Well,
        })));
        assert_eq!(outcome, Outcome::Done);
    }

    pub(crate) fn server(&self) -> ServerId {
        *self.now().servers.keys().next().unwrap()
    }

    pub(crate) fn now(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap())
    }

    pub(crate) fn agree(&self, entry: Entry) -> Outcome {
        let mut state = self.state.lock().unwrap();
        let index = state.index + 1;
        let at = self.clock.now();
        let outcome = apply(
            Arc::make_mut(&mut state),
            TERM,
            index,
            &Envelope { at, entry },
        );
        self.applied.send_replace(index);
        outcome
    }

    /// Changes the state behind the log's back, to get where a test begins.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(Arc::make_mut(&mut state));
        self.applied.send_modify(|index| *index += 1);
    }

    fn quorum(&self) -> Result<(), AgreementError> {
        if self.alone.load(Ordering::SeqCst) {
            return Err(AgreementError::NoQuorum("1 of 3".to_owned()));
        }
        Ok(())
    }
}

impl Agreement for Grid {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        ready(self.quorum().map(|()| self.agree(entry))).boxed()
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        ready(self.quorum().map(|()| self.now())).boxed()
    }

    fn local(&self) -> Arc<State> {
        self.now()
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        let mut applied = self.applied.subscribe();
        applied.mark_unchanged();
        stream::unfold(applied, async |mut applied| {
            applied.changed().await.ok()?;
            let index = *applied.borrow_and_update();
            Some((index, applied))
        })
        .boxed()
    }

    fn leadership(&self) -> Leadership {
        match self.quorum() {
            Ok(()) => Leadership::Here { term: TERM },
            Err(_) => Leadership::Nobody,
        }
    }

    fn degraded(&self) -> Option<Timestamp> {
        *self.degraded.lock().unwrap()
    }

    fn apart(&self) -> BTreeMap<ServerId, Epoch> {
        self.apart.lock().unwrap().clone()
    }

    fn standing(&self) -> Standing {
        self.standing.lock().unwrap().clone()
    }
}

/// A clock that stands until a test moves it.
pub(crate) struct Hands(watch::Sender<u64>);

impl Hands {
    pub(crate) fn pass(&self, span: Span) {
        self.0.send_modify(|now| *now += span.0);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(*self.0.borrow())
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        let mut hands = self.0.subscribe();
        let until = *self.0.borrow() + span.0;
        async move {
            if hands.wait_for(|now| *now >= until).await.is_err() {
                futures::future::pending().await
            }
        }
        .boxed()
    }
}

/// A key that seals by saying so.
pub(crate) struct Key;

impl Keyring for Key {
    fn seal(&self, passphrase: &str) -> Result<Vec<u8>, String> {
        if passphrase == "nothing here" {
            return Err("this server does not have them".to_owned());
        }
        Ok(passphrase.bytes().rev().collect())
    }
}

impl Vault for Key {
    fn seal(&self, name: &SecretName, value: &[u8]) -> Vec<u8> {
        let mut sealed = format!("sealed for {name}: ").into_bytes();
        sealed.extend(value.iter().map(|byte| byte ^ 0xff));
        sealed
    }

    fn open(&self, name: &SecretName, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let prefix = format!("sealed for {name}: ").into_bytes();
        let value = sealed
            .strip_prefix(&prefix[..])
            .ok_or(VaultError(name.clone()))?;
        Ok(value.iter().map(|byte| byte ^ 0xff).collect())
    }

    fn tag(&self, purpose: &'static str, bytes: &[u8]) -> Digest {
        Digest::of(&[purpose.as_bytes(), b"\0key\0", bytes].concat())
    }
}

fn hardware() -> Hardware {
    Hardware {
        cpus: 1,
        memory: Size::mib(256),
        disk: Size::gib(1),
        disk_limit: None,
        firmware: Firmware::Bios,
        networks: Vec::new(),
        displays: [Display::Vnc].into(),
        video: Video::Vga,
        cache: Cache::Writeback,
        os: Os::Linux,
        agent: true,
        libvirt_xml: None,
    }
}
