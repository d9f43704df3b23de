use crate::place::{Place, Served, lab};

fn edit(place: &Place, change: impl FnOnce(String) -> String) {
    let text = place.read("g/coppice.toml");
    place.write("g/coppice.toml", &change(text));
}

#[test]
fn all_unknown_keys_are_told_with_line_and_suggestion() {
    let place = Place::new();
    place.init("sim://");
    edit(&place, |text| {
        format!("lables = []\n{text}\nnetwroks = {{}}\n")
    });
    let ran = place.run(&["serve", "--config", "g/coppice.toml"]).code(3);
    assert!(ran.err.contains("g/coppice.toml:1:1"), "{}", ran.err);
    assert!(
        ran.err.contains("did you mean `labels`?") && ran.err.contains("did you mean `networks`?"),
        "{}",
        ran.err
    );
}

#[test]
fn a_file_that_is_absent_says_how_to_make_one() {
    Place::new().run(&["serve"]).code(1).says("coppice init");
}

#[test]
fn a_port_in_use_is_told_with_what_to_look_at() {
    let place = Place::new();
    place.init("sim://");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    edit(&place, |text| {
        text.replace("127.0.0.1:0\"", &format!("{address}\""))
    });
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says(&address)
        .says("ss -ltnp");
}

#[test]
fn only_one_server_runs_on_a_directory() {
    let place = Place::new();
    place.init("sim://");
    let _first = Served::start(&place);
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says("in use by another process");
}

#[test]
fn a_member_keeps_its_name() {
    let place = Place::new();
    place.init("sim://");
    edit(&place, |text| text.replace("host-1", "host-2"));
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says("name = \"host-1\"");
}

#[test]
fn a_directory_without_a_grid_and_one_of_another_grid_are_told() {
    let place = Place::new();
    place.init("sim://");
    let other = Place::new();
    other.init("sim://");
    std::fs::rename(place.path("g/identity"), place.path("kept")).unwrap();
    std::fs::rename(other.path("g/identity"), place.path("g/identity")).unwrap();
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says("is the authority of");
    std::fs::remove_dir_all(place.path("g/grid")).unwrap();
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says("coppice init --data");
}

#[test]
fn a_stop_is_clean_and_what_was_agreed_is_there_after_it() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes", "--detach"]).code(0);
    assert_eq!(served.stop(), 0);
    let again = Served::start(&place);
    let status = again.run(&["status", "--json"]).code(0).json();
    assert_eq!(status["revision"], 1);
}

#[test]
fn a_killed_server_forgets_nothing_either() {
    let place = Place::new();
    let served = Served::with_image(&place, "sim://?boot=1ms");
    place.write("c/a.hcl", &lab(1));
    served.run(&["apply", "c", "--yes", "--detach"]).code(0);
    drop(served);
    let again = Served::start(&place);
    let status = again.run(&["status", "--json"]).code(0).json();
    assert_eq!(status["revision"], 1);
}

#[test]
fn a_hypervisor_that_is_not_there_yet_does_not_keep_a_server_from_starting() {
    let place = Place::new();
    let socket = place.path("libvirt-sock");
    place.init(&format!("qemu+unix:///system?socket={}", socket.display()));
    let served = Served::start(&place);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let status = served.run(&["status"]).code(0);
        if status.out.contains("its hypervisor does not answer")
            && status.out.contains("libvirt-sock")
        {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{}", status.out);
    }
    place.write("c/a.hcl", &lab(1));
    served.run(&["plan", "c"]).code(7);
    assert_eq!(served.stop(), 0);
}

#[test]
fn a_hypervisor_that_can_never_be_ends_a_server_at_once() {
    let place = Place::new();
    place.init("sim://");
    for (wrong, why) in [
        ("quemu:///system", "qemu:///system"),
        ("qemu:///embed", "root=DIR"),
        ("sim://?boot=soon", "boot=soon"),
    ] {
        edit(&place, |text| {
            let lines = text.lines().map(|line| match line {
                line if line.starts_with("hypervisor") => format!("hypervisor = \"{wrong}\"\n"),
                line => format!("{line}\n"),
            });
            lines.collect()
        });
        place
            .run(&["serve", "--config", "g/coppice.toml"])
            .code(3)
            .says(why);
    }
}

#[test]
fn a_directory_of_a_newer_version_is_told_and_left_alone() {
    let place = Place::new();
    place.init("sim://");
    // The number behind its key, in CBOR.
    let path = place.path("g/grid/format");
    let mut format = std::fs::read(&path).unwrap();
    let key = format.windows(7).position(|w| w == b"version").unwrap();
    format[key + 7] = 9;
    std::fs::write(&path, &format).unwrap();
    place
        .run(&["serve", "--config", "g/coppice.toml"])
        .code(1)
        .says("was written by a newer version")
        .says("start the newer version; nothing was changed");
    assert_eq!(std::fs::read(&path).unwrap(), format);
}
