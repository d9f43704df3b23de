//! A plan document as one comment in code review.
//!
//! First a verdict, then a table by risk: what, and who feels it. Data loss is never folded. Everything that comes
//! from a configuration is escaped: a pool's name must not be able to mention people or close a fold.

use std::fmt::Write as _;

use crate::document::{Document, Group};
use crate::plan::{Kind, Risk, Verdict};
use crate::text;

/// Longest comment; review systems refuse above 65,535 characters.
pub const LONGEST: usize = 60_000;

/// Renders `document`. Longer than [`LONGEST`], it is cut and says so.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut page = String::new();
    let _ = writeln!(page, "<!-- coppice-plan:{} -->", escape(&document.grid));
    let _ = writeln!(
        page,
        "### Plan `{}` for **{}**: {}\n",
        document.plan_id.short(),
        escape(&document.grid),
        verdict(document)
    );
    if !document.actions.is_empty() {
        page.push_str("| risk | what | why | waits |\n|---|---|---|---|\n");
        for group in &document.actions {
            row(group, &mut page);
        }
        page.push('\n');
    }
    if !document.complete {
        page.push_str("**Incomplete:** not every server was seen.\n\n");
    }
    for finding in &document.findings {
        let line = format!("{}: {}", finding.object, text::finding(&finding.kind));
        let _ = writeln!(
            page,
            "- {} {}",
            crate::specs::word(&finding.severity),
            escape(&line)
        );
    }
    changes(document, &mut page);
    if page.len() > LONGEST {
        let mut end = LONGEST;
        while !page.is_char_boundary(end) {
            end -= 1;
        }
        page.truncate(end);
        page.push_str("\n\n… cut; the whole plan: `coppice plan --format json`\n");
    }
    page
}

fn verdict(document: &Document) -> String {
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

fn row(group: &Group, page: &mut String) {
    let risk = match group.risk {
        Risk::Safe => "safe",
        Risk::Notice => "notice",
        Risk::Disruptive => "disruptive",
        Risk::DataLoss => "**data loss**",
    };
    let what = format!(
        "{} {} × {}",
        text::kind_word(group.kind),
        group.count,
        group.subject
    );
    let waits: Vec<String> = group.waits.iter().map(text::wait).collect();
    let _ = writeln!(
        page,
        "| {risk} | {} | {} | {} |",
        escape(&what),
        escape(&text::reason(&group.reason)),
        escape(&waits.join("; "))
    );
}

fn changes(document: &Document, page: &mut String) {
    let whole = |kind| matches!(kind, Kind::Create | Kind::Delete);
    let edited = || {
        let groups = document.actions.iter();
        groups.filter(|group| !group.edits.is_empty() && !whole(group.kind))
    };
    if edited().next().is_none() {
        return;
    }
    page.push_str("\n<details><summary>Changes</summary>\n\n");
    for group in edited() {
        let _ = writeln!(page, "- **{}**", escape(&group.subject.to_string()));
        for edit in &group.edits {
            let before = edit.before.as_deref().unwrap_or("nothing");
            let after = edit.after.as_deref().unwrap_or("nothing");
            let _ = writeln!(
                page,
                "  - {}: {} → {}",
                escape(&edit.path),
                escape(before),
                escape(after)
            );
        }
    }
    page.push_str("\n</details>\n");
}

/// Text that means nothing to markdown or HTML, and mentions nobody.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '@' => safe.push_str("&#64;"),
            '\n' | '\r' => safe.push(' '),
            '\\' | '`' | '|' | '*' | '_' | '[' | ']' | '#' | '~' | '!' => {
                safe.push('\\');
                safe.push(c);
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn hostile_names_are_only_text() {
        assert_eq!(
            escape("</details>@all|`x`"),
            "&lt;/details&gt;&#64;all\\|\\`x\\`"
        );
    }
}
