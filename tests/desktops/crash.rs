//! `kill -9` of the daemon at points of an apply. Whatever it was doing, the next start ends where it would have.

use crate::lab::Lab;
use crate::machine::until;
use crate::wanted::Wanted;

/// Applies three desktops, kills the daemon as soon as `point` is reached, starts it again and judges.
fn killed_when(point: &str, reached: impl Fn(&Lab) -> bool) {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };
    lab.want(Wanted::of(3));
    lab.run(&["apply", "c", "--yes", "--detach"]).code(0);
    until(point, || {
        reached(&lab).then_some(()).ok_or_else(|| lab.log())
    });
    lab.kill();

    let domains = lab.domains();
    let processes = lab.processes();
    lab.start();
    lab.settle(3);
    let desktops = lab.desktops();
    for desktop in &desktops {
        if let Some(uuid) = domains.get(&desktop.id) {
            assert_eq!(
                &desktop.uuid, uuid,
                "a desktop that was there is another now"
            );
        }
        assert_eq!(desktop.incarnation, 1, "{desktop:?}");
    }
    if point == ALL_STARTED {
        assert_eq!(lab.processes(), processes, "a guest was started again");
    }
    lab.run(&["plan", "c", "--detailed-exitcode"]).code(0);
    lab.inspect(&desktops);

    // And what was made that way goes like everything else.
    lab.start();
    lab.want(Wanted {
        desktops: None,
        ..Wanted::of(0)
    });
    lab.run(&["apply", "c", "--yes", "--approve", "mass-delete"])
        .code(0);
    lab.settle(0);
    assert_eq!(lab.guests(), []);
    lab.bare();
}

const ALL_STARTED: &str = "all guests started";

#[test]
fn killed_right_after_the_commit() {
    killed_when("the commit", |_| true);
}

#[test]
fn killed_between_an_overlay_and_its_domain() {
    killed_when("the first overlay", |lab| {
        let files = lab.names("d/disks/overlays");
        files.iter().any(|name| name.ends_with(".qcow2"))
    });
}

#[test]
fn killed_while_the_first_guest_is_started() {
    killed_when("the first guest", |lab| {
        let files = lab.names("d/h/run/qemu");
        files.iter().any(|name| name.starts_with("lab-"))
    });
}

#[test]
fn killed_when_all_are_started_and_none_is_ready() {
    killed_when(ALL_STARTED, |lab| {
        let runs = |slot: u32| {
            let file = lab.path(&format!("d/h/run/qemu/lab-{slot:03}.xml"));
            std::fs::read_to_string(file)
                .is_ok_and(|text| text.contains("<domstatus state='running'"))
        };
        (1..=3).all(runs) && lab.processes().len() == 3
    });
}
