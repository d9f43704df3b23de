use std::io::{BufReader, Read, Write};

use crate::place::{Place, Served, lab, mode, read_until};

#[test]
fn the_stable_json_has_the_fields_that_scripts_rely_on() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(2));
    served.run(&["apply", "c", "--yes"]).code(0).says("settled");

    let status = served.run(&["status", "--json"]).code(0).json();
    assert_eq!(status["grid"]["name"], "lab", "{status}");
    assert_eq!(status["revision"], 1);
    assert_eq!(status["servers"][0]["name"], "host-1");
    assert_eq!(status["servers"][0]["state"], "ready");
    let pool = &status["pools"][0];
    assert_eq!(
        (&pool["name"], &pool["desired"], &pool["available"]),
        (&"lab".into(), &2.into(), &2.into()),
        "{status}"
    );
    assert_eq!((&pool["in_use"], &pool["broken"]), (&0.into(), &0.into()));

    let desktops = served.run(&["desktop", "list", "--json"]).code(0).json();
    assert_eq!(desktops.as_array().unwrap().len(), 2);
    for key in [
        "id", "name", "pool", "slot", "server", "state", "uuid", "image", "overlay",
    ] {
        assert!(!desktops[0][key].is_null(), "no {key} in {}", desktops[0]);
    }
    assert_eq!(desktops[0]["name"], "lab-01");

    let plan = served.run(&["plan", "c", "--json"]).code(0).json();
    assert_eq!(plan["format_version"], "1.0");
    assert_eq!(plan, {
        let mut other = served
            .run(&["plan", "c", "--format", "json"])
            .code(0)
            .json();
        other["created_at"] = plan["created_at"].clone();
        other["observed"] = plan["observed"].clone();
        other
    });
    served
        .run(&["status", "--json-into", "s.json"])
        .code(0)
        .says("POOL");
    let into: serde_json::Value = serde_json::from_str(&place.read("s.json")).unwrap();
    assert_eq!(into["revision"], 1);
}

#[test]
fn a_watched_plan_is_made_anew_when_the_files_or_the_grid_change() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(2));
    let mut watching = served.command(&["plan", "c", "--watch"]).spawn().unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap());
    read_until(&mut out, "create 2 desktops");
    place.write("c/a.hcl", &lab(3));
    read_until(&mut out, "create 3 desktops");
    served.run(&["apply", "c", "--yes"]).code(0).says("settled");
    read_until(&mut out, "No changes");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn a_personal_desktop_is_regrown_when_that_is_approved_by_name() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    let personal = "template = template.small\n  assignment = \"personal\"";
    place.write(
        "c/a.hcl",
        &lab(1).replace("template = template.small", personal),
    );
    served.run(&["apply", "c", "--yes"]).code(0);
    let regrow = ["desktop", "regrow", "lab-001", "--yes"];
    served
        .run(&regrow)
        .code(5)
        .says("coppice desktop regrow lab-001 --approve personal-data");
    let approve = ["--approve", "personal-data"];
    served
        .run(&[&regrow[..], &approve].concat())
        .code(0)
        .says("grown anew");
}

#[test]
fn what_json_is_written_into_is_read_by_its_owner_only() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("old.json", "");
    for file in ["new.json", "old.json"] {
        let name = file.trim_end_matches(".json");
        served
            .run(&[
                "token",
                "create",
                name,
                "--scope",
                "viewer",
                "--json-into",
                file,
            ])
            .code(0);
        assert!(place.read(file).contains("\"token\""));
        assert_eq!(mode(&place.path(file)), 0o600, "{file}");
    }
}

#[test]
fn one_desktop_is_shown_explained_and_started_again_by_either_name() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served
        .run(&["desktop", "show", "lab-001"])
        .code(0)
        .says("lab-01")
        .says("tiny@1");
    served
        .run(&["desktop", "restart", "lab-01"])
        .code(0)
        .says("lab-001");
    served
        .run(&["explain", "desktop.lab-001"])
        .code(0)
        .says("desktop.lab-001");
    served
        .run(&["desktop", "show", "lab-002"])
        .code(1)
        .says("did you mean lab-001?");
    served
        .run(&["desktop", "regrow", "lab-001"])
        .code(64)
        .says("--yes");
    served.run(&["history"]).code(0).says("admin");
    served
        .run(&["history", "--events"])
        .code(0)
        .says("revision 1 was applied by admin");
}

