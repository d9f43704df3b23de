//! What the code of a room never touches, each with what takes its place.
//!
//! Tests inside a room are free: they may read files and clocks to set their scene.

use crate::tokens::Facts;
use crate::{nothing_in, repository};

/// Which paths a ban is about.
enum Banned {
    /// It, and all inside, except these names directly inside.
    Under(&'static str, &'static [&'static str]),
    /// Any path of two segments or more with this last one.
    Ending(&'static str),
    /// This word anywhere.
    Word(&'static str),
}
use Banned::{Ending, Under, Word};

struct Ban {
    what: Banned,
    instead: &'static str,
}

const CLOCK: &str =
    "take the moment as an argument (schema's Timestamp); whose it is, the caller knows";
const FILES: &str =
    "the caller reads, and brings text or bytes; files are behind Disks of coppice-world";
const RUNTIME: &str = "be generic over openraft's AsyncRuntime, or put it in an adapter listed in tests/tidy/purity.rs";
const ADDRESSES: &[&str] = &[
    "AddrParseError",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
];

/// The rooms that take values and return values.
const PURE_ROOMS: [&str; 3] = ["coppice-schema", "coppice-plans", "coppice-state"];
const PURE: &[Ban] = &[
    Ban {
        what: Under("std::time::SystemTime", &[]),
        instead: CLOCK,
    },
    Ban {
        what: Under("std::time::Instant", &[]),
        instead: CLOCK,
    },
    Ban {
        what: Ending("now"),
        instead: CLOCK,
    },
    Ban {
        what: Under("std::fs", &[]),
        instead: FILES,
    },
    Ban {
        what: Under("std::env", &[]),
        instead: "take the value as an argument; engine/coppice reads the environment",
    },
    Ban {
        what: Under("std::net", ADDRESSES),
        instead: "connections are behind a port of coppice-world",
    },
    Ban {
        what: Under("std::process", &[]),
        instead: "programs are run by an adapter of coppice-world",
    },
    Ban {
        what: Under("std::thread", &[]),
        instead: "be a function; the caller decides where it runs",
    },
    Ban {
        what: Under("std::collections::HashMap", &[]),
        instead: "BTreeMap: the order of iteration must not be random",
    },
    Ban {
        what: Under("std::collections::HashSet", &[]),
        instead: "BTreeSet: the order of iteration must not be random",
    },
    Ban {
        what: Under("rand", &[]),
        instead: "take the random value as an argument; it comes with the log entry",
    },
    Ban {
        what: Under("getrandom", &[]),
        instead: "take the random value as an argument; it comes with the log entry",
    },
    Ban {
        what: Ending("new_v4"),
        instead: "take the id as an argument; it comes with the log entry",
    },
    Ban {
        what: Ending("now_v7"),
        instead: "take the id as an argument; it comes with the log entry",
    },
    Ban {
        what: Under("tokio", &[]),
        instead: "be a function, or use std's futures; a runtime belongs to adapters",
    },
];

/// The rooms that also run in the simulated runtime.
const SIMULATED_ROOMS: [&str; 3] = ["coppice-grid", "coppice-reconcile", "coppice-broker"];
const SIMULATED: &[Ban] = &[
    Ban {
        what: Under("tokio::time", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::spawn", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::task", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::runtime", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::fs", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::net", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("tokio::process", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Under("std::thread", &[]),
        instead: RUNTIME,
    },
    Ban {
        what: Word("spawn_blocking"),
        instead: RUNTIME,
    },
    Ban {
        what: Under("std::time::SystemTime", &[]),
        instead: "Clock of coppice-world",
    },
    Ban {
        what: Under("std::time::Instant", &[]),
        instead: "Clock of coppice-world",
    },
];

/// Of these, the rooms that own no file and no wire. Agreement does: its log, its keys, its connections.
const PORTS_ONLY_ROOMS: [&str; 2] = ["coppice-reconcile", "coppice-broker"];
const PORTS_ONLY: &[Ban] = &[
    Ban {
        what: Under("std::env", &[]),
        instead: "take the value as an argument; engine/coppice reads the environment",
    },
    Ban {
        what: Under("std::fs", &[]),
        instead: "Disks of coppice-world",
    },
    Ban {
        what: Under("std::net", ADDRESSES),
        instead: "Peers of coppice-world",
    },
    Ban {
        what: Under("std::process", &[]),
        instead: "programs are run by an adapter of coppice-world",
    },
];

/// Adapters of those rooms: files that meet the real runtime, and why. They have simulated twins.
const ADAPTER_FILES: &[(&str, &str)] = &[
    (
        "engine/grid/src/dial.rs",
        "connects over TCP and TLS; its twin is any Dial or Link of a simulation",
    ),
    (
        "engine/grid/src/grid.rs",
        "opens the real store under the real runtime; the simulated grid opens its twin",
    ),
    (
        "engine/grid/src/log.rs",
        "the log on fjall, whose calls block; its twin is in memory",
    ),
    (
        "engine/grid/src/log/open.rs",
        "starts the one thread that writes the log on fjall; its twin is in memory",
    ),
    (
        "engine/grid/src/log/writer.rs",
        "that thread; it times only how long marks of the log may wait",
    ),
    (
        "engine/grid/src/snapshots.rs",
        "snapshots as files, whose calls block; their twin is in memory",
    ),
];
fn is_banned(ban: &Banned, segments: &[String]) -> bool {
    match ban {
        Under(path, except) => {
            let mut rest = segments.iter();
            let inside = path
                .split("::")
                .all(|part| rest.next().is_some_and(|segment| segment == part));
            inside
                && !rest
                    .next()
                    .is_some_and(|next| except.contains(&next.as_str()))
        }
        Ending(word) => {
            segments.len() > 1 && segments.last().is_some_and(|segment| segment == word)
        }
        Word(word) => segments.iter().any(|segment| segment == word),
    }
}

fn complaints(bans: &[Ban], file: &str, facts: &Facts) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in facts.paths.iter().filter(|path| !path.test_only) {
        for ban in bans
            .iter()
            .filter(|ban| is_banned(&ban.what, &path.segments))
        {
            complaints.push(format!(
                "{file}:{}: `{}`: {}",
                path.line,
                path.segments.join("::"),
                ban.instead
            ));
        }
    }
    complaints
}

/// As [`complaints`], with files that are excepted, and complaints about exceptions that excuse nothing.
fn with_exceptions<'a>(
    bans: &[Ban],
    sources: impl Iterator<Item = (&'a str, &'a Facts)>,
    exceptions: &[(&str, &str)],
) -> Vec<String> {
    let mut found = Vec::new();
    let mut excused = Vec::new();
    for (file, facts) in sources {
        let new = complaints(bans, file, facts);
        match exceptions.iter().find(|(excepted, _)| *excepted == file) {
            Some(_) if !new.is_empty() => excused.push(file),
            Some(_) | None => found.extend(new),
        }
    }
    let stale = exceptions
        .iter()
        .filter(|(file, _)| !excused.contains(file));
    found.extend(stale.map(|(file, _)| {
        format!("{file}: excepted, and needs it no longer: remove it from the list")
    }));
    found.extend(
        exceptions
            .iter()
            .filter(|(_, reason)| reason.len() < 20)
            .map(|(file, _)| format!("{file}: excepted without a reason")),
    );
    found
}

fn of_rooms<'a>(rooms: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a Facts)> {
    let wanted = |source: &&repository::Source| {
        !source.test_only && rooms.contains(&source.package.as_str())
    };
    repository::sources()
        .iter()
        .filter(wanted)
        .map(|source| (source.file.as_str(), &source.facts))
}

#[test]
fn pure_rooms_touch_nothing() {
    nothing_in(with_exceptions(PURE, of_rooms(&PURE_ROOMS), &[]));
}

#[test]
fn simulated_rooms_know_no_real_runtime() {
    nothing_in(with_exceptions(
        SIMULATED,
        of_rooms(&SIMULATED_ROOMS),
        ADAPTER_FILES,
    ));
}

#[test]
fn rooms_of_ports_open_nothing_themselves() {
    nothing_in(with_exceptions(
        PORTS_ONLY,
        of_rooms(&PORTS_ONLY_ROOMS),
        &[],
    ));
}

fn planted(bans: &[Ban], text: &str) -> Vec<String> {
    complaints(
        bans,
        "planted.rs",
        &crate::tokens::facts(text).expect("planted Rust"),
    )
}

#[test]
fn planted_impurities_are_found() {
    for text in [
        "use std::time::SystemTime;",
        "fn f() { std::time::Instant::now(); }",
        "fn f() { jiff::Timestamp::now(); }",
        "use std::{collections::BTreeMap, fs};",
        "fn f() { m!(std::env::var(\"A\")) }",
        "use std::net::TcpStream;",
        "use std::collections::HashMap;",
        "fn f() { rand::random() }",
        "fn f() { uuid::Uuid::new_v4() }",
        "use tokio::sync::mpsc;",
    ] {
        assert!(!planted(PURE, text).is_empty(), "{text}");
    }
    assert_eq!(
        planted(
            PURE,
            "use std::net::{IpAddr, Ipv4Addr}; use std::time::Duration; fn f(now: Time) { now; }"
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        planted(PURE, "#[cfg(test)] mod tests { use std::fs; }"),
        Vec::<String>::new()
    );
}

#[test]
fn planted_runtimes_are_found() {
    for text in [
        "use tokio::time::sleep;",
        "fn f() { tokio::spawn(g()) }",
        "use tokio::{sync, task};",
        "use tokio::net::TcpStream;",
        "fn f() { std::thread::sleep(d) }",
        "fn f(h: H) { h.spawn_blocking(g) }",
    ] {
        assert!(!planted(SIMULATED, text).is_empty(), "{text}");
    }
    assert_eq!(
        planted(SIMULATED, "use tokio::sync::mpsc;"),
        Vec::<String>::new()
    );
}

#[test]
fn planted_openings_are_found() {
    for text in [
        "use std::fs::File;",
        "use std::{env, net::TcpStream};",
        "fn f() { std::process::Command::new(p) }",
    ] {
        assert!(!planted(PORTS_ONLY, text).is_empty(), "{text}");
    }
    assert_eq!(
        planted(PORTS_ONLY, "use std::net::IpAddr;"),
        Vec::<String>::new()
    );
}

#[test]
fn stale_and_unreasoned_exceptions_are_found() {
    let dirty = crate::tokens::facts("use tokio::net::TcpStream;").unwrap();
    let clean = crate::tokens::facts("use std::fmt;").unwrap();
    let judge = |facts, reason| {
        with_exceptions(
            SIMULATED,
            [("a.rs", facts)].into_iter(),
            &[("a.rs", reason)],
        )
    };
    let reason = "the wire itself, with a simulated twin";
    assert_eq!(judge(&dirty, reason), Vec::<String>::new());
    assert!(judge(&clean, reason)[0].contains("needs it no longer"));
    assert!(judge(&dirty, "")[0].contains("without a reason"));
}
