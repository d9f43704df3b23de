//! Which bytes an image block means now, and which copies nothing needs.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{Desired, DriftRule, Image, Origin};
use coppice_schema::ids::{Address, ImageName, ServerId, VersionName};
use coppice_schema::known::{CopyState, ImageVersion, ServerState, Task};
use coppice_schema::{Digest, Known};

use crate::draft::Draft;
use crate::plan::{
    Action, Finding, FindingKind, Impact, Intent, Kind, Memory, Reason, Risk, Severity, Step, Wait,
};

/// A version that can be cloned.
#[derive(Clone, Copy)]
pub(crate) struct Published<'a> {
    pub(crate) version: &'a VersionName,
    pub(crate) record: &'a ImageVersion,
}

/// The version that `image` publishes, or what it waits for.
pub(crate) fn published<'a>(
    known: &'a Known,
    name: &ImageName,
    image: &'a Image,
) -> Result<Published<'a>, Wait> {
    let versions = known.images.get(name);
    match &image.origin {
        Origin::Version(version) => {
            let absent = || Wait::Image {
                image: name.clone(),
                version: Some(version.clone()),
            };
            let record = versions
                .and_then(|versions| versions.get(version))
                .ok_or_else(absent)?;
            if image.digest.is_some_and(|digest| digest != record.source) {
                return Err(absent());
            }
            Ok(Published { version, record })
        }
        Origin::Source { digest, .. } => {
            let wanted = digest.or(image.digest);
            let newest = |(_, a): &(_, &ImageVersion), (_, b): &(_, &ImageVersion)| {
                a.imported.cmp(&b.imported)
            };
            let all = versions.into_iter().flatten();
            // Without the file and without a digest, the newest version serves.
            let found = match wanted {
                Some(wanted) => all.into_iter().find(|(_, record)| record.source == wanted),
                None => all.into_iter().max_by(newest),
            };
            let (version, record) = found.ok_or_else(|| Wait::Image {
                image: name.clone(),
                version: None,
            })?;
            Ok(Published { version, record })
        }
    }
}

/// The version of `name` whose stored form has that root.
pub(crate) fn version_of(known: &Known, name: &ImageName, root: Digest) -> Option<VersionName> {
    let versions = known.images.get(name)?;
    versions
        .iter()
        .find(|(_, record)| record.root == root)
        .map(|(version, _)| version.clone())
}

/// Copies that nothing needs any more: versions beyond `keep`, neither published nor cloned, of which the youngest are
/// kept; and files that no version names, which is what `image remove` leaves. A version stays as long as it is in the
/// catalogue and its image has no block: an import comes before the first configuration that wants it.
pub(crate) fn collect(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    let beyond = beyond_keep(desired, known);
    let cloned = known.desktops.values().map(|desktop| desktop.spec.image);
    let ordered = known
        .orders
        .values()
        .filter_map(|order| order.task.clones());
    let mut needed: BTreeSet<Digest> = cloned.chain(ordered).collect();
    // The same bytes may have several names: all of them must be beyond.
    for (name, versions) in &known.images {
        let stays = |record: &&ImageVersion| !beyond.contains(&(name, record.root));
        needed.extend(versions.values().filter(stays).map(|record| record.root));
    }
    for (id, server) in known.servers.iter().filter(|(_, server)| server.current) {
        let Some(look) = &server.look else { continue };
        for (root, state) in &look.images {
            // What is on its way is named once it is here.
            if *state == CopyState::Copying || needed.contains(root) || look.needs_image(*root) {
                continue;
            }
            let name = beyond.iter().find(|(_, beyond)| beyond == root);
            let (object, reason) = match name {
                Some((name, _)) => (Address::Image((*name).clone()), Reason::Unused),
                None => {
                    let object = Address::Server(server.name.clone());
                    (object, Reason::Unnamed { image: *root })
                }
            };
            drop_copy(known, *id, *root, object, reason, Vec::new(), draft);
        }
    }
}

/// Versions that `keep` does not keep, by their stored form.
pub(crate) fn beyond_keep<'a>(
    desired: &'a Desired,
    known: &Known,
) -> BTreeSet<(&'a ImageName, Digest)> {
    let mut beyond = BTreeSet::new();
    for (name, image) in &desired.images {
        let Some(versions) = known.images.get(name) else {
            continue;
        };
        if crate::pool::protected(desired, known, &Address::Image(name.clone())) {
            continue;
        }
        let Ok(published) = published(known, name, image) else {
            continue;
        };
        let mut earlier: Vec<&ImageVersion> = versions
            .values()
            .filter(|record| record.root != published.record.root)
            .collect();
        earlier.sort_by_key(|record| std::cmp::Reverse(record.imported));
        let keep = usize::try_from(image.keep).unwrap_or(usize::MAX);
        let kept: BTreeSet<Digest> = earlier
            .iter()
            .take(keep)
            .map(|record| record.root)
            .collect();
        let rest = earlier.into_iter().skip(keep).map(|record| record.root);
        beyond.extend(
            rest.filter(|root| !kept.contains(root))
                .map(|root| (name, root)),
        );
    }
    beyond
}