#[test]
fn a_screen_is_a_picture_and_a_console_is_a_port() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served
        .run(&["desktop", "screenshot", "lab-001"])
        .code(0)
        .says("lab-001.png");
    let picture = std::fs::read(place.path("lab-001.png")).unwrap();
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");

    let mut console = served
        .command(&["desktop", "console", "lab-001", "--port", "0"])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(console.stdout.take().unwrap());
    let line = read_until(&mut out, "viewer");
    let address = line
        .split_whitespace()
        .find(|w| w.starts_with("127.0.0.1:"))
        .unwrap();
    let mut viewer = std::net::TcpStream::connect(address.trim_end_matches(';')).unwrap();
    viewer.write_all(b"RFB 003.008\n").unwrap();
    let mut first = [0; 1];
    viewer.read_exact(&mut first).unwrap();
    drop(viewer);
    crate::place::signal(&console, rustix::process::Signal::INT);
    assert_eq!(console.wait().unwrap().code(), Some(130));
    served
        .run(&["desktop", "console", "lab-001", "--display", "spice"])
        .code(1)
        .says("lab-001");
}

#[test]
fn images_are_imported_once_and_a_version_never_changes() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    served
        .run(&["image", "import", "tiny", "tiny.raw", "--version", "1"])
        .code(0)
        .says("already");
    let mut other = std::fs::read(place.path("tiny.raw")).unwrap();
    other[70_000] = 1;
    std::fs::write(place.path("other.raw"), other).unwrap();
    served
        .run(&["image", "import", "tiny", "other.raw", "--version", "1"])
        .code(1)
        .says("other bytes")
        .says("--version");
    served
        .run(&["image", "import", "tiny", "absent.raw", "--version", "2"])
        .code(1)
        .says("absent.raw");
    let images = served.run(&["image", "list", "--json"]).code(0).json();
    assert_eq!(images.as_array().unwrap().len(), 1);
    served
        .run(&["image", "status", "tiny"])
        .code(0)
        .says("every chunk verified");
    served
        .run(&["image", "status", "tyni"])
        .code(1)
        .says("there is no image tyni");
    served.run(&["image", "remove", "tiny", "1"]).code(0);
    assert_eq!(
        served.run(&["image", "list", "--json"]).json(),
        serde_json::json!([])
    );
}

#[test]
fn an_image_that_was_lost_comes_back_by_the_remedy_that_is_told() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/lab.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    // What is simulated is gone when its process ends.
    served.stop();
    let served = Served::start(&place);
    served.until(&["drift", "--detailed-exitcode"], 2);
    served.run(&["plan", "c"]).says("bring the file again");
    let import = ["image", "import", "tiny", "tiny.raw", "--version", "1"];
    let again = served.run(&import).code(0);
    assert!(!again.err.contains("already"), "{}", again.err);
    served
        .run(&["image", "status", "tiny"])
        .code(0)
        .says("every chunk verified");
    served.run(&import).code(0).says("already");
}

#[test]
fn secrets_go_in_through_standard_input_and_never_come_out() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    served
        .run_with(&["secret", "set", "ad-bind"], "hunter2\n")
        .code(0)
        .says("version 1");
    served
        .run_with(&["secret", "set", "ad-bind"], "hunter3")
        .code(0)
        .says("version 2");
    served
        .run(&["secret", "set", "ad-bind"])
        .code(1)
        .says("empty");
    let listed = served.run(&["secret", "list", "--json"]).code(0);
    assert_eq!(listed.json()[0]["name"], "ad-bind");
    assert!(!listed.out.contains("hunter"));
    served
        .run(&["secret", "set", "ad-bind", "hunter4"])
        .code(64);
    served.run(&["secret", "remove", "ad-bind"]).code(0);
}

