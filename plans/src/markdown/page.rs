//! A page of markdown that never becomes too long, and is whole wherever it ends.

/// Room for what ends a page that was cut.
const END: usize = 1_000;

/// What was written so far.
pub(super) struct Page {
    text: String,
    longest: usize,
    folded: bool,
    cut: bool,
}

impl Page {
    pub(super) fn new(longest: usize) -> Self {
        Self {
            text: String::new(),
            longest,
            folded: false,
            cut: false,
        }
    }

    /// One line; from the first that does not fit on, none.
    pub(super) fn line(&mut self, line: &str) {
        self.cut = self.cut || self.text.len() + line.len() + END > self.longest;
        if !self.cut {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Begins a fold.
    pub(super) fn open(&mut self, title: &str) {
        self.line("");
        self.line(&format!("<details><summary>{title}</summary>"));
        self.folded = !self.cut;
        self.line("");
    }

    /// Ends the fold, if it was begun.
    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.folded) {
            self.text.push_str("\n</details>\n");
        }
    }

    /// The page, with its last sentence. A cut page says so, and where the rest is.
    pub(super) fn end(mut self, last: &str) -> String {
        self.close();
        if self.cut {
            self.text
                .push_str("\n… cut here; the whole plan: `coppice plan --format json`\n");
        }
        self.text.push_str(&format!("\n{last}\n"));
        self.text
    }
}

/// Text that means nothing to markdown or HTML, and mentions nobody.
pub(super) fn escape(text: &str) -> String {
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
    use super::{Page, escape};

    #[test]
    fn hostile_names_are_only_text() {
        assert_eq!(
            escape("</details>@all|`x`"),
            "&lt;/details&gt;&#64;all\\|\\`x\\`"
        );
    }

    #[test]
    fn a_page_that_is_cut_is_whole_and_short_enough() {
        for longest in 1_100..1_400 {
            let mut page = Page::new(longest);
            page.line("# Title");
            page.open("Much");
            for n in 0..100 {
                page.line(&format!("- item {n}"));
            }
            page.close();
            let text = page.end("The end.");
            assert!(text.len() <= longest, "{longest}: {}", text.len());
            let count = |part| text.matches(part).count();
            assert_eq!(count("<details>"), count("</details>"), "{text}");
            assert_eq!(count("cut here"), 1, "{text}");
            assert!(text.ends_with("\nThe end.\n"), "{text}");
            assert!(
                text.lines()
                    .all(|line| !line.starts_with("- item") || line.len() > 7)
            );
        }
    }
}
