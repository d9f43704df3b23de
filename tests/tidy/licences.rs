//! Every dependency may be shipped with Coppice, and comes from the one public registry.

use spdx::{Expression, ParseMode};

use crate::{nothing_in, repository};

/// Licences that ask for no more than their text and the names of the authors.
const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Packages under another licence: name, licence, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "virt",
        "LGPL-2.1",
        "libvirt's own binding; the sources of Coppice are public, so it can be linked anew. The README says so",
    ),
    (
        "virt-sys",
        "LGPL-2.1",
        "libvirt's own binding; the sources of Coppice are public, so it can be linked anew. The README says so",
    ),
];

/// A package as far as this check asks.
struct Package<'a> {
    name: &'a str,
    licence: Option<&'a str>,
    origin: Origin,
}

enum Origin {
    Workspace,
    Registry,
    Elsewhere(String),
}

fn complaint(package: &Package<'_>, exceptions: &[(&str, &str, &str)]) -> Option<String> {
    let name = package.name;
    match &package.origin {
        Origin::Workspace | Origin::Registry => {}
        Origin::Elsewhere(place) => {
            return Some(format!(
                "{name}: comes from {place}: take a published version from the public registry"
            ));
        }
    }
    let Some(licence) = package.licence else {
        return Some(format!("{name}: names no licence: find another package"));
    };
    if exceptions
        .iter()
        .any(|(excepted, its, _)| *excepted == name && *its == licence)
    {
        return None;
    }
    // Older packages write "MIT/Apache-2.0"; cargo takes that as OR.
    match Expression::parse_mode(licence, ParseMode::LAX) {
        Err(error) => Some(format!(
            "{name}: licence {licence:?} cannot be read: {}",
            error.reason
        )),
        Ok(expression) => {
            let fits = expression.evaluate(|asked| {
                asked
                    .license
                    .id()
                    .is_some_and(|id| ALLOWED.contains(&id.name))
            });
            (!fits).then(|| {
                format!(
                    "{name}: licence {licence} is not among those allowed: find another package"
                )
            })
        }
    }
}

fn stale(packages: &[Package<'_>], exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let needed = |name: &str, licence: &str| {
        let this =
            |package: &&Package<'_>| package.name == name && package.licence == Some(licence);
        packages
            .iter()
            .find(this)
            .is_some_and(|package| complaint(package, &[]).is_some())
    };
    let unneeded = exceptions
        .iter()
        .filter(|(name, licence, _)| !needed(name, licence));
    unneeded
        .map(|(name, licence, _)| {
            format!("{name} ({licence}): excepted, and needs it no longer: remove it from the list")
        })
        .collect()
}

#[test]
fn every_dependency_may_be_shipped_and_has_one_origin() {
    let metadata = repository::metadata();
    let packages: Vec<Package<'_>> = metadata
        .packages
        .iter()
        .map(|package| Package {
            name: package.name.as_str(),
            licence: package.license.as_deref(),
            origin: match &package.source {
                None if metadata.workspace_members.contains(&package.id) => Origin::Workspace,
                None => Origin::Elsewhere(package.manifest_path.to_string()),
                Some(source) if source.is_crates_io() => Origin::Registry,
                Some(source) => Origin::Elsewhere(source.to_string()),
            },
        })
        .collect();
    assert!(
        packages.len() > 50,
        "cargo metadata lists the dependencies too, not only {}",
        packages.len()
    );
    let mut complaints: Vec<String> = packages
        .iter()
        .filter_map(|package| complaint(package, EXCEPTIONS))
        .collect();
    complaints.extend(stale(&packages, EXCEPTIONS));
    nothing_in(complaints);
}

#[test]
fn planted_packages_are_found() {
    let planted = |licence, origin| {
        complaint(
            &Package {
                name: "planted",
                licence,
                origin,
            },
            EXCEPTIONS,
        )
    };
    let licensed = |licence| planted(Some(licence), Origin::Registry);
    assert!(
        licensed("GPL-3.0-only")
            .unwrap()
            .contains("not among those allowed")
    );
    assert!(
        licensed("MIT AND AGPL-3.0-only")
            .unwrap()
            .contains("not among those allowed")
    );
    assert!(
        licensed("LGPL-2.1").is_some(),
        "the exception is virt's, not the licence's"
    );
    assert!(licensed("as you like").unwrap().contains("cannot be read"));
    assert!(
        planted(None, Origin::Registry)
            .unwrap()
            .contains("names no licence")
    );
    assert!(
        planted(
            Some("MIT"),
            Origin::Elsewhere("git+https://example.org".to_owned())
        )
        .unwrap()
        .contains("comes from")
    );
    for fine in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert_eq!(licensed(fine), None, "{fine}");
    }
}

#[test]
fn a_stale_exception_is_found() {
    let package = |licence| {
        [Package {
            name: "a",
            licence: Some(licence),
            origin: Origin::Registry,
        }]
    };
    assert_eq!(
        stale(&package("LGPL-2.1"), &[("a", "LGPL-2.1", "")]),
        Vec::<String>::new()
    );
    assert_eq!(stale(&package("MIT"), &[("a", "LGPL-2.1", "")]).len(), 1);
    assert_eq!(stale(&package("MIT"), &[("a", "MIT", "")]).len(), 1);
    assert_eq!(stale(&[], &[("a", "LGPL-2.1", "")]).len(), 1);
}