pub(crate) fn drop_copy(
    known: &Known,
    server: ServerId,
    root: Digest,
    object: Address,
    reason: Reason,
    waits: Vec<Wait>,
    draft: &mut Draft<'_>,
) {
    let task = Task::DropImage { root };
    let mut orders = known.orders.values();
    if orders.any(|order| order.server == server && order.task == task) {
        return;
    }
    draft.actions.push(Action {
        object,
        kind: Kind::Delete,
        server: Some(server),
        needs: Vec::new(),
        wave: 0,
        // Another server has the version still.
        reversible: matches!(reason, Reason::Surplus { .. }),
        reason,
        risk: Risk::Safe,
        impact: Impact::default(),
        waits,
        edits: Vec::new(),
        step: Some(Step {
            task,
            memory: Memory::Unchanged,
        }),
    });
}

/// Images whose block goes: their versions stay, and nothing else would say so.
pub(crate) fn farewell(known: &Known, changes: &BTreeMap<Address, Intent>, draft: &mut Draft<'_>) {
    for (name, versions) in &known.images {
        let object = Address::Image(name.clone());
        let Some(version) = versions.keys().next() else {
            continue;
        };
        if changes.get(&object) == Some(&Intent::Removed) {
            draft.finding(Finding {
                object,
                kind: FindingKind::ImageWithoutBlock {
                    versions: u32::try_from(versions.len()).unwrap_or(u32::MAX),
                },
                severity: Severity::Note,
                remedy: format!("coppice image remove {name} {version}, when nobody wants it back"),
            });
        }
    }
}

/// Findings and drift of every image.
pub(crate) fn survey(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    for (name, image) in &desired.images {
        let object = Address::Image(name.clone());
        if let Origin::Source { path, digest: None } = &image.origin {
            draft.finding(Finding {
                object: object.clone(),
                kind: FindingKind::SourceNotHere { path: path.clone() },
                severity: Severity::Note,
                remedy: "make the plan where the file is, or name its digest".to_owned(),
            });
        }
        match published(known, name, image) {
            Ok(_) if rule(desired, name) == DriftRule::Ignore => {}
            Ok(published) => lost(known, name, &object, published, draft),
            Err(_) => absent(known, name, image, object, draft),
        }
    }
}

fn absent(known: &Known, name: &ImageName, image: &Image, object: Address, draft: &mut Draft<'_>) {
    let (version, held) = match &image.origin {
        Origin::Version(version) => {
            let held = known
                .images
                .get(name)
                .and_then(|versions| versions.get(version));
            (Some(version.clone()), held.map(|record| record.source))
        }
        Origin::Source { .. } => (None, None),
    };
    let (kind, remedy) = match (image.digest, held) {
        (Some(wanted), Some(held)) => (
            FindingKind::ImageDigest { wanted, held },
            "import the right file as another version, or correct the digest".to_owned(),
        ),
        (_, _) => {
            let label = version.as_ref().map_or("VERSION", VersionName::as_str);
            let remedy = format!("coppice image import {name} FILE --version {label}");
            (FindingKind::ImageAbsent { version }, remedy)
        }
    };
    draft.finding(Finding {
        object,
        kind,
        severity: Severity::Error,
        remedy,
    });
}

/// What is done about the image's copies: the strictest rule of the pools that use it.
pub(crate) fn rule(desired: &Desired, name: &ImageName) -> DriftRule {
    let uses = |template: &coppice_schema::ids::TemplateName| {
        desired
            .templates
            .get(template)
            .is_some_and(|template| template.image == *name)
    };
    let rules = desired
        .pools
        .values()
        .filter(|pool| uses(&pool.template))
        .map(|pool| pool.policy.drift.image);
    rules
        .min_by_key(|rule| match rule {
            DriftRule::Enforce => 0,
            DriftRule::Warn => 1,
            DriftRule::Ignore => 2,
        })
        .unwrap_or(DriftRule::Warn)
}

/// A version of which no copy is left.
fn lost(
    known: &Known,
    name: &ImageName,
    object: &Address,
    published: Published<'_>,
    draft: &mut Draft<'_>,
) {
    let root = published.record.root;
    // What is on a server that was given up is not to be had.
    let given_up = |part| matches!(part, ServerState::Lost | ServerState::Removed);
    let mut there = known.servers.values().filter(|s| !given_up(s.state));
    let looks = there.clone().filter_map(|server| server.look.as_ref());
    let mut copies = looks.filter_map(|look| look.images.get(&root));
    let held = copies.any(|state| *state == CopyState::Verified);
    if !held && !known.servers.is_empty() && there.all(|server| server.current) {
        draft.finding(Finding {
            object: object.clone(),
            kind: FindingKind::ImageLost {
                version: Some(published.version.clone()),
            },
            severity: Severity::Error,
            remedy: format!(
                "bring the file again: coppice image import {name} FILE --version {}",
                published.version
            ),
        });
    }
}
