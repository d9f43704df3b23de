//! `coppice join`: make this machine a server of a grid that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coppice_grid::wire::{WIRE, WIRE_OLDEST};
use coppice_grid::{Enrolment, Grid, GridKey, Introduction, Member};
use coppice_portal::api::{
    CLOCKS_APART, Code, JoinRequest, JoinResponse, JoinSecret, NotAJoinToken,
};
use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, ServerId, ServerName};
use coppice_schema::units::{Size, Timestamp};
use coppice_state::join::Role;
use coppice_state::state::FEATURE_LEVEL;

use crate::begin::{self, absolute, address, host_name, hypervisor_uri, reachable};
use crate::client::{ClientError, Introduced, NotIntroduced, Target, refused};
use crate::config;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::times;

/// Make this machine a server of a grid that is there
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Asks nothing else: the token says which grid may be trusted, and the grid gives this machine \
its certificate, its place and everything that it must know. Nothing runs yet: `coppice serve` does. \
Run it again if it was cut off; it goes on where it stopped.

Examples:
  coppice join 10.0.0.5 TOKEN                     TOKEN is the line of `coppice token create --role server`
  coppice join host-1.example.org:7443 TOKEN --data /srv/coppice --name host-2
  coppice join 10.0.0.5 TOKEN --listen 0.0.0.0:7443 --names desk.example.org
  coppice join 10.0.0.5 TOKEN --witness           with the line of `coppice token create --role witness`"
)]
pub(crate) struct Args {
    /// Any server of the grid: HOST or HOST:PORT
    #[arg(value_parser = target)]
    pub(crate) address: Target,
    /// The line that `coppice token create --role server` printed; with --witness: `--role witness`
    pub(crate) token: String,
    /// An empty directory, or one that is yet to be made
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coppice")]
    pub(crate) data: PathBuf,
    /// This server's name; without it, the host name
    #[arg(long)]
    pub(crate) name: Option<ServerName>,
    /// Where the API answers; without it, this machine's address on the way to the grid, port 7443
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where the other servers reach this one, if that is elsewhere
    #[arg(long, value_name = "HOST:PORT", value_parser = advertised)]
    pub(crate) advertise: Option<String>,
    /// Other names and addresses under which clients reach this server, for its certificate
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = reachable)]
    pub(crate) names: Vec<String>,
    /// What runs the desktops; without it, qemu:///embed?root=DIR/h
    #[arg(long, value_name = "URI")]
    pub(crate) hypervisor: Option<String>,
    /// Only vote, beside two servers; the token must be for a witness
    #[arg(long, conflicts_with = "hypervisor")]
    pub(crate) witness: bool,
}

/// A log and its snapshots take about as much; more than a witness ever needs.
const SPACE: Size = Size::gib(1);

/// A server whose place is taken is silent for the grid within that time, if it was stopped.
const SILENT_WITHIN: Duration = Duration::from_secs(8);

pub(crate) fn target(text: &str) -> Result<Target, String> {
    let expected =
        "expected a host, and perhaps a port, such as 10.0.0.5 or host-1.example.org:7443";
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let bare = bare.trim_end_matches('/');
    let (host, port) = match crate::names::host_and_port(bare) {
        Some(found) => found,
        None if coppice_grid::authority::can_be_named(bare) => (bare.to_owned(), 7443),
        None => return Err(expected.to_owned()),
    };
    Ok(Target { host, port })
}

fn advertised(text: &str) -> Result<String, String> {
    let expected = "expected a host and a port, such as host-2.example.org:7443";
    crate::names::host_and_port(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| expected.to_owned())
}

/// What came of it.
#[derive(serde::Serialize)]
pub(super) struct Joined {
    grid: GridId,
    server: ServerName,
    id: Option<ServerId>,
    role: Role,
    config: PathBuf,
    ca: PathBuf,
    /// It was a member before.
    already: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let joined = enter(args, None, settings, screen).await?;
    told(&joined, screen)
}

/// As the member of that name, come back without its log, in a directory that holds what is in `kept` beside.
pub(crate) async fn run_again(
    args: Args,
    kept: &[PathBuf],
    settings: &Settings,
    screen: &Screen,
) -> Ended {
    let joined = enter(args, Some(kept), settings, screen).await?;
    told(&joined, screen)
}

