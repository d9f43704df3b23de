use crate::place::{Place, mode};

#[test]
fn a_grid_is_made_with_its_authority_token_and_file() {
    let place = Place::new();
    let made = place
        .run(&[
            "init",
            "--data",
            "g",
            "--name",
            "host-1",
            "--hypervisor",
            "sim://",
            "--json",
        ])
        .code(0)
        .json();
    assert_eq!(made["server"], "host-1");
    assert_eq!(mode(&place.path("g")), 0o700);
    assert_eq!(mode(&place.path("g/admin.token")), 0o600);
    assert!(place.read("g/admin.token").starts_with("admin."));
    assert!(place.read("g/ca.pem").contains("BEGIN CERTIFICATE"));
    assert!(
        place
            .read("g/coppice.toml")
            .contains("hypervisor = \"sim://\"")
    );
}

#[test]
fn what_comes_next_is_said_unless_nobody_would_type_it() {
    let place = Place::new();
    let arguments = [
        "init",
        "--data",
        "g",
        "--hypervisor",
        "sim://",
        "--name",
        "a",
    ];
    place
        .run(&arguments)
        .code(0)
        .says("coppice serve --config")
        .says("COPPICE_CA_FILE");
    let mut command = place.command(&[
        "init",
        "--data",
        "h",
        "--hypervisor",
        "sim://",
        "--name",
        "a",
    ]);
    command.env("COPPICE_IN_AUTOMATION", "1");
    assert!(
        !crate::place::ran(command)
            .code(0)
            .out
            .contains("coppice serve")
    );
}

#[test]
fn a_directory_that_holds_something_is_refused_and_left_as_it_is() {
    let place = Place::new();
    place.write("g/thesis.txt", "mine");
    place
        .run(&["init", "--data", "g", "--hypervisor", "sim://"])
        .code(1)
        .says("holds something else");
    assert_eq!(place.read("g/thesis.txt"), "mine");
    assert!(!place.path("g/identity").exists());
}

#[test]
fn a_grid_is_never_founded_over_another() {
    let place = Place::new();
    place.init("sim://");
    let token = place.read("g/admin.token");
    place
        .run(&["init", "--data", "g", "--hypervisor", "sim://"])
        .code(1)
        .says("holds a grid already");
    assert_eq!(place.read("g/admin.token"), token);
}

#[test]
fn an_init_that_was_cut_off_is_begun_again() {
    let place = Place::new();
    place.init("sim://");
    // As if the power had gone before the last step.
    place.write("g/init.begun", "");
    std::fs::remove_file(place.path("g/coppice.toml")).unwrap();
    let old = place.read("g/ca.pem");
    place.init("sim://");
    assert_ne!(place.read("g/ca.pem"), old);
    assert!(!place.path("g/init.begun").exists());
}

#[test]
fn a_place_too_deep_for_sockets_is_told_before_anything_is_made() {
    let place = Place::new();
    let deep = "a-directory-with-a-rather-long-name/and-another-one-below-it";
    place
        .run(&["init", "--data", deep])
        .code(1)
        .says("too long")
        .says("--data /var/lib/coppice");
    assert!(!place.path(deep).exists());
}

#[test]
fn a_hypervisor_that_is_none_is_told() {
    let place = Place::new();
    place
        .run(&["init", "--data", "g", "--hypervisor", "vbox"])
        .code(64)
        .says("qemu:///system");
    place
        .run(&["init", "--data", "g", "--hypervisor", "sim://?sed=1"])
        .code(64)
        .says("seed=NUMBER");
}
