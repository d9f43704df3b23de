//! Lines of the result, as a table for people and as JSON for programs.

use serde::Serialize;

use crate::cost::{By, Turns};

/// One comparison. Figures are rates, so that more is better, and `ratio` is Coppice's over its peer's.
#[derive(Serialize)]
pub(crate) struct Line {
    row: u32,
    metric: String,
    ours: f64,
    /// `None` where the peer is not on this machine.
    peer: Option<f64>,
    unit: &'static str,
    ratio: Option<f64>,
    /// What the machine itself allows, measured in the same run.
    limit: Option<f64>,
    /// The ratio that is wanted.
    target: f64,
}

/// Compares two sides by one of their times.
pub(crate) struct Comparison<'a> {
    pub(crate) row: u32,
    pub(crate) metric: &'a str,
    pub(crate) unit: &'static str,
    pub(crate) by: By,
    pub(crate) ours: &'a Turns,
    pub(crate) peer: Option<&'a Turns>,
    pub(crate) limit: Option<&'a Turns>,
    pub(crate) target: f64,
}

impl Comparison<'_> {
    pub(crate) fn line(&self) -> Result<Line, String> {
        let median = |turns: &Turns| {
            let found = turns.median(self.by);
            found.ok_or_else(|| format!("{} was never measured", turns.name))
        };
        let ours = median(self.ours)?;
        let peer = self.peer.map(median).transpose()?;
        Ok(Line {
            row: self.row,
            metric: self.metric.to_owned(),
            ours,
            peer,
            unit: self.unit,
            ratio: peer.map(|peer| ours / peer),
            limit: self.limit.map(median).transpose()?,
            target: self.target,
        })
    }
}

/// Three significant digits, as people read them.
pub(crate) fn number(value: f64) -> String {
    if value >= 100.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        grouped
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn table(lines: &[Line]) -> String {
    let heads = [
        "row", "metric", "Coppice", "peer", "unit", "ratio", "limit", "target", "met",
    ];
    let mut cells: Vec<Vec<String>> = vec![heads.map(str::to_owned).into()];
    for line in lines {
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        let met = match line.ratio {
            Some(ratio) if ratio >= line.target => "yes",
            Some(_) => "no",
            None => "no peer here",
        };
        cells.push(vec![
            line.row.to_string(),
            line.metric.clone(),
            number(line.ours),
            or_dash(line.peer),
            line.unit.to_owned(),
            or_dash(line.ratio),
            or_dash(line.limit),
            format!(">= {}", line.target),
            met.to_owned(),
        ]);
    }
    // Words to the left, figures to the right.
    let words = [1, 4, 8];
    let width = |column: usize| {
        let widths = cells.iter().filter_map(|row| row.get(column));
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let aligned = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| {
                if words.contains(&i) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        let aligned: Vec<String> = aligned.collect();
        text += aligned.join("  ").trim_end();
        text.push('\n');
    }
    text
}

pub(crate) fn json(lines: &[Line]) -> String {
    let mut text = serde_json::to_string_pretty(lines).unwrap_or_default();
    text.push('\n');
    text
}
