//! What is wrong is told with what to do about it, and nothing is lost. Each case is followed by a look at the grid:
//! it serves, and holds what it held.

use std::process::Command;

use crate::lab::{Lab, Ran};
use crate::machine;
use crate::wanted::Wanted;

fn edit(lab: &Lab, from: &str, to: &str) {
    let path = lab.path("d/coppice.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Runs the daemon, which must refuse.
#[track_caller]
fn refuses(lab: &Lab) -> Ran {
    lab.run(&["serve", "--config", "d/coppice.toml"])
}

#[test]
fn an_image_that_is_none_is_refused_and_nothing_of_it_stays() {
    let Some(mut lab) = Lab::found() else { return };
    lab.start();
    let image = std::fs::read(machine::image()).unwrap();

    let import = |name: &str| lab.run(&["image", "import", "tiny", name, "--version", "1"]);
    import("absent.qcow2")
        .code(1)
        .says("absent.qcow2")
        .says("check the path");

    lab.write("short.qcow2", &image[..image.len() / 2]);
    import("short.qcow2").code(1).says("try:");

    // The first table of the disk's clusters points past the end of the file.
    let mut corrupt = image.clone();
    let table = usize::try_from(u64::from_be_bytes(image[40..48].try_into().unwrap())).unwrap();
    corrupt[table + 1..table + 8].fill(0x7f);
    lab.write("corrupt.qcow2", &corrupt);
    import("corrupt.qcow2").code(1).says("try:");

    lab.write("empty.raw", b"");
    import("empty.raw").code(1).says("try:");

    // One that would make the server read a file of its own choosing.
    Ran::of(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(lab.path("d/admin.token"))
            .arg(lab.path("hostile.qcow2")),
    )
    .code(0);
    import("hostile.qcow2")
        .code(1)
        .says("based on another file")
        .says("try:");

    let images = lab.run(&["image", "list", "--json"]).code(0).json();
    assert_eq!(images, serde_json::json!([]));
    assert_eq!(lab.names("d/uploads"), Vec::<String>::new());
    for folder in ["images", "incoming"] {
        assert_eq!(
            lab.names(&format!("d/disks/{folder}")),
            Vec::<String>::new(),
            "{folder}"
        );
    }
    let whole = machine::image();
    import(whole.to_str().unwrap()).code(0);
    // A version never becomes other bytes.
    lab.write("other.raw", [7; 4096]);
    import("other.raw")
        .code(1)
        .says("other bytes")
        .says("--version");
    lab.stop();
}

#[test]
fn who_may_not_is_told_and_plans_that_were_touched_are_refused() {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };

    // Tokens: a wrong one, and one that is over.
    let with = |lab: &Lab, file: &str, arguments: &[&str]| {
        Ran::of(
            lab.command(arguments)
                .env("COPPICE_TOKEN_FILE", lab.path(file)),
        )
    };
    let admin = std::fs::read_to_string(lab.path("d/admin.token")).unwrap();
    let last = admin.trim_end().chars().last().unwrap();
    let other = if last == 'a' { "b" } else { "a" };
    lab.write(
        "wrong.token",
        format!(
            "{}{other}\n",
            &admin.trim_end()[..admin.trim_end().len() - 1]
        ),
    );
    with(&lab, "wrong.token", &["status"])
        .code(1)
        .says("COPPICE_TOKEN_FILE");
    lab.run(&[
        "token",
        "create",
        "brief",
        "--scope",
        "viewer",
        "--expires",
        "1s",
        "--out",
        "brief.token",
    ])
    .code(0);
    machine::until("a token that is over", || {
        let ran = with(&lab, "brief.token", &["status"]);
        (ran.code == 1).then_some(()).ok_or(ran.words)
    });
    with(&lab, "brief.token", &["status"])
        .says("expired")
        .says("coppice token create");

    // Plans: changed by hand, made by another grid's state.
    lab.want(Wanted::of(1));
    lab.run(&["plan", "c", "--out", "kept.plan"]).code(0);
    let plan = std::fs::read_to_string(lab.path("kept.plan")).unwrap();
    assert!(plan.contains("\"desktops\": 1"), "{plan}");
    lab.write(
        "touched.plan",
        plan.replace("\"desktops\": 1", "\"desktops\": 40"),
    );
    lab.run(&["apply", "touched.plan", "--yes"])
        .code(1)
        .says("seal")
        .says("try:");
    lab.write("cut.plan", &plan[..plan.len() / 2]);
    lab.run(&["apply", "cut.plan", "--yes"])
        .code(1)
        .says("not a saved plan");
    // The same without desktops, so that nothing has to boot; then the plan is stale.
    lab.want(Wanted::of(0));
    lab.run(&["apply", "c", "--yes"]).code(0);
    lab.run(&["apply", "kept.plan", "--yes"])
        .code(4)
        .says("was changed by admin")
        .says("coppice plan");

    // Texts: all that is wrong in them, in one run, and the grid keeps what it has.
    lab.write(
        "c/lab.hcl",
        "pool \"lab\" {\n  templat = template.small\n  desktops = \"many\"\n}\n",
    );
    lab.write(
        "c/more.hcl",
        "template \"small\" {\n  image = image.absent\n  memory = \"1XB\"\n}\n",
    );
    for verb in ["validate", "plan", "apply"] {
        let ran = lab.run(&[verb, "c"]).code(3);
        for words in [
            "did you mean",
            "c/lab.hcl:3",
            "c/more.hcl:2",
            "c/more.hcl:3",
        ] {
            assert!(
                ran.words.contains(words),
                "{verb}: no {words} in {}",
                ran.words
            );
        }
    }
    let status = lab.run(&["status", "--json"]).code(0).json();
    assert_eq!(status["revision"], 1);
    assert_eq!(lab.domains().len(), 0);
    lab.stop();
}

#[test]
fn a_server_that_cannot_run_here_says_why_and_runs_once_that_is_put_right() {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };

    // Two on one directory.
    let words = refuses(&lab).code(1).words;
    assert!(
        words.contains("in use") && words.contains("stop"),
        "{words}"
    );
    let taken = lab.url().trim_start_matches("https://").to_owned();
    edit(
        &lab,
        "listen = \"127.0.0.1:0\"",
        &format!("listen = \"{taken}\""),
    );
    refuses(&lab).code(1).says(&taken).says("ss -ltnp");
    lab.run(&["image", "list"]).code(0).says("tiny");
    lab.stop();
    edit(&lab, &taken, "127.0.0.1:0");

    // Its own file.
    edit(&lab, "listen", "lisen");
    refuses(&lab).code(3).says("did you mean `listen`?");
    edit(&lab, "lisen", "listen");

    // A hypervisor that is away, and one that is none.
    let uri = format!("qemu:///embed?root={}", lab.path("d/h").display());
    edit(
        &lab,
        &uri,
        "qemu+unix:///system?socket=/nowhere/libvirt-sock",
    );
    // It may come a little later than this server: that is waited for, and told.
    lab.start();
    machine::until("a hypervisor that is told to be away", || {
        let status = lab.run(&["status"]).words;
        let told = status.contains("away") && status.contains("/nowhere/libvirt-sock");
        told.then_some(()).ok_or(status)
    });
    lab.stop();
    edit(
        &lab,
        "qemu+unix:///system?socket=/nowhere/libvirt-sock",
        "kwemu:///system",
    );
    refuses(&lab).code(3).says("kwemu:///system").says("try:");
    edit(&lab, "kwemu:///system", &uri);

    // A log of another grid, of a newer version, and damaged.
    lab.run(&[
        "init",
        "--data",
        "e",
        "--name",
        "host-1",
        "--listen",
        "127.0.0.1:0",
    ])
    .code(0);
    let (mine, theirs, kept) = (lab.path("d/grid"), lab.path("e/grid"), lab.path("kept"));
    std::fs::rename(&mine, &kept).unwrap();
    std::fs::rename(&theirs, &mine).unwrap();
    refuses(&lab)
        .code(1)
        .says("is the authority of")
        .says("put this grid's files there");
    std::fs::rename(&mine, &theirs).unwrap();
    std::fs::rename(&kept, &mine).unwrap();

    let format = lab.path("d/grid/format");
    let written = std::fs::read(&format).unwrap();
    let newer: std::collections::BTreeMap<&str, u32> = [("version", 1000)].into();
    let mut bytes = Vec::new();
    ciborium::into_writer(&newer, &mut bytes).unwrap();
    std::fs::write(&format, bytes).unwrap();
    refuses(&lab).code(1).says("newer version");
    std::fs::write(&format, &written[..written.len() / 2]).unwrap();
    refuses(&lab).code(1).says("damaged").says("backup");
    std::fs::write(&format, written).unwrap();

    // And over what is there nobody founds another.
    lab.run(&["init", "--data", "d", "--name", "host-1"])
        .code(1)
        .says("holds a grid already");
    lab.start();
    lab.run(&["image", "status"])
        .code(0)
        .says("tiny")
        .says("every chunk verified");

    // An image whose file is gone is told, and comes back by what is told to do.
    let images = lab.path("d/disks/images");
    for name in lab.names("d/disks/images") {
        if name.ends_with(".raw") {
            std::fs::remove_file(images.join(name)).unwrap();
        }
    }
    machine::until("a lost image that is told", || {
        let status = lab.run(&["image", "status"]).words;
        status.contains("bad:").then_some(()).ok_or(status)
    });
    let image = machine::image();
    let image = image.to_str().unwrap();
    lab.run(&["image", "import", "tiny", image, "--version", "1"])
        .code(0);
    lab.run(&["image", "status"])
        .code(0)
        .says("every chunk verified");
    lab.stop();
}