/// Joins; where a machine is a member already, that is all.
pub(super) async fn enter(
    args: Args,
    former: Option<&[PathBuf]>,
    settings: &Settings,
    screen: &Screen,
) -> Result<Joined, Failure> {
    let again = former.is_some();
    let kept = former.unwrap_or_default();
    let token = read_token(&args)?;
    let data = absolute(&args.data)?;
    let layout = Layout::new(&data);
    if let Some(joined) = member_already(&layout, &token)? {
        return Ok(joined);
    }
    let name = args.name.clone().map_or_else(host_name, Ok)?;
    let hypervisor = match token.role {
        Role::Server => Some(hypervisor_uri(args.hypervisor.clone(), &layout)?),
        Role::Witness => None,
    };
    room(&data)?;
    let introduced = Introduced::at(args.address.clone(), &token, settings.timeout)
        .await
        .map_err(|e| not_introduced(e, &args.address, token.role))?;
    compatible(&introduced)?;
    let enrolment = claim(&data, &layout, &token, kept)?;
    let here = Here::of(&args, introduced.from);
    let names = args.names.iter().cloned().collect::<BTreeSet<_>>();
    let request = JoinRequest {
        token: token.token.clone(),
        secret: token.secret,
        request: enrolment.request().to_owned(),
        name: name.clone(),
        role: token.role,
        api: here.api.clone(),
        names: crate::names::of(here.listen.ip(), &names),
        wire: WIRE,
        wire_oldest: WIRE_OLDEST,
        feature_level: FEATURE_LEVEL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: times::now(),
        again,
    };
    let answer = ask(&introduced, &request, screen)
        .await
        .map_err(|e| not_joined(e, &args.address))?;
    warn(&answer, &data, token.role, screen);
    let text = config::text(&config::Chosen {
        data: &data,
        name: &name,
        listen: here.listen,
        advertise: args.advertise.as_deref(),
        names: &names,
        hypervisor: hypervisor.as_deref(),
    });
    keep(&layout, &enrolment, &answer, &text).await?;
    Ok(Joined {
        grid: answer.grid,
        server: name,
        id: Some(answer.server),
        role: token.role,
        config: layout.config(),
        ca: layout.ca(),
        already: false,
    })
}

