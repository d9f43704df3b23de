//! A plan document as text for a terminal.
//!
//! The worst first; symbols and words together, so that it reads in grey, in a log and aloud; a legend only for the
//! symbols in use; one summary line at the end.

mod findings;
pub(crate) mod lines;
pub(crate) mod lost;

use crate::document::{Document, Group};
use crate::plan::{Kind, Risk, Severity};

pub use findings::finding;
pub use lines::{cut_off, estimate, kind_word, moment, reason, response, symbol, wait};

/// How to render.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Colour by ANSI sequences.
    pub colour: bool,
    /// How much to say.
    pub detail: Detail,
}

/// How much to say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detail {
    /// The verdict and the summary line.
    Summary,
    /// Grouped actions, edits, findings.
    Normal,
    /// Every object by name, too.
    Full,
}

/// Renders `document`.
#[must_use]
pub fn render(document: &Document, options: Options) -> String {
    let mut page = Page {
        text: String::new(),
        colour: options.colour,
    };
    head(document, &mut page);
    losses(document, &mut page);
    if options.detail > Detail::Summary {
        actions(document, options.detail, &mut page);
        drift(document, &mut page);
        under_way(document, &mut page);
        findings_of(document, &mut page);
        gates(document, &mut page);
        pools(document, &mut page);
    }
    foot(document, options.detail, &mut page);
    page.text
}

/// Text with or without colour.
struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn risk(&self, risk: Risk, text: &str) -> String {
        match risk {
            Risk::Safe => self.paint("32", text),
            Risk::Notice => self.paint("36", text),
            Risk::Disruptive => self.paint("33;1", text),
            Risk::DataLoss => self.paint("31;1", text),
        }
    }
}

fn head(document: &Document, page: &mut Page) {
    let id = page.paint("1", &document.plan_id.short());
    page.line(&format!(
        "Plan {id} for grid {} on revision {}",
        document.grid, document.base.revision
    ));
    let mut looked = lines::looked(document);
    if let Some(unseen) = lines::unseen(document) {
        looked = page.paint("33;1", &format!("{looked}; {unseen}"));
    }
    page.line(&looked);
    for line in [lines::only(document), lost::what_if(document)]
        .into_iter()
        .flatten()
    {
        page.line(&line);
    }
}

fn losses(document: &Document, page: &mut Page) {
    let Some(lost) = &document.lost else { return };
    page.line("");
    let servers: Vec<&str> = lost.servers.iter().map(String::as_str).collect();
    let title = page.paint("31;1", &format!("LOSS OF {}", servers.join(", ")));
    page.line(&title);
    for line in lost::lost(lost) {
        page.line(&format!("  {line}"));
    }
}

fn actions(document: &Document, detail: Detail, page: &mut Page) {
    let mut last = None;
    for group in &document.actions {
        if last != Some(group.risk) {
            last = Some(group.risk);
            page.line("");
            let title = match group.risk {
                Risk::Safe => "SAFE",
                Risk::Notice => "NOTICE",
                Risk::Disruptive => "DISRUPTIVE",
                Risk::DataLoss => "DATA LOSS",
            };
            let title = page.risk(group.risk, title);
            page.line(&title);
        }
        one(group, detail, page);
    }
}

fn one(group: &Group, detail: Detail, page: &mut Page) {
    let sign = page.risk(group.risk, &format!("{:<3}", symbol(group.kind)));
    let subject = page.paint("1", &format!("{:<22}", group.subject.to_string()));
    let what = lines::what(group);
    page.line(&format!(
        "  {sign} {subject} {what:<30}  {}",
        reason(&group.reason)
    ));
    // Of a whole new or vanished block the files say more than a list of its attributes.
    let told = detail == Detail::Full || !matches!(group.kind, Kind::Create | Kind::Delete);
    for edit in group.edits.iter().filter(|_| told) {
        page.line(&format!(
            "        {}",
            lines::edit(edit, &page.colour_edit())
        ));
    }
    for note in lines::impact(group) {
        page.line(&format!("        {note}"));
    }
    for waiting in &group.waits {
        let text = page.paint("33", &format!("waits: {}", wait(waiting)));
        page.line(&format!("        {text}"));
    }
    if group.count > 1 && detail == Detail::Full {
        let names: Vec<String> = group.objects.iter().map(ToString::to_string).collect();
        page.line(&format!("        {}", names.join(" ")));
    }
}

impl Page {
    fn colour_edit(&self) -> lines::EditColours {
        lines::EditColours { on: self.colour }
    }
}

fn drift(document: &Document, page: &mut Page) {
    if document.drift.is_empty() {
        return;
    }
    page.line("");
    let title = page.paint("1", "DRIFT  what someone else changed");
    page.line(&title);
    for line in &document.drift {
        page.line(&format!("  {}", lines::drift(line, document.created_at)));
        for edit in &line.drift.edits {
            page.line(&format!(
                "        {}",
                lines::edit(edit, &page.colour_edit())
            ));
        }
    }
}

fn under_way(document: &Document, page: &mut Page) {
    if document.under_way.is_empty() {
        return;
    }
    page.line("");
    let title = page.paint("1", "UNDER WAY");
    page.line(&title);
    for work in document.under_way.iter().take(8) {
        page.line(&format!("  {}", lines::work(work)));
    }
    if document.under_way.len() > 8 {
        page.line(&format!("  and {} more", document.under_way.len() - 8));
    }
}

fn findings_of(document: &Document, page: &mut Page) {
    if document.findings.is_empty() {
        return;
    }
    page.line("");
    let title = page.paint("1", "FINDINGS");
    page.line(&title);
    for finding in &document.findings {
        let (word, code) = match finding.severity {
            Severity::Error => ("error", "31;1"),
            Severity::Warning => ("warning", "33;1"),
            Severity::Note => ("note", "36"),
        };
        let word = page.paint(code, word);
        page.line(&format!(
            "  {word} {}: {}",
            finding.object,
            findings::finding(&finding.kind)
        ));
        if !finding.remedy.is_empty() {
            page.line(&format!("        try: {}", finding.remedy));
        }
    }
}

fn gates(document: &Document, page: &mut Page) {
    for gate in document.gates.iter().filter_map(lines::gate) {
        page.line("");
        let text = page.paint("31;1", &gate);
        page.line(&text);
    }
}

fn pools(document: &Document, page: &mut Page) {
    let mut lines = document.pools.iter().filter_map(lines::pool).peekable();
    if lines.peek().is_some() {
        page.line("");
    }
    for line in lines {
        page.line(&line);
    }
}

fn foot(document: &Document, detail: Detail, page: &mut Page) {
    page.line("");
    let (line, code) = (
        lines::summary(document),
        if document.is_empty() { "32" } else { "1" },
    );
    if !document.is_empty() && detail > Detail::Summary {
        let legend = lines::legend(document);
        let legend = page.paint("2", &legend);
        page.line(&legend);
    }
    let line = page.paint(code, &line);
    page.line(&line);
}
