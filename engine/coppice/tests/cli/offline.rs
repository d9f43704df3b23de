use crate::place::{Place, lab, ran};

#[test]
fn a_valid_configuration_is_told_so() {
    let place = Place::new();
    place.write("c/a.hcl", &lab(3));
    place
        .run(&["validate", "c"])
        .code(0)
        .says("valid: one file");
    let json = place.run(&["validate", "c", "--json"]).code(0).json();
    assert_eq!(json["valid"], true);
}

#[test]
fn everything_wrong_in_all_files_is_told_in_one_run() {
    let place = Place::new();
    place.write(
        "c/a.hcl",
        &lab(3).replace("template.small", "template.smal"),
    );
    place.write("c/b.hcl", "network \"n\" {\n  brigde = \"br0\"\n}\n");
    let ran = place
        .run(&["validate", "c"])
        .code(3)
        .says("c/a.hcl")
        .says("c/b.hcl");
    assert!(
        ran.err.contains("template.small") && ran.err.contains("bridge"),
        "{}",
        ran.err
    );
    let json = place.run(&["validate", "c", "--json"]).code(3).json();
    assert_eq!(json["valid"], false);
    let first = &json["diagnostics"][0];
    for key in ["path", "line", "column", "severity", "message"] {
        assert!(!first[key].is_null(), "no {key} in {first}");
    }
}

#[test]
fn a_directory_without_a_configuration_is_told() {
    let place = Place::new();
    place.run(&["validate"]).code(3).says("no *.hcl file");
    place.run(&["validate", "nowhere"]).code(1).says("nowhere");
}

#[test]
fn variables_come_from_the_environment_from_files_and_from_the_command_line() {
    let place = Place::new();
    let text = lab(3).replace("desktops = 3", "desktops = var.n");
    place.write(
        "c/a.hcl",
        &format!("variable \"n\" {{\n  type = number\n}}\n{text}"),
    );
    place.write("vars", "n = 4\n");
    place.run(&["validate", "c"]).code(3);
    place.run(&["validate", "c", "--var", "n=5"]).code(0);
    place.run(&["validate", "c", "--var-file", "vars"]).code(0);
    let mut command = place.command(&["validate", "c"]);
    command.env("COPPICE_VAR_n", "6");
    ran(command).code(0);
    place
        .run(&["validate", "c", "--var", "n"])
        .code(64)
        .says("NAME=VALUE");
}

#[test]
fn fmt_checks_without_writing_and_writes_the_canonical_layout() {
    let place = Place::new();
    let untidy = "grid   \"lab\" {\n timezone=\"UTC\"\n}\n";
    place.write("a.hcl", untidy);
    place.run(&["fmt", "--check"]).code(3).says("a.hcl");
    assert_eq!(place.read("a.hcl"), untidy);
    place
        .run(&["fmt", "--diff"])
        .code(0)
        .says("+  timezone = \"UTC\"");
    assert_eq!(place.read("a.hcl"), untidy);
    place.run(&["fmt"]).code(0).says("a.hcl");
    assert_eq!(
        place.read("a.hcl"),
        "grid \"lab\" {\n  timezone = \"UTC\"\n}\n"
    );
    place.run(&["fmt", "--check"]).code(0);
    let piped = place.run_with(&["fmt", "-"], untidy).code(0);
    assert_eq!(piped.out, place.read("a.hcl"));
}

#[test]
fn fmt_leaves_what_does_not_parse_as_it_is() {
    let place = Place::new();
    place.write("a.hcl", "grid \"lab\" {\n");
    place.run(&["fmt"]).code(3).says("a.hcl");
    assert_eq!(place.read("a.hcl"), "grid \"lab\" {\n");
}

#[test]
fn the_language_is_printed_as_json_schema() {
    let place = Place::new();
    let schema = place.run(&["schema", "--json"]).code(0).json();
    assert!(schema["$schema"].is_string(), "{schema}");
    assert_eq!(place.run(&["schema"]).code(0).json(), schema);
}

#[test]
fn what_is_no_saved_plan_is_not_shown() {
    let place = Place::new();
    place.write("p", "{}");
    place
        .run(&["show", "p"])
        .code(1)
        .says("not a saved plan")
        .says("coppice plan --out");
}
