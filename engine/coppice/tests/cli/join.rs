use std::io::{BufReader, Read, Write};

use crate::place::{Place, Ran, Served, lab, mode, ran, read_until};

/// A line by which a machine may join.
fn token(served: &Served<'_>, role: &str) -> String {
    let made = served.run(&["token", "create", "--role", role]).code(0);
    made.out.trim().to_owned()
}

fn address(served: &Served<'_>) -> String {
    served.url().trim_start_matches("https://").to_owned()
}

/// Joins in the directory `data`, with whatever else is said.
fn join(place: &Place, address: &str, token: &str, data: &str, more: &[&str]) -> Ran {
    let mut arguments = vec!["join", address, token, "--data", data];
    arguments.extend(more);
    if !more.contains(&"--hypervisor") && !more.contains(&"--witness") {
        arguments.extend(["--hypervisor", "sim://"]);
    }
    place.run(&arguments)
}

const HOST_2: [&str; 4] = ["--name", "host-2", "--listen", "127.0.0.1:7999"];

#[test]
fn a_machine_joins_by_an_address_and_a_token() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let token = token(&served, "server");
    let joined = join(&place, &address(&served), &token, "h2", &HOST_2).code(0);
    joined
        .says("as server host-2")
        .says("coppice serve --config");
    assert_eq!(mode(&place.path("h2")), 0o700);
    for key in ["grid.key", "server.key"] {
        assert_eq!(mode(&place.path("h2/identity").join(key)), 0o600, "{key}");
    }
    assert_eq!(place.read("h2/ca.pem"), place.read("g/ca.pem"));
    // The authority's key stays where it votes.
    assert!(!place.path("h2/identity/ca.key").exists());
    assert!(!place.path("h2/join.begun").exists());
    let config = place.read("h2/coppice.toml");
    assert!(config.contains("name = \"host-2\"") && config.contains("127.0.0.1:7999"));
    let servers = served.run(&["server", "list", "--json"]).code(0).json();
    assert_eq!(servers[1]["name"], "host-2");
    assert_eq!(servers[1]["state"], "joining");
    assert_eq!(servers[1]["api"], "127.0.0.1:7999");

    // Once more it is done; in another directory the token is spent.
    let again = join(&place, &address(&served), &token, "h2", &HOST_2).code(0);
    again.says("already");
    join(
        &place,
        &address(&served),
        &token,
        "h3",
        &["--name", "host-3"],
    )
    .code(1)
    .says("was used already, by server host-2")
    .says("coppice token create --role server");
    let listed = served.run(&["token", "list"]).code(0);
    listed.says("JOIN TOKEN").says("was used");
    let listed = served.run(&["token", "list", "--json"]).code(0).json();
    assert_eq!(
        (&listed[0]["scope"], &listed[1]["used"]),
        (&"admin".into(), &true.into())
    );
}

#[test]
fn a_join_that_was_cut_off_anywhere_is_finished_by_the_same_command() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let token = token(&served, "server");
    let first = join(&place, &address(&served), &token, "h2", &HOST_2).code(0);
    drop(first);
    let key = place.read("h2/identity/server.key");
    let mark = place.read("g/ca.pem");
    // What each step leaves when the next one is cut off, from the last to the first.
    let steps: [&[&str]; 5] = [
        &[],
        &["coppice.toml"],
        &["ca.pem"],
        &["grid"],
        &[
            "identity/server.pem",
            "identity/ca.pem",
            "identity/grid.key",
        ],
    ];
    for step in steps {
        for part in step {
            let path = place.path("h2").join(part);
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        place.write("h2/init.begun", "");
        let authority = token.split('.').nth(3).unwrap();
        place.write("h2/join.begun", &format!("{authority}\n"));
        let again = join(&place, &address(&served), &token, "h2", &HOST_2).code(0);
        again.says("as server host-2");
        assert_eq!(place.read("h2/identity/server.key"), key, "{step:?}");
        assert_eq!(place.read("h2/ca.pem"), mark);
    }
    let servers = served.run(&["server", "list", "--json"]).code(0).json();
    assert_eq!(servers.as_array().unwrap().len(), 2);
}

#[test]
fn a_witness_joins_with_a_token_of_its_own_and_gets_no_key() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let server = token(&served, "server");
    let to = address(&served);
    join(&place, &to, &server, "w", &["--name", "w", "--witness"])
        .code(64)
        .says("is for a server")
        .says("--role witness");
    let witness = token(&served, "witness");
    join(&place, &to, &witness, "w", &["--name", "w"])
        .code(64)
        .says("is for a witness")
        .says("leave --hypervisor out");
    join(&place, &to, &witness, "w", &["--name", "w", "--witness"])
        .code(0)
        .says("as witness w");
    assert!(!place.path("w/identity/grid.key").exists());
    assert!(place.read("w/coppice.toml").contains("\nwitness = true"));
}

