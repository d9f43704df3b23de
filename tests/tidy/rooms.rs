//! The rooms and what each may import: the house's table, from which a new edge is a design change.

use std::collections::BTreeMap;

use crate::{nothing_in, repository};

/// A room: its package, the rooms it may import, and crates that it must never depend on, with the reason.
struct Room {
    package: &'static str,
    imports: &'static [&'static str],
    never: &'static [&'static str],
    because: &'static str,
}

const PURE: &[&str] = &[
    "async-std",
    "axum",
    "fjall",
    "getrandom",
    "hyper",
    "openraft",
    "rand",
    "reqwest",
    "rustix",
    "rustls",
    "smol",
    "tempfile",
    "tokio",
    "virt",
    "virt-sys",
];
const DECIDES_NOTHING_ABOUT_THE_WORLD: &str =
    "this room takes values and returns values; the world is behind a port of coppice-world";

/// In the order of the table. `coppice` and `coppice-tests` may import everything.
const ROOMS: &[Room] = &[
    Room {
        package: "coppice-schema",
        imports: &[],
        never: PURE,
        because: DECIDES_NOTHING_ABOUT_THE_WORLD,
    },
    Room {
        package: "coppice-plans",
        imports: &["coppice-schema"],
        never: PURE,
        because: DECIDES_NOTHING_ABOUT_THE_WORLD,
    },
    Room {
        package: "coppice-golden",
        imports: &["coppice-schema"],
        never: &[
            "axum", "fjall", "hyper", "openraft", "reqwest", "virt", "virt-sys",
        ],
        because: "images know nothing of hypervisors, Raft and HTTP; those are coppice-world, coppice-grid and coppice-portal",
    },
    Room {
        package: "coppice-state",
        imports: &["coppice-schema", "coppice-plans"],
        never: PURE,
        because: DECIDES_NOTHING_ABOUT_THE_WORLD,
    },
    Room {
        package: "coppice-world",
        imports: &["coppice-schema", "coppice-golden"],
        never: &["fjall", "openraft"],
        because: "agreement is coppice-grid's",
    },
    Room {
        package: "coppice-grid",
        imports: &["coppice-schema", "coppice-state", "coppice-world"],
        never: &["virt", "virt-sys"],
        because: "agreement chooses nothing about desktops; a hypervisor is behind a port of coppice-world",
    },
    Room {
        package: "coppice-reconcile",
        imports: &[
            "coppice-schema",
            "coppice-plans",
            "coppice-state",
            "coppice-world",
        ],
        never: &["fjall", "openraft", "virt", "virt-sys"],
        because: "rounds know ports only: Agreement of coppice-state, Hypervisor and Disks of coppice-world",
    },
    Room {
        package: "coppice-broker",
        imports: &[
            "coppice-schema",
            "coppice-plans",
            "coppice-state",
            "coppice-world",
        ],
        never: &["fjall", "openraft", "virt", "virt-sys"],
        because: "sessions know ports only",
    },
    Room {
        package: "coppice-portal",
        imports: &[
            "coppice-schema",
            "coppice-plans",
            "coppice-state",
            "coppice-world",
            "coppice-broker",
        ],
        never: &["fjall", "openraft", "virt", "virt-sys"],
        because: "the API asks ports, and decides nothing",
    },
];
const ANYTHING: [&str; 2] = ["coppice", "coppice-tests"];

/// Adapters of `coppice-world`: only the wiring in `coppice`, and tests, call them by name.
const ADAPTERS: [&str; 4] = ["embed", "libvirt", "real", "sim"];

/// Complaints about what each package depends on; for its tests it may depend on more, as they may import more.
fn edges(dependencies: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (package, names) in dependencies {
        if ANYTHING.contains(&package.as_str()) {
            continue;
        }
        let Some(room) = ROOMS.iter().find(|room| room.package == package) else {
            complaints.push(format!("{package}: a room that the table does not have: a design change, add it with its row"));
            continue;
        };
        for name in names {
            let ours = name == "coppice" || name.starts_with("coppice-");
            if ours && !room.imports.contains(&name.as_str()) {
                complaints.push(format!(
                    "{package} -> {name}: an edge that the table does not have; it may import {:?}",
                    room.imports
                ));
            }
            if room.never.contains(&name.as_str()) {
                complaints.push(format!("{package} -> {name}: never; {}", room.because));
            }
        }
    }
    complaints
}

