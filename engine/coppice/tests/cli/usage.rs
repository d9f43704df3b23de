use crate::place::Place;

#[test]
fn what_is_not_understood_ends_with_64_and_a_suggestion() {
    let place = Place::new();
    place.run(&["statsu"]).code(64).says("status");
    place.run(&[]).code(64);
    place.run(&["init"]).code(64).says("--data");
    place
        .run(&["init", "--data", "g", "--listen", "host-1"])
        .code(64)
        .says("10.0.0.5:7443");
    place
        .run(&["apply", "--approve", "everything"])
        .code(64)
        .says("mass-delete");
    place
        .run(&["status", "--timeout", "soon"])
        .code(64)
        .says("20m");
    place
        .run(&["image", "import", "Tiny", "f", "--version", "1"])
        .code(64)
        .says("image name");
    place.run(&["explain", "lab"]).code(64).says("pool.lab");
}

#[test]
fn help_is_no_error_and_teaches_by_example() {
    let place = Place::new();
    place.run(&["--help"]).code(0).says("Exit codes");
    place
        .run(&["plan", "--help"])
        .code(0)
        .says("coppice plan examples/lab");
    place
        .run(&["--version"])
        .code(0)
        .says(env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let place = Place::new();
    for (shell, said) in [
        ("bash", "complete -F _coppice"),
        ("zsh", "#compdef coppice"),
        ("fish", "complete -c coppice"),
    ] {
        place.run(&["completion", shell]).code(0).says(said);
    }
    place.run(&["man"]).code(0).says(".TH coppice");
    place
        .run(&["man", "image", "import"])
        .code(0)
        .says("coppice\\-image\\-import");
    place.run(&["man", "nothing"]).code(64).says("no verb");
}