#[test]
fn a_copy_of_a_server_takes_its_place_only_once_it_is_silent() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let listen = free();
    let more = ["--name", "host-2", "--listen", &listen];
    let to = address(&served);
    join(&place, &to, &token(&served, "server"), "h2", &more).code(0);
    let second = Served::start_in(&place, "h2");
    until_votes(&served, "host-2");
    // Another machine, made of a copy of the first one's disk.
    let copied = std::process::Command::new("cp")
        .args(["-r", "h2", "copy"])
        .current_dir(place.path(""))
        .status();
    assert!(copied.unwrap().success());
    let file = |data: &str| format!("{data}/coppice.toml");
    let here = place.path("copy").display().to_string();
    let there = place.path("h2").display().to_string();
    let text = place.read(&file("h2"));
    place.write(&file("copy"), &text.replace(&there, &here));
    let line = token(&served, "server");
    let config = file("copy");
    let rejoin = [
        "server",
        "rejoin",
        &to,
        &line,
        "--config",
        &config,
        "--confirm",
        "grid",
    ];
    let before = served.run(&["server", "list", "--json"]).code(0).json();
    place
        .run(&rejoin)
        .code(1)
        .says("the name host-2 is in use")
        .says(&listen)
        .says("waiting for up to")
        .says("as it was before");
    let after = served.run(&["server", "list", "--json"]).code(0).json();
    assert_eq!(before[1]["id"], after[1]["id"]);
    assert_ne!(after[1]["state"], "joining");
    // The server that was stopped this moment is waited for.
    assert_eq!(second.stop(), 0);
    place.run(&rejoin).code(0).says("as server host-2");
}

/// Waits until that server votes.
#[track_caller]
fn until_votes(served: &Served<'_>, name: &str) {
    let begins = format!("{name} ");
    let votes = || {
        let servers = served.run(&["server", "list"]).code(0).out;
        let mut lines = servers.lines();
        lines.any(|line| line.starts_with(&begins) && line.contains("votes"))
    };
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !votes() {
        assert!(std::time::Instant::now() < patience, "{name} does not vote");
    }
}

/// An address on which nobody listens now.
fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_witness_is_well_while_it_is_heard_and_again_after_it_was_lost() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    for (role, data, witness) in [("server", "h2", None), ("witness", "w", Some("--witness"))] {
        let listen = free();
        let more: Vec<&str> = ["--name", data, "--listen", &listen]
            .into_iter()
            .chain(witness)
            .collect();
        let token = token(&served, role);
        join(&place, &address(&served), &token, data, &more).code(0);
    }
    let _second = Served::start_in(&place, "h2");
    let witness = Served::start_in(&place, "w");
    until_votes(&served, "w");
    served.until(&["doctor"], 0).says("w: heard, it only votes");
    let shown = served.run(&["status"]).code(0).says("none, a witness");
    assert!(!shown.out.contains("not seen"), "{shown:?}");
    assert_eq!(witness.stop(), 0);
    served.until_says(&["server", "list"], "lost");
    served.run(&["doctor"]).code(1).says("w is not heard");
    let _witness = Served::start_in(&place, "w");
    served.until(&["doctor"], 0).says("w: heard, it only votes");
    let shown = served.run(&["server", "list"]).code(0);
    assert!(!shown.out.contains("lost"), "{shown:?}");
}

#[test]
fn one_server_that_votes_alone_finds_its_silent_witness_lost() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let listen = free();
    let more = ["--name", "w", "--witness", "--listen", &listen];
    let token = token(&served, "witness");
    join(&place, &address(&served), &token, "w", &more).code(0);
    let witness = Served::start_in(&place, "w");
    served.until(&["doctor"], 0).says("w: heard, it only votes");
    drop(witness);
    served.until_says(&["server", "list"], "lost");
}

#[test]
fn any_server_shows_the_screen_of_a_desktop_that_is_on_another() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    let token = token(&served, "server");
    let listen = free();
    let more = [
        "--name",
        "host-2",
        "--listen",
        &listen,
        "--hypervisor",
        "sim://?boot=1ms",
    ];
    join(&place, &address(&served), &token, "h2", &more).code(0);
    let _second = Served::start_in(&place, "h2");
    served.run(&["server", "cordon", "host-1"]).code(0);
    place.write(
        "c/a.hcl",
        &lab(1).replace(
            "os      = \"linux\"",
            "os      = \"linux\"\n  copies  = \"all\"",
        ),
    );
    served.run(&["apply", "c", "--yes"]).code(0);
    served.until_says(&["desktop", "list"], "host-2");
    served.until_says(&["desktop", "list"], "available");

    let taken = served.run(&["desktop", "screenshot", "lab-001"]).code(0);
    taken.says("lab-001.png");
    let picture = std::fs::read(place.path("lab-001.png")).unwrap();
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");

    shows_its_screen(&served);
}

/// A viewer gets the first byte of the screen of `lab-001`.
fn shows_its_screen(served: &Served<'_>) {
    let mut console = served
        .command(&["desktop", "console", "lab-001", "--port", "0"])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(console.stdout.take().unwrap());
    let line = read_until(&mut out, "viewer");
    let port = line.split_whitespace();
    let port = port.filter_map(|word| word.strip_prefix("127.0.0.1:"));
    let port = port.map(|word| word.trim_end_matches(';')).next().unwrap();
    let mut viewer = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    viewer.write_all(b"RFB 003.008\n").unwrap();
    viewer.read_exact(&mut [0; 1]).unwrap();
    drop(viewer);
    crate::place::signal(&console, rustix::process::Signal::INT);
    assert_eq!(console.wait().unwrap().code(), Some(130));
}

