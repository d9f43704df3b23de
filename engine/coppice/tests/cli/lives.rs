//! Backups, and grids that go on from them.

use std::io::Read;
use std::net::TcpListener;

use serde_json::Value;

use crate::place::{Place, Ran, Served, lab, signal};

const PHRASE: &str = "a horse in the attic\n";

/// A grid with three desktops and a secret, and two backups of it, with keys and without. Then it grows.
fn kept(place: &Place) -> String {
    let served = Served::with_image(place, "sim://?boot=0s");
    place.write("conf/lab.hcl", &lab(3));
    place.write("phrase", PHRASE);
    served.run(&["apply", "conf", "--yes"]).code(0);
    served
        .run_with(&["secret", "set", "ad-bind"], "hunter2")
        .code(0);
    served
        .run(&[
            "backup",
            "keys.backup",
            "--with-keys",
            "--passphrase-file",
            "phrase",
        ])
        .code(0)
        .says("revision 1");
    served.run(&["backup", "bare.backup"]).code(0);
    let refused = served.run(&["backup", "bare.backup"]).code(1);
    assert!(refused.err.contains("not there yet"), "{refused:?}");
    let grid = status(&served)["grid"]["id"].as_str().unwrap().to_owned();
    assert_eq!(served.stop(), 0);
    grid
}

fn status(served: &Served<'_>) -> Value {
    served.run(&["status", "--json"]).code(0).json()
}

fn restore(place: &Place, more: &[&str]) -> Ran {
    let fixed = ["--listen", "127.0.0.1:0", "--hypervisor", "sim://?boot=0s"];
    place.run(&[&["restore"], more, &fixed].concat())
}

#[test]
fn a_grid_restored_on_an_empty_machine_goes_on() {
    let place = Place::new();
    let grid = kept(&place);
    let told = restore(
        &place,
        &[
            "keys.backup",
            "--data",
            "r",
            "--name",
            "host-1",
            "--passphrase-file",
            "phrase",
        ],
    )
    .code(0)
    .says("life 2")
    .says("coppice serve")
    .says("image import tiny FILE --version 1");
    assert!(!told.out.contains("secret set"), "{told:?}");
    // The authority is the same, so that clients trust it as before; and so is the first token.
    assert_eq!(place.read("g/ca.pem"), place.read("r/ca.pem"));

    let served = Served::start_in(&place, "r");
    let now = status(&served);
    assert_eq!(now["grid"]["id"], grid.as_str());
    assert_eq!(
        (&now["grid"]["epoch"], &now["revision"]),
        (&2.into(), &1.into())
    );
    let secrets = served.run(&["secret", "list", "--json"]).code(0).json();
    assert_eq!(secrets[0]["name"], "ad-bind");
    // Nothing is here but what the backup held: the image is to be brought again.
    let missing = |ran: &Ran| ran.out.contains("no sound copy of 1 is left");
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !missing(&served.run(&["status"]).code(0)) {
        assert!(
            std::time::Instant::now() < patience,
            "{:?}",
            served.run(&["status"])
        );
    }
    served
        .run(&["image", "import", "tiny", "tiny.raw", "--version", "1"])
        .code(0);
    served.run(&["apply", "conf", "--yes"]).code(0);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let now = status(&served);
        if now["settled"] == true && now["pools"][0]["available"] == 3 {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{now:#}");
    }
    assert_eq!(served.stop(), 0);
}

#[test]
fn without_the_keys_secrets_are_asked_for_again_and_clients_need_another_authority() {
    let place = Place::new();
    kept(&place);
    restore(&place, &["bare.backup", "--data", "r", "--name", "other"])
        .code(0)
        .says("secret set ad-bind")
        .says("new ca.pem")
        .says("lost until they join again, their slots left alone: host-1");
    assert_ne!(place.read("g/ca.pem"), place.read("r/ca.pem"));
    let served = Served::start_in(&place, "r");
    let now = status(&served);
    let states: Vec<_> = now["servers"].as_array().unwrap().iter().collect();
    let lost = states.iter().find(|s| s["name"] == "host-1").unwrap();
    assert_eq!(lost["state"], "lost");
    served
        .run_with(&["secret", "set", "ad-bind"], "hunter3")
        .code(0)
        .says("version 2");
    assert_eq!(served.stop(), 0);
}

#[test]
fn what_cannot_be_restored_says_why_and_changes_nothing() {
    let place = Place::new();
    let grid = kept(&place);
    place.write("wrong", "a horse in the cellar\n");
    let with = |file: &str, more: &[&str]| {
        let fixed = [file, "--data", "r", "--name", "host-1"];
        let ran = restore(&place, &[&fixed, more].concat());
        assert!(!place.path("r").exists(), "{ran:?}");
        ran.code(1)
    };
    with("keys.backup", &["--passphrase-file", "wrong"])
        .says("does not open the backup's keys")
        .says("--without-keys");
    with("conf/lab.hcl", &[]).says("not a backup of a grid");
    let whole = std::fs::read(place.path("bare.backup")).unwrap();
    let write = |bytes: &[u8]| std::fs::write(place.path("hurt.backup"), bytes).unwrap();
    write(&whole[..whole.len() - 9]);
    with("hurt.backup", &[])
        .says("damaged")
        .says("nothing was changed");
    let mut newer = whole.clone();
    newer[43] = 9;
    let digest = coppice_schema::Digest::of(&newer[40..]).0;
    newer[8..40].copy_from_slice(&digest);
    write(&newer);
    with("hurt.backup", &[])
        .says("made by version")
        .says("form 9");
    let other = "00000000000000000000000000000001";
    with("bare.backup", &["--grid", other]).says(&grid);

    // Neither over a grid, nor over anything else.
    restore(&place, &["bare.backup", "--data", "g", "--name", "host-1"])
        .code(1)
        .says("holds a grid already");
    place.write("full/file", "x");
    restore(
        &place,
        &["bare.backup", "--data", "full", "--name", "host-1"],
    )
    .code(1)
    .says("not empty");
}

#[test]
fn a_backup_that_is_called_off_leaves_no_file_that_looks_like_one() {
    let place = Place::new();
    place.init("sim://");
    // It takes the connection, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let mut backup = place.command(&["backup", "off.backup", "--timeout", "2m"]);
    let mut backup = backup
        .env("COPPICE_SERVER", url)
        .env("COPPICE_CA_FILE", place.path("g/ca.pem"))
        .env("COPPICE_TOKEN_FILE", place.path("g/admin.token"))
        .spawn()
        .unwrap();
    let (mut asked, _) = silent.accept().unwrap();
    asked.read_exact(&mut [0]).unwrap();
    assert!(place.path("off.backup").exists());
    signal(&backup, rustix::process::Signal::INT);
    assert_eq!(backup.wait().unwrap().code(), Some(130));
    assert!(!place.path("off.backup").exists());
}