/// Complaints about one path in a room's code.
fn path(package: &str, segments: &[String]) -> Option<String> {
    let [first, second, ..] = segments else {
        return None;
    };
    if ANYTHING.contains(&package) || !first.starts_with("coppice_") {
        return None;
    }
    let target = first.replace('_', "-");
    let room = ROOMS.iter().find(|room| room.package == package)?;
    if target != package && !room.imports.contains(&target.as_str()) {
        return Some(format!(
            "`{}`: {package} may import {:?}",
            segments.join("::"),
            room.imports
        ));
    }
    let named =
        target == "coppice-world" && package != target && ADAPTERS.contains(&second.as_str());
    named.then(|| {
        format!(
            "`{}`: an adapter by name; take the port as a parameter, `coppice` wires it",
            segments.join("::")
        )
    })
}

#[test]
fn packages_depend_on_what_the_table_says() {
    let packages = repository::metadata().workspace_packages();
    let names = |package: &cargo_metadata::Package| {
        package
            .dependencies
            .iter()
            .filter(|it| it.kind != cargo_metadata::DependencyKind::Development)
            .map(|it| it.name.clone())
            .collect()
    };
    nothing_in(edges(
        &packages
            .into_iter()
            .map(|package| (package.name.to_string(), names(package)))
            .collect(),
    ));
}

#[test]
fn code_imports_what_the_table_says() {
    let mut complaints = Vec::new();
    for source in repository::sources() {
        for used in source
            .facts
            .paths
            .iter()
            .filter(|used| !used.test_only && !source.test_only)
        {
            if let Some(complaint) = path(&source.package, &used.segments) {
                complaints.push(format!("{}:{}: {complaint}", source.file, used.line));
            }
        }
    }
    nothing_in(complaints);
}

#[test]
fn every_package_obeys_the_lints_of_the_workspace() {
    let manifests = repository::metadata().workspace_packages();
    let silent = |text: &str| !text.contains("[lints]\nworkspace = true");
    assert!(silent("[package]\nname = \"planted\""));
    let complain = |file: String| format!("{file}: add `[lints]` with `workspace = true`");
    let path = |package: &&cargo_metadata::Package| package.manifest_path.to_string();
    nothing_in(
        manifests
            .iter()
            .map(path)
            .filter(|file| silent(&std::fs::read_to_string(file).unwrap()))
            .map(complain)
            .collect(),
    );
}

#[test]
fn planted_edges_are_found() {
    let planted = |package: &str, name: &str| {
        edges(&BTreeMap::from([(
            package.to_owned(),
            vec![name.to_owned()],
        )]))
    };
    assert_eq!(planted("coppice-schema", "coppice-plans").len(), 1);
    assert_eq!(planted("coppice-plans", "coppice-state").len(), 1);
    assert_eq!(planted("coppice-state", "tokio").len(), 1);
    assert_eq!(planted("coppice-reconcile", "coppice").len(), 1);
    assert_eq!(planted("coppice-attic", "serde").len(), 1);
    assert_eq!(
        planted("coppice-plans", "coppice-schema"),
        Vec::<String>::new()
    );
    assert_eq!(planted("coppice", "coppice-grid"), Vec::<String>::new());
}

#[test]
fn planted_imports_are_found() {
    let planted = |package: &str, text: &str| {
        path(
            package,
            &text.split("::").map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    assert!(
        planted("coppice-plans", "coppice_state::State")
            .unwrap()
            .contains("may import")
    );
    assert!(
        planted("coppice-reconcile", "coppice_world::sim::Sim")
            .unwrap()
            .contains("adapter by name")
    );
    assert_eq!(
        planted("coppice-reconcile", "coppice_world::hypervisor::Hypervisor"),
        None
    );
    assert_eq!(planted("coppice", "coppice_world::sim::Sim"), None);
}