#[test]
fn servers_and_pauses_are_set_and_taken_back() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    let done = served.run(&["server", "cordon", "host-1", "--json"]);
    assert_eq!(
        done.code(0).json(),
        serde_json::json!({"about": "host-1", "done": "cordoned"})
    );
    assert_eq!(
        served.run(&["server", "list", "--json"]).json()[0]["state"],
        "cordoned"
    );
    served.run(&["server", "uncordon", "host-1"]).code(0);
    assert_eq!(
        served.run(&["server", "list", "--json"]).json()[0]["state"],
        "ready"
    );
    let done = served.run(&["server", "drain", "host-1", "--force-after", "2h", "--json"]);
    assert_eq!(
        done.code(0).json(),
        serde_json::json!({"about": "host-1", "done": "draining"})
    );
    let listed = served.run(&["server", "list", "--json"]).json();
    assert_eq!(listed[0]["state"], "draining");
    assert!(listed[0]["force_at"].is_u64(), "{listed}");
    // Nothing is there, so looking on ends at once.
    served
        .run(&["server", "drain", "host-1", "--watch"])
        .code(0)
        .says("host-1 is empty");
    served.run(&["server", "undrain", "host-1"]).code(0);
    served
        .run(&["server", "cordon", "host-9"])
        .code(1)
        .says("host-9");
    served
        .run(&["pause", "server.host-1", "--for", "2h"])
        .code(0);
    assert_eq!(
        served.run(&["pause", "--json"]).json()[0]["address"],
        "server.host-1"
    );
    served.run(&["resume", "server.host-1"]).code(0);
    assert_eq!(
        served.run(&["pause", "--json"]).json(),
        serde_json::json!([])
    );
}

#[test]
fn placement_a_loss_and_the_load_are_looked_at() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(2));
    served.run(&["apply", "c", "--yes"]).code(0);
    served
        .run(&["explain", "pool.lab"])
        .code(0)
        .says("where its next desktop would go")
        .says("the lowest: chosen");
    served
        .run(&["explain", "desktop.lab-001"])
        .code(0)
        .says("it is here");
    // The files, and without any what is committed.
    let text = served.run(&["plan", "c", "--lose", "host-1", "--detailed-exitcode"]);
    text.code(2)
        .says("What if host-1 were lost")
        .says("pool.lab: loses 2 desktops; 2 desktops without a place");
    served
        .run(&["plan", "--lose", "host-1", "--format", "markdown"])
        .code(0)
        .says("what if host-1 were lost")
        .says("committed configuration");
    let data = served
        .run(&["plan", "--lose", "host-1", "--json"])
        .code(0)
        .json();
    assert_eq!(data["lost"]["pools"]["lab"]["pooled"], 2);
    served
        .run(&["plan", "c", "--lose", "host-9"])
        .code(1)
        .says("host-9");
    served
        .run(&["server", "rebalance", "--dry-run"])
        .code(0)
        .says("no move is worth it");
    served.run(&["server", "rebalance", "--yes"]).code(0);
    served
        .run(&["server", "rebalance", "--stop"])
        .code(0)
        .says("nothing was to move");
}

#[test]
fn drift_says_what_its_repair_waits_for() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served.run(&["pause", "pool.lab"]).code(0);
    // A simulated world ends with its process: everything on it is gone at the next start.
    served.stop();
    let served = Served::start(&place);
    served.until(&["drift", "--detailed-exitcode"], 2);
    let told = served.run(&["drift"]).code(0);
    assert!(
        told.out
            .contains("its repair waits for a pause to end (coppice resume)")
            && !told.out.contains("being repaired"),
        "{}",
        told.out
    );
    let drift = served.run(&["drift", "--json"]).code(0).json();
    let all = drift["drift"].as_array().unwrap();
    let desktop = all.iter().find(|d| d["object"] == "desktop.lab-001");
    assert_eq!(
        desktop.unwrap()["waits"],
        serde_json::json!([{"paused": {"until": null}}])
    );
}
