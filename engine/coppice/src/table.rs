//! Tables that align, also with wide characters. The last column is never padded.

use unicode_width::UnicodeWidthStr;

use crate::terminal::Colours;

/// How a cell looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    /// As any text.
    #[default]
    Usual,
    /// All is well.
    Good,
    /// Needs a look.
    Warn,
    /// Wrong.
    Bad,
    /// Less important.
    Faint,
}

/// A cell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.to_string(),
            tone: Tone::Usual,
            right: false,
        }
    }
}

impl Cell {
    /// A number: to the right.
    pub(crate) fn number(value: impl ToString) -> Self {
        Self {
            right: true,
            ..Self::from(value)
        }
    }

    /// In that tone.
    pub(crate) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Rows under headings.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            headings: headings.iter().map(|h| (*h).to_uppercase()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self, colours: Colours) -> String {
        let columns = self.headings.len();
        let right = |c: usize| self.rows.iter().any(|r| r.get(c).is_some_and(|x| x.right));
        let headings: Vec<Cell> = (0..columns)
            .map(|c| Cell {
                text: self.headings[c].clone(),
                tone: Tone::Faint,
                right: right(c),
            })
            .collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> = (0..columns)
            .map(|c| {
                let width = |row: &Vec<Cell>| row.get(c).map_or(0, |x| x.text.width());
                all().map(width).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate().take(columns) {
                if c > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(widths[c].saturating_sub(cell.text.width()));
                let painted = paint(colours, cell.tone, &cell.text);
                if cell.right {
                    line.push_str(&pad);
                    line.push_str(&painted);
                } else {
                    line.push_str(&painted);
                    if c + 1 < columns {
                        line.push_str(&pad);
                    }
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` in `tone`.
pub(crate) fn paint(colours: Colours, tone: Tone, text: &str) -> String {
    match tone {
        Tone::Usual => text.to_owned(),
        Tone::Good => colours.good(text),
        Tone::Warn => colours.warn(text),
        Tone::Bad => colours.bad(text),
        Tone::Faint => colours.faint(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_a_terminal_shows() {
        let mut table = Table::new(&["name", "size", "note"]);
        table.row(["müller".into(), Cell::number(5), "x".into()]);
        table.row(["東京".into(), Cell::number(1024), "".into()]);
        assert_eq!(
            table.render(Colours::Plain),
            "NAME    SIZE  NOTE\nmüller     5  x\n東京    1024\n"
        );
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut table = Table::new(&["a", "b"]);
        table.row([Cell::from("x").tone(Tone::Bad), "y".into()]);
        let painted = table.render(Colours::Ansi);
        let bare = anstream::adapter::strip_str(&painted).to_string();
        assert_ne!(painted, bare);
        assert_eq!(bare, table.render(Colours::Plain));
    }
}
