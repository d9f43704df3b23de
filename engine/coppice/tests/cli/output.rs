//! How much is said, in which form, in which colours, and how long an answer is waited for.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::place::{Place, Ran, Served, lab, ran};

/// How a colour begins.
const ESCAPE: char = '\u{1b}';

/// What a command that succeeds writes to its standard output when that is a terminal.
fn on_a_terminal(mut command: Command) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    command.stdout(Stdio::from(theirs));
    let mut child = command.spawn().unwrap();
    // Our own copy of the terminal: while anybody has one, reading does not end.
    drop(command);
    let mut text = Vec::new();
    // Linux ends the reading with EIO when the last one who could write is gone.
    let _ = File::from(ours).read_to_end(&mut text);
    assert!(child.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn colours_are_for_terminals_unless_something_else_is_said() {
    let place = Place::new();
    place.write("c/a.hcl", &lab(1));
    let shown = |arguments: &[&str], set: Option<(&str, &str)>| {
        let mut command = place.command(&[&["validate", "c"], arguments].concat());
        command.envs(set);
        on_a_terminal(command)
    };
    let coloured = shown(&[], None);
    assert!(
        coloured.contains(ESCAPE) && coloured.contains("valid:"),
        "{coloured:?}"
    );
    for (arguments, set) in [
        (&[][..], Some(("NO_COLOR", "1"))),
        (&[], Some(("TERM", "dumb"))),
        (&["--color", "never"], None),
    ] {
        let plain = shown(arguments, set);
        assert!(
            !plain.contains(ESCAPE) && plain.contains("valid: one file"),
            "{arguments:?} {set:?}: {plain:?}"
        );
    }
    // An empty variable is one that is not set, and a flag goes before the surroundings.
    assert!(shown(&[], Some(("NO_COLOR", ""))).contains(ESCAPE));
    assert!(shown(&["--color", "always"], Some(("NO_COLOR", "1"))).contains(ESCAPE));
    let piped = place.run(&["validate", "c"]).code(0);
    assert!(!piped.out.contains(ESCAPE), "{:?}", piped.out);
    let piped = place.run(&["validate", "c", "--color", "always"]).code(0);
    assert!(piped.out.contains(ESCAPE), "{:?}", piped.out);
    // Also what goes wrong is told in colours, and only then.
    place.write("c/a.hcl", "nonsense {}\n");
    let told = |arguments: &[&str]| place.run(&[&["validate", "c"], arguments].concat()).code(3);
    assert!(told(&["--color", "always"]).err.contains(ESCAPE));
    assert!(!told(&[]).err.contains(ESCAPE));
}

#[test]
fn quiet_leaves_what_was_asked_for_and_what_went_wrong() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    let plan = ["plan", "c", "--out", "kept.plan"];
    let loud = served.run(&plan).code(0).says("the plan is kept in");
    assert!(loud.err.contains("next:"), "{}", loud.err);
    let quiet = served.run(&[&plan[..], &["-q"]].concat()).code(0);
    assert_eq!(quiet.err, "");
    assert!(
        quiet.out.contains("create desktop.lab-001"),
        "{}",
        quiet.out
    );
    let applied = served.run(&["apply", "c", "--yes", "--quiet"]).code(0);
    assert_eq!(applied.err, "");
    assert_eq!(served.run(&["status", "--json"]).json()["revision"], 1);
    place.write("c/a.hcl", &lab(1).replace("image.tiny", "image.tyni"));
    let wrong = served.run(&["plan", "c", "-q"]).code(3);
    assert!(wrong.err.contains("image.tiny"), "{}", wrong.err);
}

#[test]
fn an_answer_is_waited_for_as_long_as_is_said() {
    let place = Place::new();
    place.init("sim://");
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let mut command = place.command(&["status", "--timeout", "1s"]);
    command
        .env("COPPICE_SERVER", &url)
        .env("COPPICE_CA_FILE", place.path("g/ca.pem"))
        .env("COPPICE_TOKEN_FILE", place.path("g/admin.token"));
    ran(command)
        .code(1)
        .says("did not answer within 1 s")
        .says("--timeout 2m");
}

/// A grid with nothing in it, and a configuration of two pools.
fn two_pools(place: &Place) -> Served<'_> {
    let served = Served::with_image(place, "sim://?boot=1ms");
    place.write(
        "c/a.hcl",
        &format!(
            "{}\npool \"office\" {{\n  template = template.small\n  desktops = 1\n}}\n",
            lab(2)
        ),
    );
    served
}

#[test]
fn a_plan_says_as_much_as_is_asked_for() {
    let place = Place::new();
    let served = two_pools(&place);
    let plan = |detail: &[&str]| served.run(&[&["plan", "c"], detail].concat()).code(0).out;
    let summary = plan(&["--detail", "summary"]);
    assert!(
        summary.contains("to create") && !summary.contains("pool.lab"),
        "{summary}"
    );
    let normal = plan(&[]);
    assert_eq!(plan(&["--detail", "normal"]), normal);
    assert!(
        normal.contains("create 2 desktops") && !normal.contains("desktop.lab-002"),
        "{normal}"
    );
    let full = plan(&["--detail", "full"]);
    assert!(
        full.contains("desktop.lab-001 desktop.lab-002") && full.contains("96MiB"),
        "{full}"
    );
}

#[test]
fn a_plan_for_a_target_is_about_nothing_else() {
    let place = Place::new();
    let served = two_pools(&place);
    let objects = |ran: Ran| {
        let json = ran.code(0).json();
        assert_eq!(json["complete"], false, "it is a part only");
        let groups = json["actions"].as_array().unwrap().clone();
        let all = groups.iter().flat_map(|g| g["objects"].as_array().unwrap());
        all.map(|object| object.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // With what must be done before it.
    let of_lab = objects(served.run(&["plan", "c", "--target", "pool.lab", "--json"]));
    assert_eq!(
        of_lab,
        [
            "image.tiny",
            "template.small",
            "pool.lab",
            "desktop.lab-001",
            "desktop.lab-002"
        ]
    );
    let both = ["--target", "pool.lab", "--target", "pool.office"];
    let both = objects(served.run(&[&["plan", "c", "--json"], &both[..]].concat()));
    assert!(both.iter().any(|o| o == "desktop.office-001"), "{both:?}");
    served
        .run(&["plan", "c", "--target", "pool.lab", "--out", "p"])
        .code(64)
        .says("--target");
    served
        .run(&["plan", "c", "--target", "lab"])
        .code(64)
        .says("pool.lab");
}

#[test]
fn a_plan_is_shown_as_markdown_for_review_also_offline() {
    let place = Place::new();
    let served = two_pools(&place);
    let shown = served
        .run(&["plan", "c", "--format", "markdown", "--out", "p", "-q"])
        .code(0)
        .out;
    assert!(
        shown.starts_with("<!-- coppice-plan:lab -->\n### Plan `"),
        "{shown}"
    );
    let table = "| risk | what | why | who feels it | waits for |";
    assert!(
        shown.contains(table) && shown.contains("image.tiny"),
        "{shown}"
    );
    assert_eq!(place.run(&["show", "p", "--format", "markdown"]).out, shown);
    let text = place.run(&["show", "p"]).code(0).out;
    assert!(!text.contains(table), "{text}");
}
