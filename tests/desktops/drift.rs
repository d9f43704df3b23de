//! Other hands: what they did while the daemon was down is found, told and put right; what is theirs is left alone.

use crate::lab::Lab;
use crate::machine::until;
use crate::wanted::Wanted;

/// A domain of somebody else, with a name that the grid would give.
const STRANGER: &str = "<domain type='qemu'><name>lab-004</name>\
    <uuid>5c0ffee5-0000-4000-8000-000000000004</uuid><memory unit='MiB'>16</memory>\
    <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>";

#[test]
fn what_other_hands_did_is_put_right_and_what_is_theirs_stays() {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };
    lab.apply(Wanted::of(3));
    lab.settle(3);
    let before = lab.desktops();

    // While the daemon runs: a guest ends by itself.
    let killed = lab.kill_guest("lab-001");
    until("a guest that was started again", || {
        let now = lab.processes().get("lab-001").copied();
        let again = now.is_some_and(|pid| pid != killed);
        again.then_some(()).ok_or_else(|| lab.log())
    });
    lab.settle(3);
    assert_eq!(lab.desktops(), before, "its disk stays");

    // While it is down: one is changed, one loses its disk, one is undefined, and one is defined that is not ours.
    lab.stop();
    lab.virsh(&["setvcpus", "lab-001", "2", "--config", "--maximum"]);
    lab.kill_guest("lab-002");
    std::fs::remove_file(&before[1].overlay).unwrap();
    lab.kill_guest("lab-003");
    lab.virsh(&["undefine", "lab-003"]);
    lab.write("stranger.xml", STRANGER);
    let stranger = lab.path("stranger.xml");
    lab.virsh(&["define", stranger.to_str().unwrap()]);
    let theirs = std::fs::read(lab.path("d/h/etc/qemu/lab-004.xml")).unwrap();
    let changed = std::fs::read_to_string(lab.path("d/h/etc/qemu/lab-001.xml")).unwrap();
    assert!(changed.contains(">2</vcpu>"), "{changed}");
    assert!(!lab.domains().contains_key("lab-003"));

    lab.start();
    until("drift that is told, or put right", || {
        let drift = lab.run(&["drift", "--detailed-exitcode"]);
        let status = lab.run(&["status", "--json"]).json();
        let told = drift.code == 2 || status["settled"] == true;
        told.then_some(()).ok_or(drift.words)
    });
    lab.settle(3);
    let after = lab.desktops();
    assert_eq!(after[0], before[0], "a change is undone, the desktop stays");
    assert!(
        after[1].incarnation > before[1].incarnation,
        "without its disk it is another"
    );
    assert_eq!(after[2].name, before[2].name);
    let text = std::fs::read_to_string(lab.path("d/h/etc/qemu/lab-001.xml")).unwrap();
    assert!(text.contains(">1</vcpu>"), "{text}");
    lab.run(&["drift", "--detailed-exitcode"]).code(0);

    // The stranger is listed, and in nobody's way.
    let servers = lab.run(&["server", "list", "--json"]).code(0);
    assert!(servers.words.contains("lab-004"), "{}", servers.words);
    assert_eq!(
        std::fs::read(lab.path("d/h/etc/qemu/lab-004.xml")).unwrap(),
        theirs
    );

    lab.want(Wanted {
        desktops: None,
        ..Wanted::of(0)
    });
    lab.run(&["apply", "c", "--yes", "--approve", "mass-delete"])
        .code(0);
    lab.settle(0);
    lab.stop();
    assert_eq!(lab.domains().len(), 1);
    assert_eq!(
        std::fs::read(lab.path("d/h/etc/qemu/lab-004.xml")).unwrap(),
        theirs
    );
}

#[test]
fn a_name_that_is_taken_is_told_and_the_stranger_is_left_alone() {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };
    lab.stop();
    lab.write("stranger.xml", STRANGER.replace("lab-004", "lab-001"));
    let stranger = lab.path("stranger.xml");
    lab.virsh(&["define", stranger.to_str().unwrap()]);
    let file = lab.path("d/h/etc/qemu/lab-001.xml");
    let theirs = std::fs::read(&file).unwrap();
    lab.start();
    lab.want(Wanted::of(2));
    lab.run(&["apply", "c", "--yes", "--detach"]).code(0);
    until("a word about the name", || {
        let told = lab.run(&["explain", "pool.lab"]).words + &lab.run(&["status"]).words;
        let named =
            told.contains("lab-001") && (told.contains("name") || told.contains("not ours"));
        named.then_some(()).ok_or(told)
    });
    assert_eq!(std::fs::read(&file).unwrap(), theirs);
    lab.stop();
    lab.virsh(&["undefine", "lab-001"]);
    lab.start();
    lab.settle(2);
    let desktops = lab.desktops();
    lab.inspect(&desktops);
}
