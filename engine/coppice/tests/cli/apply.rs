use std::io::BufReader;

use crate::place::{Place, Served, lab, read_until, signal};

#[test]
fn a_plan_is_applied_once_and_then_there_is_nothing_to_do() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(2));
    served
        .run(&["plan", "c", "--detailed-exitcode"])
        .code(2)
        .says("create 2 desktops");
    served
        .run(&["plan", "c", "--target", "pool.lba"])
        .code(1)
        .says("there is no pool.lba");
    served
        .run(&["plan", "c", "--target", "pool.lab"])
        .code(0)
        .says("create 2 desktops");
    served.run(&["apply", "c"]).code(64).says("--yes");
    served
        .run(&["apply", "c", "--yes"])
        .code(0)
        .says("committed as revision 1")
        .says("settled");
    served
        .run(&["plan", "c", "--detailed-exitcode"])
        .code(0)
        .says("No changes");
    served.run(&["apply", "c"]).code(0).says("already");
    served
        .run(&["drift", "--detailed-exitcode"])
        .code(0)
        .says("no drift");
    let applied = served.run(&["apply", "c", "--json"]).code(0).json();
    assert_eq!(
        (&applied["revision"], &applied["settled"]),
        (&1.into(), &true.into())
    );
}

#[test]
fn applied_again_it_waits_for_what_is_under_way_now() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=2s");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    served
        .run(&["desktop", "regrow", "lab-001", "--yes"])
        .code(0);
    // The run of that revision ended before; what is asked for is not there again yet.
    served
        .run(&["apply", "c", "--yes", "--wait"])
        .code(0)
        .says("settled");
    let status = served.run(&["status", "--json"]).json();
    assert_eq!(status["settled"], true);
}

#[test]
fn a_saved_plan_is_shown_offline_and_applied_exactly_or_not_at_all() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["plan", "c", "--out", "one.plan"]).code(0);
    place.write("c/a.hcl", &lab(2));
    served.run(&["plan", "c", "--out", "two.plan"]).code(0);
    place
        .run(&["show", "two.plan"])
        .code(0)
        .says("create 2 desktops");

    let tampered = place
        .read("two.plan")
        .replace("\"desktops\": 2", "\"desktops\": 9");
    assert_ne!(tampered, place.read("two.plan"));
    place.write("nine.plan", &tampered);
    served
        .run(&["apply", "nine.plan", "--yes"])
        .code(1)
        .says("seal");

    served.run(&["apply", "one.plan", "--yes"]).code(0);
    served
        .run(&["apply", "two.plan", "--yes"])
        .code(4)
        .says("was changed by admin")
        .says("coppice plan");
    served
        .run(&["apply", "one.plan", "--yes"])
        .code(0)
        .says("already");
}

#[test]
fn what_came_up_after_the_plan_waits_until_it_is_applied_again() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes"]).code(0);
    // A second desktop, and a version that is not in the grid yet: the plan cannot know that the first one is regrown.
    let newer = lab(2).replace("version = \"1\"", "version = \"2\"");
    place.write("c/a.hcl", &newer);
    let mut applying = served
        .command(&["apply", "c", "--yes", "--patience", "5m"])
        .spawn()
        .unwrap();
    let mut said = BufReader::new(applying.stderr.take().unwrap());
    read_until(&mut said, "committed as revision 2");
    let mut disk = std::fs::read(place.path("tiny.raw")).unwrap();
    disk[80_000] = 8;
    std::fs::write(place.path("newer.raw"), disk).unwrap();
    served
        .run(&["image", "import", "tiny", "newer.raw", "--version", "2"])
        .code(0);
    read_until(&mut said, "was not in the plan of revision 2");
    assert_eq!(applying.wait().unwrap().code(), Some(5));

    let lives = || {
        let list = served.run(&["desktop", "list", "--json"]).json();
        [0, 1].map(|n| list[n]["overlay"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        lives(),
        [
            "/sim/overlays/lab-001@1.qcow2",
            "/sim/overlays/lab-002@1.qcow2"
        ]
    );
    served
        .run(&["status"])
        .code(0)
        .says("not settled")
        .says("1 action was not in the plan that was applied");
    served
        .run(&["explain", "desktop.lab-001"])
        .code(0)
        .says("plan and apply again to review it");

    served
        .run(&["plan", "c"])
        .code(0)
        .says("regrow desktop.lab-001");
    served
        .run(&["apply", "c", "--yes"])
        .code(0)
        .says("committed as revision 3")
        .says("settled");
    assert_eq!(
        lives(),
        [
            "/sim/overlays/lab-001@2.qcow2",
            "/sim/overlays/lab-002@1.qcow2"
        ]
    );
    served.run(&["apply", "c", "--yes"]).code(0).says("already");
}

#[test]
fn a_configuration_with_errors_never_reaches_the_grid() {
    let place = Place::new();
    place.init("sim://");
    let served = Served::start(&place);
    place.write("c/a.hcl", &lab(1).replace("image.tiny", "image.tyni"));
    for verb in [["plan", "c"], ["apply", "c"]] {
        served.run(&verb).code(3).says("c/a.hcl").says("image.tiny");
    }
    assert_eq!(served.run(&["status", "--json"]).json()["revision"], 0);
}

#[test]
fn a_gate_stands_until_it_is_approved_by_its_name() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(5));
    served.run(&["apply", "c", "--yes"]).code(0);
    place.write("c/a.hcl", &lab(1));
    served
        .run(&["apply", "c", "--yes"])
        .code(5)
        .says("--approve mass-delete");
    assert_eq!(served.run(&["status", "--json"]).json()["revision"], 1);
    served
        .run(&["apply", "c", "--yes", "--approve", "mass-delete"])
        .code(0)
        .says("settled");
    assert_eq!(
        served
            .run(&["desktop", "list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn an_interrupt_ends_the_following_and_not_the_run() {
    let place = Place::new();
    // Guests that take an hour: the run cannot settle while the test looks.
    let served = Served::with_image(&place, "sim://?boot=60m");
    place.write("c/a.hcl", &lab(1));
    let mut apply = served.command(&["apply", "c", "--yes"]).spawn().unwrap();
    let mut err = BufReader::new(apply.stderr.take().unwrap());
    // The first line of progress: it follows by now.
    read_until(&mut err, "committed as revision 1");
    read_until(&mut err, "revision 1");
    signal(&apply, rustix::process::Signal::INT);
    assert_eq!(apply.wait().unwrap().code(), Some(130));
    let rest = std::io::read_to_string(err).unwrap();
    assert!(rest.contains("the run goes on in the grid"), "{rest}");
    assert_eq!(served.run(&["status", "--json"]).json()["revision"], 1);
}

#[test]
fn an_image_source_is_sent_by_apply_and_never_by_plan() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    let mut disk = std::fs::read(place.path("tiny.raw")).unwrap();
    disk[70_000] = 3;
    std::fs::create_dir_all(place.path("c")).unwrap();
    std::fs::write(place.path("c/own.raw"), disk).unwrap();
    place.write(
        "c/a.hcl",
        &lab(1).replace("version = \"1\"", "source  = \"own.raw\""),
    );
    served.run(&["plan", "c"]).code(0);
    assert_eq!(
        served
            .run(&["image", "list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    served.run(&["apply", "c", "--yes"]).code(0).says("settled");
    assert_eq!(
        served
            .run(&["image", "list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    served.run(&["plan", "c", "--detailed-exitcode"]).code(0);
}
