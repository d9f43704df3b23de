//! Exit codes of runs that do not come to their end.

use crate::place::{Place, Served, lab};

#[test]
fn a_run_of_which_a_part_is_done_and_the_rest_has_no_room_ends_with_6() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms&memory=200MiB");
    place.write("c/a.hcl", &lab(4));
    let arguments = ["apply", "c", "--yes", "--patience", "1s"];
    served
        .run(&arguments)
        .code(6)
        .says("revision 1 was applied in part; the grid keeps trying")
        .says("no room for");
    let status = served.run(&["status", "--json"]).code(0).json();
    assert_eq!(status["revision"], 1);
    assert!(status["pools"][0]["available"].as_u64().unwrap() > 0);
    let json = served
        .run(&["apply", "c", "--yes", "--patience", "1s", "--json"])
        .code(6)
        .json();
    assert_eq!(json["settled"], false);
    assert!(json["why"][0].as_str().unwrap().contains("no room"));
}

#[test]
fn a_run_whose_orders_keep_failing_ends_with_6_and_says_how_they_fail() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms&refuse=start");
    place.write("c/a.hcl", &lab(1));
    served
        .run(&["apply", "c", "--yes", "--patience", "1s"])
        .code(6)
        .says("desktop.lab-001: create lab-001 failed")
        .says("refused to start")
        .says("coppice explain ADDRESS");
}

#[test]
fn what_a_server_does_not_show_ends_with_7_and_nothing_is_done_to_it() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served.stop();
    let toml = place.read("g/coppice.toml");
    place.write(
        "g/coppice.toml",
        &toml.replace("boot=1ms", "boot=1ms&away=60m"),
    );
    let served = Served::start(&place);
    place.write("c/a.hcl", &lab(2));
    served
        .run(&["plan", "c"])
        .code(7)
        .says("Looked at 0 of 1 server")
        .says("a server was not seen whole");
    served
        .run(&["plan", "c", "--detailed-exitcode"])
        .code(7)
        .says("create desktop.lab-002");
    served
        .run(&["drift", "--detailed-exitcode"])
        .code(7)
        .says("no drift in what was seen");
    served
        .run(&["apply", "c", "--yes", "--timeout", "1s"])
        .code(7)
        .says("not seen whole: host-1")
        .says("coppice explain server.NAME");
    served
        .run(&["status"])
        .code(0)
        .says("its hypervisor does not answer");
    assert_eq!(served.run(&["status", "--json"]).json()["revision"], 1);
}

#[test]
fn a_grid_whose_only_server_was_never_seen_takes_a_configuration_and_says_7() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms&away=60m");
    place.write("c/a.hcl", &lab(1));
    served
        .run(&["plan", "c"])
        .code(7)
        .says("Looked at 0 of 1 server");
    served.run(&["drift"]).code(7);
    served
        .run(&["status"])
        .code(0)
        .says("its hypervisor does not answer");
    served
        .run(&["apply", "c", "--yes", "--timeout", "1s", "--patience", "1s"])
        .code(7)
        .says("revision 1 is committed")
        .says("server.host-1: its hypervisor does not answer");
}

#[test]
fn a_server_that_stays_away_is_given_up_and_the_run_is_not() {
    let place = Place::new();
    // Guests that take an hour: the run cannot settle while the test looks.
    let served = Served::with_image(&place, "sim://?boot=60m");
    place.write("c/a.hcl", &lab(1));
    let mut apply = served
        .command(&["apply", "c", "--yes", "--patience", "1s"])
        .spawn()
        .unwrap();
    let mut err = std::io::BufReader::new(apply.stderr.take().unwrap());
    crate::place::read_until(&mut err, "committed as revision 1");
    assert_eq!(served.stop(), 0);
    let rest = std::io::read_to_string(err).unwrap();
    assert!(
        rest.contains("trying again") && rest.contains("the grid goes on with it"),
        "{rest}"
    );
    assert_eq!(apply.wait().unwrap().code(), Some(1));
    let again = Served::start(&place);
    assert_eq!(again.run(&["status", "--json"]).json()["revision"], 1);
}

#[test]
fn an_import_that_fails_names_the_persons_file() {
    let place = Place::new();
    place.init("sim://?refuse=import-image");
    let served = Served::start(&place);
    std::fs::write(place.path("own.raw"), vec![1; 4_096]).unwrap();
    served
        .run(&["image", "import", "tiny", "own.raw", "--version", "1"])
        .code(1)
        .says("own.raw was not imported as image tiny version 1");
}
