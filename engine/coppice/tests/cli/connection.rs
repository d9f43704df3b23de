use crate::place::{Place, Served, ran};

#[test]
fn where_nothing_answers_the_daemon_is_asked_about() {
    let place = Place::new();
    place.init("sim://");
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("https://{free}");
    let arguments = [
        "status",
        "--server",
        &url,
        "--ca-file",
        "g/ca.pem",
        "--token-file",
        "g/admin.token",
    ];
    place
        .run(&arguments)
        .code(1)
        .says("cannot reach")
        .says("is the daemon running?");
    let mut command = place.command(&arguments);
    command.env("COPPICE_IN_AUTOMATION", "1");
    assert!(!ran(command).code(1).err.contains("try:"));
    let json = place.run(&[
        "status",
        "--server",
        &url,
        "--ca-file",
        "g/ca.pem",
        "--token-file",
        "g/admin.token",
        "--json",
    ]);
    let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(error["exit"], 1);
    assert_eq!(json.out, "");
}

#[test]
fn without_token_or_authority_it_is_said_which_to_name() {
    let place = Place::new();
    place.init("sim://");
    place.run(&["status"]).code(1).says("COPPICE_TOKEN_FILE");
    place
        .run(&["status", "--token-file", "g/admin.token"])
        .code(1)
        .says("COPPICE_CA_FILE");
    place
        .run(&[
            "status",
            "--token-file",
            "g/admin.token",
            "--ca-file",
            "g/admin.token",
        ])
        .code(1)
        .says("no certificate");
    place
        .run(&[
            "status",
            "--server",
            "http://x",
            "--token-file",
            "g/admin.token",
        ])
        .code(64)
        .says("https://");
}

#[test]
fn another_grids_authority_does_not_vouch_for_this_one() {
    let (place, other) = (Place::new(), Place::new());
    place.init("sim://");
    other.init("sim://");
    let served = Served::start(&place);
    let mut command = served.command(&["status"]);
    command.env("COPPICE_CA_FILE", other.path("g/ca.pem"));
    ran(command).code(1).says("not trusted").says("ca.pem");
}

#[test]
fn tokens_open_what_their_scope_says_until_they_are_revoked() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    served
        .run(&[
            "token",
            "create",
            "wall",
            "--scope",
            "viewer",
            "--out",
            "wall.token",
        ])
        .code(0);
    let as_wall = |arguments: &[&str]| {
        let mut command = served.command(arguments);
        command.env("COPPICE_TOKEN_FILE", place.path("wall.token"));
        ran(command)
    };
    assert_eq!(crate::place::mode(&place.path("wall.token")), 0o600);
    as_wall(&["status"]).code(0);
    as_wall(&["token", "list"]).code(1).says("viewer");
    let listed = served.run(&["token", "list"]).code(0);
    assert!(listed.out.contains("wall") && !listed.out.contains(place.read("wall.token").trim()));
    served.run(&["token", "revoke", "wall"]).code(0);
    as_wall(&["status"]).code(1).says("COPPICE_TOKEN_FILE");
    place.write("bad.token", "admin.00");
    let mut command = served.command(&["status"]);
    command.env("COPPICE_TOKEN_FILE", place.path("bad.token"));
    ran(command).code(1).says("token");
}

#[test]
fn the_doctor_finds_what_is_wrong_and_where() {
    let place = Place::new();
    place.init("sim://");
    place.run(&["doctor"]).code(1).says("bad  settings");
    let served = Served::start(&place);
    let healthy = served.run(&["doctor"]);
    assert!(
        healthy.out.contains("ok   tls") && healthy.out.contains("ok   token"),
        "{}",
        healthy.out
    );
    let mut command = served.command(&["doctor", "--json"]);
    place.write("bad.token", "admin.00");
    command.env("COPPICE_TOKEN_FILE", place.path("bad.token"));
    let found = ran(command).code(1).json();
    let bad: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["verdict"] == "bad")
        .collect();
    assert_eq!(bad[0]["check"], "token");
    assert!(served.url().starts_with("https://127.0.0.1:"));
}

#[test]
fn a_token_that_has_expired_opens_nothing_and_says_so_once() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let create = [
        "token",
        "create",
        "ci",
        "--scope",
        "viewer",
        "--expires",
        "1s",
    ];
    let token = served.run(&create).code(0).out;
    place.write("ci.token", &token);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let mut command = served.command(&["status"]);
        command.env("COPPICE_TOKEN_FILE", place.path("ci.token"));
        let told = ran(command);
        if told.code == 1 {
            assert!(
                told.err.contains("the token ci has expired"),
                "{}",
                told.err
            );
            assert_eq!(told.err.matches("try:").count(), 1, "{}", told.err);
            break;
        }
        assert!(std::time::Instant::now() < patience, "it never expires");
    }
}

#[test]
fn a_server_that_listens_everywhere_is_reached_under_the_names_it_was_given() {
    let place = Place::new();
    let listen = ["--listen", "0.0.0.0:0", "--names", "127.0.0.9,desk.example"];
    let init = ["init", "--data", "g", "--name", "host-1"];
    let simulated = ["--hypervisor", "sim://"];
    place
        .run(&[&init[..], &listen, &simulated].concat())
        .code(0);
    let served = Served::start(&place);
    let port = served.url().rsplit(':').next().unwrap().to_owned();
    let at = |host: &str| {
        let url = format!("https://{host}:{port}");
        place.run(&[
            "status",
            "--server",
            &url,
            "--ca-file",
            "g/ca.pem",
            "--token-file",
            "g/admin.token",
        ])
    };
    at("127.0.0.1").code(0);
    at("127.0.0.9").code(0);
    at("127.0.0.8").code(1).says("127.0.0.8");
    let refused = ["--names", "a b"];
    let other = ["init", "--data", "h", "--name", "host-1"];
    place
        .run(&[&other[..], &refused, &simulated].concat())
        .code(64)
        .says("host name or an address");
}
