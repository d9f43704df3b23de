//! A plan document as one comment in code review.
//!
//! First a verdict and what stands in the way, then a table by risk: what, why, and who feels it; then how the pools
//! would stand, what is wrong, and what others changed. Long lists are folded, data loss never. Everything that comes
//! from a configuration is escaped: a pool's name must not be able to mention people or close a fold.

mod page;

use crate::document::{Document, Group};
use crate::plan::{Edit, Kind, Risk, Severity};
use crate::text::{self, lines, lost};

use page::{Page, escape};

/// Longest comment; review systems refuse above 65,535 characters.
pub const LONGEST: usize = 60_000;

/// Renders `document`. Longer than [`LONGEST`], it is cut between two lines and says so.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut page = Page::new(LONGEST);
    head(document, &mut page);
    losses(document, &mut page);
    actions(document, &mut page);
    pools(document, &mut page);
    findings(document, &mut page);
    drift(document, &mut page);
    under_way(document, &mut page);
    changes(document, &mut page);
    page.end(&escape(&lines::summary(document)))
}

fn head(document: &Document, page: &mut Page) {
    let grid = escape(&document.grid);
    page.line(&format!("<!-- coppice-plan:{grid} -->"));
    page.line(&format!(
        "### Plan `{}` for **{grid}**: {}",
        document.plan_id.short(),
        verdict(document)
    ));
    page.line("");
    page.line(&escape(&format!(
        "On revision {}. {}.",
        document.base.revision,
        lines::looked(document)
    )));
    let what_if = lost::what_if(document);
    for warning in [lines::unseen(document), lines::only(document), what_if]
        .into_iter()
        .flatten()
    {
        page.line("");
        page.line(&format!("**{}.**", escape(&first_upper(&warning))));
    }
    for gate in document.gates.iter().filter_map(lines::gate) {
        page.line("");
        page.line(&format!("**{}**", escape(&gate)));
    }
}

fn losses(document: &Document, page: &mut Page) {
    let Some(lost) = &document.lost else { return };
    page.line("");
    for line in lost::lost(lost) {
        page.line(&format!("- {}", escape(&line)));
    }
}

fn verdict(document: &Document) -> String {
    use crate::plan::Verdict;
    if let Some(lost) = &document.lost {
        let servers: Vec<&str> = lost.servers.iter().map(String::as_str).collect();
        return format!("what if {} were lost", escape(&servers.join(", ")));
    }
    let approvals: Vec<String> = document
        .gates
        .iter()
        .filter(|gate| gate.verdict == Verdict::NeedsApproval)
        .map(|gate| format!("`--approve {}`", crate::specs::word(&gate.kind)))
        .collect();
    if document
        .gates
        .iter()
        .any(|gate| gate.verdict == Verdict::Denied)
    {
        "denied for now".to_owned()
    } else if !approvals.is_empty() {
        format!("needs {}", approvals.join(", "))
    } else if document.is_empty() {
        "no changes".to_owned()
    } else {
        let impact = &document.summary.impact;
        if impact.sessions_interrupted.value == 0 {
            "nobody is interrupted".to_owned()
        } else {
            text::cut_off(impact)
        }
    }
}

fn actions(document: &Document, page: &mut Page) {
    if document.actions.is_empty() {
        return;
    }
    page.line("");
    page.line("| risk | what | why | who feels it | waits for |");
    page.line("|---|---|---|---|---|");
    for group in &document.actions {
        page.line(&row(group));
    }
}

fn row(group: &Group) -> String {
    let risk = match group.risk {
        Risk::Safe => "safe",
        Risk::Notice => "notice",
        Risk::Disruptive => "disruptive",
        Risk::DataLoss => "**data loss**",
    };
    let subject = group.subject.to_string();
    let what = lines::what(group);
    let notes = lines::impact(group);
    let waits: Vec<String> = group.waits.iter().map(text::wait).collect();
    format!(
        "| {risk} | **{}** {} | {} | {} | {} |",
        escape(&subject),
        escape(&what),
        escape(&text::reason(&group.reason)),
        escape(&notes.join("; ")),
        escape(&waits.join("; "))
    )
}

fn pools(document: &Document, page: &mut Page) {
    let lines = document.pools.iter().filter_map(lines::pool);
    list(None, lines.map(|line| escape(&line)), page);
}

fn findings(document: &Document, page: &mut Page) {
    let said = document.findings.iter().map(|finding| {
        let word = match finding.severity {
            Severity::Error => "**error**",
            Severity::Warning => "**warning**",
            Severity::Note => "note",
        };
        let text = format!("{}: {}", finding.object, text::finding(&finding.kind));
        let remedy = match finding.remedy.as_str() {
            "" => String::new(),
            remedy => format!("<br>try: {}", escape(remedy)),
        };
        format!("{word} {}{remedy}", escape(&text))
    });
    list(Some("Findings"), said, page);
}

fn drift(document: &Document, page: &mut Page) {
    let said = document.drift.iter().flat_map(|line| {
        let text = escape(&lines::drift(line, document.created_at));
        let edits = line
            .drift
            .edits
            .iter()
            .map(|edit| format!("  {}", change(edit)));
        std::iter::once(text).chain(edits)
    });
    list(Some("Drift: what someone else changed"), said, page);
}

fn under_way(document: &Document, page: &mut Page) {
    if document.under_way.is_empty() {
        return;
    }
    page.open(&format!("Under way: {}", document.under_way.len()));
    for work in &document.under_way {
        page.line(&format!("- {}", escape(&lines::work(work))));
    }
    page.close();
}

/// A list under a title; nothing where it is empty. An item that begins with blanks belongs to the one before it.
fn list(title: Option<&str>, items: impl Iterator<Item = String>, page: &mut Page) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    page.line("");
    if let Some(title) = title {
        page.line(&format!("**{title}**"));
        page.line("");
    }
    for item in items {
        let text = item.trim_start();
        let depth = item.len() - text.len();
        page.line(&format!("{:depth$}- {text}", ""));
    }
}

fn changes(document: &Document, page: &mut Page) {
    // Of a whole new or vanished block the files say more than a list of its attributes.
    let whole = |kind| matches!(kind, Kind::Create | Kind::Delete);
    let mut edited = document
        .actions
        .iter()
        .filter(|group| !group.edits.is_empty() && !whole(group.kind))
        .peekable();
    if edited.peek().is_none() {
        return;
    }
    page.open("Changed values, and when they take effect");
    for group in edited {
        page.line(&format!(
            "- **{}** {}",
            escape(&group.subject.to_string()),
            escape(&lines::what(group))
        ));
        for edit in &group.edits {
            page.line(&format!("  - {}", change(edit)));
        }
    }
    page.close();
}

fn change(edit: &Edit) -> String {
    let value = |value: &Option<String>| value.as_deref().map_or("nothing".to_owned(), escape);
    format!(
        "{}: {} → {} ({})",
        escape(&edit.path),
        value(&edit.before),
        value(&edit.after),
        lines::applies(edit.applies).unwrap_or("at once")
    )
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}