#[test]
fn whoever_is_at_a_desktop_gets_back_to_it_while_no_majority_answers() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served.until_says(&["desktop", "list"], "available");
    let listen = free();
    let more = ["--name", "host-2", "--listen", &listen];
    let token = token(&served, "server");
    join(&place, &address(&served), &token, "h2", &more).code(0);
    let second = Served::start_in(&place, "h2");
    until_votes(&served, "host-2");
    drop(second);
    served.until_says(&["status"], "degraded");
    served
        .run(&["desktop", "screenshot", "lab-001"])
        .code(0)
        .says("lab-001.png");
    shows_its_screen(&served);
    // And nothing was agreed on for that.
    served
        .run(&["token", "create", "new", "--scope", "viewer"])
        .code(1)
        .says("on its own");
}

#[test]
fn a_token_that_opens_nothing_is_told_with_what_to_do() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let to = address(&served);
    let token = token(&served, "server");
    let refused = |token: &str, code: i32, why: &str| {
        join(&place, &to, token, "h2", &["--name", "host-2"])
            .code(code)
            .says(why)
            .says("coppice token create --role");
        assert!(!place.path("h2/coppice.toml").exists());
    };
    let parts: Vec<&str> = token.split('.').collect();
    let wrong = token.replace(parts[5], &parts[5].chars().rev().collect::<String>());
    refused(&wrong, 1, "does not know the join token");
    refused(&token[..token.len() - 5], 64, "not copied whole");
    let admin = place.read("g/admin.token");
    refused(admin.trim(), 64, "token for the grid's API");
    refused("what?", 64, "does not begin with");
    join(&place, &to, "what?", "w", &["--witness"])
        .code(64)
        .says("coppice token create --role witness");
    place
        .run(&["server", "rejoin", "--help"])
        .code(0)
        .says("for a witness of `--role witness`");
    let brief = served.run(&["token", "create", "--role", "server", "--ttl", "1s"]);
    let brief = brief.code(0).out;
    served.until_says(&["token", "list"], "expired");
    refused(brief.trim(), 1, "has expired");
    let name = parts[4];
    served.run(&["token", "revoke", name]).code(0);
    refused(&token, 1, "was revoked");
}

#[test]
fn a_machine_is_told_what_stands_in_its_way_before_anything_is_made() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let (to, token) = (address(&served), token(&served, "server"));

    place.write("full/thesis.txt", "mine");
    join(&place, &to, &token, "full", &["--name", "host-2"])
        .code(1)
        .says("holds something else");
    assert_eq!(place.read("full/thesis.txt"), "mine");
    join(&place, &to, &token, "h2", &["--name", "host-1"])
        .code(1)
        .says("has a server named host-1 already")
        .says("--name");

    let other = Place::new();
    other.init("sim://");
    let stranger = Served::start(&other);
    join(
        &place,
        &address(&stranger),
        &token,
        "h3",
        &["--name", "host-2"],
    )
    .code(1)
    .says("is not the one that made this token; nothing was told to it");
    assert!(!place.path("h3/identity").exists());
    // A server of one grid is not made one of another.
    join(&other, &to, &token, "g", &["--name", "host-2"])
        .code(1)
        .says("holds a grid already");
}

#[test]
fn an_address_where_no_grid_answers_is_told() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let token = token(&served, "server");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = silent.local_addr().unwrap().to_string();
    drop(silent);
    join(&place, &free, &token, "h2", &["--name", "host-2"])
        .code(1)
        .says("nothing answers at")
        .says("is `coppice serve` running there");

    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap().to_string();
    let greeting = std::thread::spawn(move || {
        // The first connection only asks for this machine's own address.
        for stream in other.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    join(&place, &at, &token, "h2", &["--name", "host-2"])
        .code(1)
        .says("is no server of a grid");
    greeting.join().unwrap();
    join(&place, "no host", &token, "h2", &[]).code(2 + 62);
    assert!(!place.path("h2").exists());
}

#[test]
fn a_disk_without_space_is_told_before_the_grid_is_asked() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let token = token(&served, "server");
    // A file system of one megabyte, in a mount namespace of the test's own.
    let mut command = std::process::Command::new("unshare");
    let script = "mkdir small && mount -t tmpfs -o size=1m none small && exec \"$@\"";
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(env!("CARGO_BIN_EXE_coppice"))
        .args(["join", &address(&served), &token, "--data", "small/h2"])
        .args(["--name", "host-2", "--hypervisor", "sim://"])
        .current_dir(place.path(""))
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    let refused = ran(command);
    if refused.err.contains("unshare") || refused.err.contains("mount:") {
        return crate::skip::skip("no file system can be mounted in a namespace here");
    }
    refused.code(1).says("not enough space").says("--data DIR");
    let listed = served.run(&["token", "list", "--json"]).code(0).json();
    assert_eq!(listed[1]["used"], false);
}