/// Asks for a place. A server that was stopped just now is told from one that runs by its silence, which takes a moment.
async fn ask(
    introduced: &Introduced,
    request: &JoinRequest,
    screen: &Screen,
) -> Result<JoinResponse, ClientError> {
    let patience = Instant::now() + SILENT_WITHIN;
    let mut told = false;
    loop {
        let answer: Result<JoinResponse, ClientError> =
            introduced.client.post("/join", request).await;
        let answers =
            matches!(&answer, Err(ClientError::Problem(problem)) if problem.code == Code::InUse);
        if !answers || !request.again || Instant::now() >= patience {
            return answer;
        }
        if !told {
            screen.note(&format!(
                "a server named {} answered the grid a moment ago: waiting for up to {} until it is silent",
                request.name,
                duration(SILENT_WITHIN)
            ));
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn read_token(args: &Args) -> Result<JoinSecret, Failure> {
    let wrong = |why: &NotAJoinToken| {
        Failure::usage("the token cannot be used to join")
            .because(why)
            .hint(format!(
                "copy the whole line that `coppice token create --role {}` printed on a server of the grid",
                if args.witness { Role::Witness } else { Role::Server }
            ))
    };
    let token: JoinSecret = args.token.parse().map_err(|e| match e {
        NotAJoinToken::Newer(_) => {
            wrong(&e).hint("or install the version of the program that the grid has")
        }
        NotAJoinToken::Api | NotAJoinToken::Part(_) | NotAJoinToken::Other => wrong(&e),
    })?;
    let other = |what: &str| {
        Failure::usage(format!(
            "the join token {} is for a {}, and {what}",
            token.token, token.role
        ))
    };
    match token.role {
        Role::Server if args.witness => Err(other("--witness was given")
            .hint("coppice token create --role witness, on a server of the grid")
            .hint("or leave --witness out, to join as a server")),
        Role::Witness if args.hypervisor.is_some() => Err(other("a witness has no hypervisor")
            .hint("leave --hypervisor out, to join as a witness")
            .hint("or, on a server of the grid: coppice token create --role server")),
        Role::Server | Role::Witness => Ok(token),
    }
}

/// Where this server answers.
struct Here {
    listen: SocketAddr,
    api: String,
}

impl Here {
    /// By what was given, and this machine's address on the way to the grid.
    fn of(args: &Args, from: IpAddr) -> Self {
        let listen = args.listen.unwrap_or(SocketAddr::new(from, 7443));
        let seen = if listen.ip().is_unspecified() {
            SocketAddr::new(from, listen.port())
        } else {
            listen
        };
        Self {
            listen,
            api: args.advertise.clone().unwrap_or_else(|| seen.to_string()),
        }
    }
}

/// A directory in which a join was finished before: of the same grid it is done, of another it is refused.
fn member_already(layout: &Layout, token: &JoinSecret) -> Result<Option<Joined>, Failure> {
    if layout.begun().exists() || !layout.config().exists() {
        return Ok(None);
    }
    let config = config::load(&layout.config())?;
    let ca = std::fs::read(layout.ca()).unwrap_or_default();
    if !coppice_grid::authority::fingerprints(&ca).contains(&token.authority) {
        return Err(begin::occupied(&layout.data(), layout));
    }
    let grid = coppice_grid::directory::whose(&layout.grid())
        .map_err(|e| Failure::new("cannot read whose the directory is").because(&e))?;
    Ok(Some(Joined {
        grid,
        server: config.name,
        id: None,
        role: if config.witness {
            Role::Witness
        } else {
            Role::Server
        },
        config: layout.config(),
        ca: layout.ca(),
        already: true,
    }))
}

/// Takes the directory. What an earlier attempt to join the same grid left keeps its key, so that the grid knows it.
fn claim(
    data: &Path,
    layout: &Layout,
    token: &JoinSecret,
    beside: &[PathBuf],
) -> Result<Enrolment, Failure> {
    let mark = format!("{}\n", token.authority);
    let before = std::fs::read_to_string(layout.joining()).unwrap_or_default();
    let mut kept = beside.to_vec();
    if before == mark {
        kept.push(layout.identity());
    }
    begin::claim(data, layout, &kept)?;
    std::fs::write(layout.joining(), &mark).map_err(|e| {
        Failure::new(format!("cannot write {}", layout.joining().display())).because(&e)
    })?;
    Enrolment::begin(&layout.identity())
        .map_err(|e| Failure::new("cannot make this server's key").because(&e))
}

/// Keeps all that the grid gave. Whatever is cut off is done again by the next attempt.
async fn keep(
    layout: &Layout,
    enrolment: &Enrolment,
    answer: &JoinResponse,
    config: &str,
) -> Result<(), Failure> {
    let failed = |what: &str, e: &dyn std::error::Error| {
        Failure::new(what).because(e).hint(
            "this machine has its place in the grid; run the same command again when that is mended",
        )
    };
    let identity = layout.identity();
    enrolment
        .finish(&identity, &answer.authority, &answer.certificate)
        .map_err(|e| failed("cannot keep this server's certificate", &e))?;
    if let Some(Digest(key)) = answer.grid_key {
        GridKey::adopt(&identity, &key).map_err(|e| failed("cannot keep the grid's key", &e))?;
    }
    Grid::enter(&layout.grid(), introduction(answer))
        .await
        .map_err(|e| failed("cannot prepare this server's log", &e))?;
    begin::write(&layout.ca(), &answer.authority, 0o644)?;
    begin::write(&layout.config(), config, 0o644)?;
    begin::finish(layout)?;
    // Last of all: it is by this that an attempt which was cut off before keeps its key.
    std::fs::remove_file(layout.joining())
        .map_err(|e| failed("cannot finish the data directory", &e))
}

fn introduction(answer: &JoinResponse) -> Introduction {
    let each = |member: &coppice_portal::api::JoinMember| {
        let known = Member {
            raft_id: member.raft_id,
            address: member.api.clone(),
        };
        (member.server, known)
    };
    Introduction {
        grid: answer.grid,
        epoch: Epoch {
            number: answer.epoch,
            recovery: answer.recovery,
        },
        server: answer.server,
        raft_id: answer.raft_id,
        members: answer.members.iter().map(each).collect::<BTreeMap<_, _>>(),
    }
}

/// Bytes that are free where `path` is, or is to be.
fn free(path: &Path) -> io::Result<Size> {
    let mut there = path;
    while !there.exists() {
        there = there.parent().ok_or(io::ErrorKind::NotFound)?;
    }
    let stat = rustix::fs::statvfs(there)?;
    Ok(Size(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// A log that fills its disk ends its server: better not to begin.
fn room(data: &Path) -> Result<(), Failure> {
    let free = free(data).map_err(|e| {
        Failure::new(format!(
            "cannot use {} as the data directory",
            data.display()
        ))
        .because(&e)
        .hint("name a directory that you may write: --data DIR")
    })?;
    if free >= SPACE {
        return Ok(());
    }
    Err(Failure::new(format!(
        "there is not enough space for a server in {}: {} are free, and the grid's log and state may take {}",
        data.display(),
        free.rounded(),
        SPACE.rounded()
    ))
    .hint("make space there, or name a directory on a larger disk: --data DIR"))
}

fn compatible(introduced: &Introduced) -> Result<(), Failure> {
    let terms = &introduced.terms;
    if terms.wire >= WIRE_OLDEST && WIRE >= terms.wire_oldest {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the grid's version ({}) and this one ({}) do not understand each other",
        terms.version,
        env!("CARGO_PKG_VERSION")
    ))
    .hint("install the version of the program that the grid has, and join again"))
}

/// What the person should know, although it hinders nothing.
fn warn(answer: &JoinResponse, data: &Path, role: Role, screen: &Screen) {
    let warning = screen.error_colours.warn("warning:");
    let apart = times::now().apart(answer.time);
    if apart > CLOCKS_APART {
        screen.note(&format!(
            "{warning} this machine's clock is {} {} the grid's: set both by NTP. The grid puts nothing in order by it, but people read it",
            times::length(apart),
            side(times::now(), answer.time)
        ));
    }
    let needed = Size(answer.images);
    match free(data) {
        Ok(free) if role == Role::Server && free < needed => screen.note(&format!(
            "{warning} the grid's images take {}, and {} are free in {}: desktops of images that have no room here will be on other servers",
            needed.rounded(),
            free.rounded(),
            data.display()
        )),
        Ok(_) | Err(_) => {}
    }
}

fn side(mine: Timestamp, theirs: Timestamp) -> &'static str {
    if mine > theirs { "ahead of" } else { "behind" }
}

fn not_introduced(error: NotIntroduced, target: &Target, role: Role) -> Failure {
    match error {
        NotIntroduced::Client(error) => not_joined(error, target),
        NotIntroduced::OtherGrid(_) => Failure::new(format!(
            "the grid at {target} is not the one that made this token; nothing was told to it"
        ))
        .hint("give the address of a server of the grid on which `coppice token create` was run")
        .hint(format!("or make a token on this one: coppice token create --role {role}")),
        NotIntroduced::OldToken(_) => Failure::new(format!(
            "the token cannot be used any more: the grid at {target} has another authority by now than when it was made"
        ))
        .hint(format!("make another, on a server of the grid: coppice token create --role {role}")),
        NotIntroduced::Ours(failure) => failure,
    }
}

/// What went wrong between this machine and the one that was named.
fn not_joined(error: ClientError, target: &Target) -> Failure {
    let no_grid = |cause: String| {
        Failure::new(format!("what answers at {target} is no server of a grid"))
            .cause(cause)
            .hint("give the address of `listen` in the coppice.toml of one of its servers: coppice join HOST:PORT TOKEN")
    };
    match error {
        ClientError::Connect { kind, cause, .. } => {
            let failure = Failure::new(format!("nothing answers at {target}")).cause(cause);
            if kind == io::ErrorKind::ConnectionRefused {
                return failure
                    .hint("is `coppice serve` running there, and on that port?")
                    .hint("a server that listens on 127.0.0.1 is reached by nobody else: set `listen` in its coppice.toml");
            }
            failure.hint("check the address, and whether a firewall is in between: coppice join HOST:PORT TOKEN")
        }
        ClientError::Slow { after, .. } => Failure::new(format!(
            "{target} did not answer within {}",
            duration(after)
        ))
        .hint("check the address, and whether a firewall is in between")
        .hint(
            "or give it longer: --timeout 2m. Running the command again goes on where it stopped",
        ),
        ClientError::Tls { cause, .. } if expired(&cause) => Failure::new(format!(
            "the certificate of {target} is not valid at this machine's time, which is {}",
            times::absolute(times::now())
        ))
        .cause(cause)
        .hint("set this machine's clock, and join again: date; timedatectl set-ntp true"),
        ClientError::Tls { cause, .. } | ClientError::Answer { cause, .. } => no_grid(cause),
        ClientError::Broken { cause, .. } => {
            Failure::new(format!("the connection to {target} broke"))
                .cause(cause)
                .hint("run the command again: it goes on where it stopped")
        }
        ClientError::Problem(problem)
            if problem.code == Code::Absent
                && problem.status == 404
                && problem.detail.contains("/join") =>
        {
            Failure::new(format!(
                "the server at {target} is of a version that takes no other servers"
            ))
            .hint("install a newer version of the program there first")
        }
        ClientError::Problem(problem) => refused(*problem),
    }
}

fn expired(cause: &str) -> bool {
    ["xpired", "NotValidYet", "not valid yet"]
        .iter()
        .any(|word| cause.contains(word))
}

fn duration(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn told(joined: &Joined, screen: &Screen) -> Ended {
    screen.value(joined)?;
    let what = if joined.already {
        format!(
            "nothing to do: this is {} of grid {} already",
            joined.server, joined.grid
        )
    } else {
        format!(
            "{} grid {}, as {} {}",
            screen.colours.good("joined:"),
            joined.grid,
            joined.role,
            joined.server
        )
    };
    let config = joined.config.display();
    screen.text(&format!("{what}\n  {config:<40} this server's file\n"));
    screen.advise(&format!("coppice serve --config {config}"));
    Ok(Exit::Done)
}
