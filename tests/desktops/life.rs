//! The whole life of a pool, from the image to nothing left.

use std::process::Command;

use crate::lab::{Lab, Ran};
use crate::machine;
use crate::wanted::Wanted;

#[test]
fn a_pool_is_made_grows_shrinks_changes_and_goes_without_a_trace() {
    let Some(mut lab) = Lab::with_image() else {
        return;
    };
    lab.apply(Wanted::of(3));
    lab.settle(3);
    let first = lab.desktops();
    lab.run(&["plan", "c", "--detailed-exitcode"]).code(0);
    lab.run(&["drift", "--detailed-exitcode"]).code(0);
    let picture = lab.path("screen.png");
    lab.run(&[
        "desktop",
        "screenshot",
        "lab-01",
        "-o",
        picture.to_str().unwrap(),
    ])
    .code(0);
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));

    // A restart is noticed by nobody who sits at a desktop.
    let processes = lab.processes();
    assert_eq!(processes.len(), 3);
    lab.inspect(&first);
    lab.start();
    lab.stop(); // at once, while libvirt is still busy taking the guests over
    lab.start();
    lab.settle(3);
    assert_eq!(lab.desktops(), first);
    assert_eq!(lab.processes(), processes);

    // More, and fewer: those that stay are left alone.
    lab.apply(Wanted::of(4));
    lab.settle(4);
    assert_eq!(lab.desktops()[..3], first);
    lab.apply(Wanted::of(2));
    lab.settle(2);
    assert_eq!(lab.desktops(), first[..2]);
    assert_eq!(lab.domains().len(), 2);

    // Another template: the same desktops with the same disks, started again one after the other.
    let roomy = Wanted {
        memory: 112,
        ..Wanted::of(2)
    };
    lab.apply(roomy);
    lab.settle(2);
    assert_eq!(lab.desktops(), first[..2]);
    for name in ["lab-001", "lab-002"] {
        let live = std::fs::read_to_string(lab.path(&format!("d/h/run/qemu/{name}.xml"))).unwrap();
        assert!(live.contains(">114688</currentMemory>"), "{live}");
    }

    // Another version of the image: other desktops under the same names.
    let newer = newer_image(&lab);
    lab.run(&["image", "import", "tiny", &newer, "--version", "2"])
        .code(0);
    lab.apply(Wanted {
        version: 2,
        ..roomy
    });
    lab.settle(2);
    let regrown = lab.desktops();
    for (old, new) in first.iter().zip(&regrown) {
        assert_eq!(new.image, "tiny@2");
        assert_eq!(new.name, old.name);
        assert!(
            new.incarnation > old.incarnation && new.uuid != old.uuid,
            "{new:?}"
        );
    }
    lab.inspect(&regrown);
    lab.start();
    lab.settle(2);

    // Everything goes, once a person says so.
    lab.want(Wanted {
        desktops: None,
        ..roomy
    });
    lab.run(&["apply", "c", "--yes", "--approve", "mass-delete"])
        .code(0);
    lab.settle(0);

    // Without a block the image stays, until a person removes it; then its files go by themselves.
    lab.write("c/lab.hcl", "grid \"lab\" {}\n");
    lab.run(&["apply", "c", "--yes", "--approve", "empty-configuration"])
        .code(0);
    lab.settle(0);
    assert!(!lab.names("d/disks/images").is_empty());
    for version in ["1", "2"] {
        lab.run(&["image", "remove", "tiny", version]).code(0);
    }
    machine::until("a store without images", || {
        let left = lab.names("d/disks/images");
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}\n{}", lab.log()))
    });
    lab.bare();
    assert_eq!(lab.names("d/disks/incoming"), Vec::<String>::new());
}

/// The image with one sector more between its start and its first partition.
fn newer_image(lab: &Lab) -> String {
    let path = lab.path("newer.qcow2");
    std::fs::copy(machine::image(), &path).unwrap();
    Ran::of(
        Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write -P 7 51200 512"])
            .arg(&path),
    )
    .code(0);
    path.to_str().unwrap().to_owned()
}
