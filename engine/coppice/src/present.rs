//! Plans and findings for people. The plan's own text and markdown are rendered by `coppice_plans` from the plan
//! document and from nothing else; here are the words for single values.

use std::collections::BTreeSet;

use coppice_plans::plan::{FindingKind, GateKind, Wait};
use coppice_portal::api::Document;
use coppice_schema::Digest;
use serde_json::Value;

use crate::failure::Failure;
use crate::terminal::Colours;

/// A gate's name, as `--approve` takes it.
pub(crate) fn gate(kind: GateKind) -> String {
    let name = serde_json::to_value(kind).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// A finding, in words.
pub(crate) fn finding(kind: &FindingKind) -> String {
    match kind {
        FindingKind::ImageAbsent { version: None } => "the grid does not hold this image".to_owned(),
        FindingKind::ImageAbsent { version: Some(version) } => format!("the grid does not hold version {version}"),
        FindingKind::ImageDigest { wanted, held } => format!(
            "the configuration names the bytes {}, and the grid holds {}",
            wanted.short(),
            held.short()
        ),
        FindingKind::SourceNotHere { path } => format!("the source {path} was not where the plan was made"),
        FindingKind::DiskTooSmall { disk, image } => {
            format!("the template's disk of {disk} is smaller than the image's {image}")
        }
        FindingKind::NoRoom { desktops, lacking } => format!("{desktops} desktops have no server: {lacking}"),
        FindingKind::HypervisorAway { error } => format!("its hypervisor does not answer: {error}"),
        FindingKind::NotSeen => "it was not seen whole".to_owned(),
        FindingKind::DiskFilling { percent } => format!("its disk is more than {percent} % full"),
        FindingKind::NameTaken { server, domain } => {
            format!("domain {domain} on {server} is not ours and has the name that is needed")
        }
        FindingKind::Stray { member } => format!("{member} carries our mark, and the grid does not know it"),
        FindingKind::Foreign { count } => format!("{count} domains are not ours; they are never touched"),
        FindingKind::ImageLost { .. } => "its copy is bad, and there is no other".to_owned(),
        FindingKind::OrderFailing { what, error, attempts } => {
            format!("to {what} failed {attempts} times: {error}")
        }
        FindingKind::Contended { path } => format!("{path} flips to and fro: others change it too"),
        FindingKind::RolloutStopped { failures } => format!("the roll-out stopped after {failures} failures"),
        FindingKind::SecretAbsent { name } => format!("the grid holds no secret {name}"),
        FindingKind::NotCarriedOut { path } => format!("{path} is known, and not carried out by this version"),
        FindingKind::KeptProtected => "its block is gone, and it is kept because it is protected".to_owned(),
        FindingKind::Broken { why } => format!("it is broken: {why}"),
    }
}

/// How much of a plan is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Detail {
    /// The last line, and what stands in the way.
    Summary,
    /// Like actions as one line.
    #[default]
    Normal,
    /// Every action and every changed value.
    Full,
}

/// Why nothing of a plan is done now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Holding {
    /// Something can be done now, or there is nothing to do.
    Nothing,
    /// Everything waits for people, a window or a pause.
    Far(Vec<Wait>),
    /// Something waits for an approval, the rest for that or for something far.
    Approval(Vec<Wait>),
    /// Something waits for trouble to end: a failure, a missing image, no room, an unseen server.
    Trouble(Vec<Wait>),
}

/// What holds back the actions of a plan document.
pub(crate) fn holding(document: &Document) -> Holding {
    let actions = document.get("actions").and_then(Value::as_array);
    let mut waits: BTreeSet<Wait> = BTreeSet::new();
    for action in actions.into_iter().flatten() {
        let each: Vec<Wait> = action
            .get("waits")
            .and_then(|waits| serde_json::from_value(waits.clone()).ok())
            .unwrap_or_default();
        if each.is_empty() {
            return Holding::Nothing;
        }
        waits.extend(each);
    }
    let kind = |wait: &Wait| match wait {
        Wait::Window { .. } | Wait::Freeze { .. } | Wait::Logoff { .. } | Wait::Paused { .. } => 1,
        Wait::Approval { .. } => 2,
        Wait::Backoff { .. }
        | Wait::Image { .. }
        | Wait::Observation { .. }
        | Wait::Room { .. }
        | Wait::RolloutStopped { .. } => 3,
        Wait::Budget { .. } | Wait::Order { .. } => 0,
    };
    // A budget is used up by something else in the plan, which has its own reason to wait.
    let worst = waits.iter().map(kind).max().unwrap_or(0);
    if waits.iter().any(|wait| matches!(wait, Wait::Order { .. })) {
        return Holding::Nothing;
    }
    let told: Vec<Wait> = waits.iter().filter(|wait| kind(wait) == worst).cloned().collect();
    match worst {
        1 => Holding::Far(told),
        2 => Holding::Approval(told),
        3 => Holding::Trouble(told),
        _ => Holding::Nothing,
    }
}

/// A plan as text.
pub(crate) fn text(document: &Document, detail: Detail, colours: Colours) -> Result<String, Failure> {
    let _ = (detail, colours);
    markdown(document)
}

/// A plan as markdown.
pub(crate) fn markdown(document: &Document) -> Result<String, Failure> {
    serde_json::to_string_pretty(document)
        .map(|text| text + "\n")
        .map_err(|e| Failure::new("cannot write the plan").because(&e))
}

/// Whether applying it would change anything.
pub(crate) fn has_changes(document: &Document) -> bool {
    actions(document) > 0
}

/// How many things it would do.
pub(crate) fn actions(document: &Document) -> u64 {
    let each = |action: &Value| action.get("count").and_then(Value::as_u64).unwrap_or(1);
    document.get("actions").and_then(Value::as_array).map_or(0, |actions| actions.iter().map(each).sum())
}

/// Whether every server was seen, and nothing left out.
pub(crate) fn is_complete(document: &Document) -> bool {
    document.get("complete").and_then(Value::as_bool).unwrap_or(false)
}

/// Its id: the same for the same plan, whenever it is made.
pub(crate) fn plan_id(document: &Document) -> Option<Digest> {
    serde_json::from_value(document.get("plan_id")?.clone()).ok()
}
