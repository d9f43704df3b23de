//! Plans and findings for people. The plan's own text and markdown are rendered by `coppice_plans` from the plan
//! document and from nothing else; here are the words for single values.

use std::collections::BTreeSet;

use coppice_plans::document::Document;
use coppice_plans::plan::Wait;
use coppice_plans::text;

use crate::terminal::Colours;

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
    /// Something waits for trouble to end: a failure, a missing image, no room, an unseen or lost server.
    Trouble(Vec<Wait>),
}

/// What holds back the actions of a plan document.
pub(crate) fn holding(document: &Document) -> Holding {
    if !document.under_way.is_empty() || document.actions.iter().any(|a| a.waits.is_empty()) {
        return Holding::Nothing;
    }
    let kind = |wait: &Wait| match wait {
        Wait::Window { .. }
        | Wait::Freeze { .. }
        | Wait::Logoff { .. }
        | Wait::Vacancy { .. }
        | Wait::Paused { .. } => 1,
        Wait::Approval { .. } => 2,
        Wait::Backoff { .. }
        | Wait::Image { .. }
        | Wait::Disk { .. }
        | Wait::Observation { .. }
        | Wait::Return { .. }
        | Wait::Room { .. }
        | Wait::RolloutStopped { .. } => 3,
        // What used the budget up has its own reason to wait.
        Wait::Budget { .. } | Wait::Successor => 0,
        Wait::Order { .. } | Wait::Copy { .. } => 4,
    };
    let waits: BTreeSet<&Wait> = document.actions.iter().flat_map(|a| &a.waits).collect();
    let worst = waits.iter().map(|wait| kind(wait)).max().unwrap_or(0);
    let told = waits
        .into_iter()
        .filter(|wait| kind(wait) == worst)
        .cloned()
        .collect();
    match worst {
        1 => Holding::Far(told),
        2 => Holding::Approval(told),
        3 => Holding::Trouble(told),
        _ => Holding::Nothing,
    }
}

/// A plan as text.
pub(crate) fn text(document: &Document, detail: Detail, colours: Colours) -> String {
    let detail = match detail {
        Detail::Summary => text::Detail::Summary,
        Detail::Normal => text::Detail::Normal,
        Detail::Full => text::Detail::Full,
    };
    text::render(
        document,
        text::Options {
            colour: colours.any(),
            detail,
        },
    )
}

/// How many things servers would do. What only changes the configuration is done by committing it.
pub(crate) fn orders(document: &Document) -> u64 {
    let ordered = document
        .actions
        .iter()
        .filter(|group| !group.servers.is_empty());
    ordered.map(|group| u64::from(group.count)).sum()
}
