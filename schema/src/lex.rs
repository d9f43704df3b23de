//! Cuts text into the tokens of HCL, whatever the text: used where the parser cannot be (before it, to judge
//! nesting; after it failed, to find what to leave out) or does not say enough (white space, for `fmt`).

/// A piece of text between white space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Kinds of token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ident,
    Number,
    OpenQuote,
    CloseQuote,
    /// Literal text of a quoted template or of a heredoc.
    Literal,
    /// `<<EOT` with the line's end.
    OpenHeredoc,
    /// The line that ends a heredoc, without the line's end.
    CloseHeredoc,
    /// `${` or `%{`.
    OpenTemplate,
    /// The `}` of those.
    CloseTemplate,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    OpenParen,
    CloseParen,
    Equal,
    Colon,
    DoubleColon,
    Comma,
    Dot,
    Ellipsis,
    Question,
    Minus,
    Bang,
    /// Any other operator.
    Operator,
    Newline,
    /// A comment; one that reaches to the end of its line has that end in it.
    Comment,
    /// What HCL has no use for: a quote that is not closed, a heredoc without end, a stray character.
    Bad,
}

impl Kind {
    /// How far the token opens (1) or closes (-1) something that may reach over lines.
    pub(crate) fn bracket(self) -> i32 {
        if matches!(
            self,
            Self::OpenBrace | Self::OpenBracket | Self::OpenParen | Self::OpenTemplate
        ) {
            1
        } else if matches!(
            self,
            Self::CloseBrace | Self::CloseBracket | Self::CloseParen | Self::CloseTemplate
        ) {
            -1
        } else {
            0
        }
    }
}

enum Mode {
    /// In `${ }`: ordinary tokens; how many braces are open within.
    Template(usize),
    Quote,
    /// In a heredoc: where the line that ends it begins, and where that line's word ends.
    Heredoc(usize, usize),
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    modes: Vec<Mode>,
    tokens: Vec<Token>,
    /// Bytes that may still be searched for ends of heredocs; without a limit hostile text costs its square.
    search: usize,
}

/// The tokens of `text`, in order. Total: any text has tokens, and every byte that is no white space is in one.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        modes: Vec::new(),
        tokens: Vec::new(),
        search: text.len().saturating_mul(8),
    };
    while lexer.at < text.len() {
        let before = lexer.at;
        lexer.step();
        if lexer.at == before {
            lexer.push(Kind::Bad, next_char(text, before));
        }
    }
    lexer.tokens
}

fn next_char(text: &str, at: usize) -> usize {
    text[at..]
        .chars()
        .next()
        .map_or(text.len(), |c| at + c.len_utf8())
}

pub(crate) fn ident_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn ident_continue(c: char) -> bool {
    c == '_' || c == '-' || c.is_alphanumeric()
}

impl Lexer<'_> {
    fn push(&mut self, kind: Kind, end: usize) {
        self.tokens.push(Token {
            kind,
            start: self.at,
            end,
        });
        self.at = end;
    }

    fn step(&mut self) {
        match self.modes.last() {
            None | Some(Mode::Template(_)) => self.ordinary(),
            Some(Mode::Quote) => self.quoted(),
            Some(Mode::Heredoc(end, word)) => self.heredoc(*end, *word),
        }
    }

    fn quoted(&mut self) {
        let mut escaped = false;
        let rest = &self.text[self.at..];
        let mut length = rest.len();
        let mut next = None;
        for (i, c) in rest.char_indices() {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
                continue;
            } else if c == '"' || self.opens_template(self.at + i) {
                length = i;
                next = Some(c);
                break;
            }
            if c == '\n' {
                length = i;
                break;
            }
        }
        if length > 0 {
            let end = self.at + length;
            self.push(
                if next.is_some() {
                    Kind::Literal
                } else {
                    Kind::Bad
                },
                end,
            );
        }
        match next {
            Some('"') => {
                self.push(Kind::CloseQuote, self.at + 1);
                self.modes.pop();
            }
            Some(_) => self.open_template(),
            // A quote ends with its line: what follows is read as if it had been closed.
            None => {
                self.modes.pop();
            }
        }
        if next.is_none() && length == 0 && self.at < self.text.len() {
            self.push(Kind::Newline, self.at + 1);
        }
    }

    /// Whether an unescaped `${` or `%{` stands at `at`.
    fn opens_template(&self, at: usize) -> bool {
        let bytes = self.text.as_bytes();
        let mark = bytes[at];
        (mark == b'$' || mark == b'%')
            && bytes.get(at + 1) == Some(&b'{')
            && !(at > self.at && bytes[at - 1] == mark && !self.escapes_escape(at - 1, mark))
    }

    /// In `$$${` the first two are an escape of their own only when an odd number stands before.
    fn escapes_escape(&self, at: usize, mark: u8) -> bool {
        let run = self.text.as_bytes()[self.at..=at]
            .iter()
            .rev()
            .take_while(|byte| **byte == mark)
            .count();
        run.is_multiple_of(2) && run > 2
    }

    fn open_template(&mut self) {
        let strip = usize::from(self.text.as_bytes().get(self.at + 2) == Some(&b'~'));
        self.push(Kind::OpenTemplate, self.at + 2 + strip);
        self.modes.push(Mode::Template(0));
    }

    fn heredoc(&mut self, end: usize, word: usize) {
        let open = (self.at..end).find(|i| self.opens_template(*i));
        let stop = open.unwrap_or(end);
        if stop > self.at {
            self.push(Kind::Literal, stop);
        }
        if open.is_some() {
            self.open_template();
        } else {
            self.modes.pop();
            self.push(Kind::CloseHeredoc, word.max(self.at));
        }
    }

    fn ordinary(&mut self) {
        let rest = &self.text[self.at..];
        let Some(c) = rest.chars().next() else { return };
        let one = self.at + c.len_utf8();
        match c {
            '\r' if rest.starts_with("\r\n") => self.push(Kind::Newline, one + 1),
            ' ' | '\t' | '\r' => self.at = one,
            '\n' => self.push(Kind::Newline, one),
            '#' => self.comment_line(),
            '/' if rest.starts_with("//") => self.comment_line(),
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(length) => self.push(Kind::Comment, self.at + length + 4),
                None => self.push(Kind::Bad, self.at + 2),
            },
            '"' => {
                self.push(Kind::OpenQuote, one);
                self.modes.push(Mode::Quote);
            }
            '<' if rest.starts_with("<<") => self.open_heredoc(),
            '{' => {
                if let Some(Mode::Template(depth)) = self.modes.last_mut() {
                    *depth += 1;
                }
                self.push(Kind::OpenBrace, one);
            }
            '}' => self.close_brace(),
            '~' if rest.starts_with("~}")
                && matches!(self.modes.last(), Some(Mode::Template(0))) =>
            {
                self.push(Kind::CloseTemplate, one + 1);
                self.modes.pop();
            }
            '0'..='9' => self.number(),
            _ if c == '_' || c.is_alphabetic() => {
                let length = rest.find(|c| !ident_continue(c)).unwrap_or(rest.len());
                self.push(Kind::Ident, self.at + length);
            }
            _ => self.operator(rest, one),
        }
    }

    fn comment_line(&mut self) {
        let end = self.text[self.at..]
            .find('\n')
            .map_or(self.text.len(), |i| self.at + i + 1);
        self.push(Kind::Comment, end);
    }

    fn close_brace(&mut self) {
        let end = self.at + 1;
        match self.modes.last_mut() {
            Some(Mode::Template(0)) => {
                self.push(Kind::CloseTemplate, end);
                self.modes.pop();
            }
            Some(Mode::Template(depth)) => {
                *depth -= 1;
                self.push(Kind::CloseBrace, end);
            }
            Some(Mode::Quote | Mode::Heredoc(..)) | None => self.push(Kind::CloseBrace, end),
        }
    }

    fn number(&mut self) {
        let bytes = self.text.as_bytes();
        let digits = |mut i: usize| {
            while bytes.get(i).is_some_and(u8::is_ascii_digit) {
                i += 1;
            }
            i
        };
        let mut end = digits(self.at);
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1 + sign);
            }
        }
        self.push(Kind::Number, end);
    }

    fn operator(&mut self, rest: &str, one: usize) {
        let three = [("...", Kind::Ellipsis)];
        let two = [
            ("::", Kind::DoubleColon),
            ("==", Kind::Operator),
            ("!=", Kind::Operator),
            ("<=", Kind::Operator),
            (">=", Kind::Operator),
            ("&&", Kind::Operator),
            ("||", Kind::Operator),
            ("=>", Kind::Operator),
        ];
        for (text, kind) in three.into_iter().chain(two) {
            if rest.starts_with(text) {
                return self.push(kind, self.at + text.len());
            }
        }
        let kind = match rest.as_bytes().first() {
            Some(b'[') => Kind::OpenBracket,
            Some(b']') => Kind::CloseBracket,
            Some(b'(') => Kind::OpenParen,
            Some(b')') => Kind::CloseParen,
            Some(b'=') => Kind::Equal,
            Some(b':') => Kind::Colon,
            Some(b',') => Kind::Comma,
            Some(b'.') => Kind::Dot,
            Some(b'?') => Kind::Question,
            Some(b'-') => Kind::Minus,
            Some(b'!') => Kind::Bang,
            Some(b'+' | b'*' | b'/' | b'%' | b'<' | b'>') => Kind::Operator,
            _ => Kind::Bad,
        };
        self.push(kind, one);
    }

    fn open_heredoc(&mut self) {
        let rest = &self.text[self.at..];
        let line = rest.find('\n');
        let word = line.map(|end| rest[2..end].trim_end_matches('\r'));
        let word = word.map(|word| word.strip_prefix('-').unwrap_or(word));
        let fine = word.filter(|w| w.starts_with(ident_start) && w.chars().all(ident_continue));
        let (Some(line), Some(word)) = (line, fine) else {
            return self.push(Kind::Bad, self.at + 2);
        };
        let body = self.at + line + 1;
        match self.heredoc_end(body, word) {
            Some((end, stop)) => {
                self.push(Kind::OpenHeredoc, body);
                self.modes.push(Mode::Heredoc(end, stop));
            }
            None => self.push(Kind::Bad, self.at + 2),
        }
    }

    /// Where the line that ends the heredoc begins, and where its word ends.
    fn heredoc_end(&mut self, body: usize, word: &str) -> Option<(usize, usize)> {
        let mut at = body;
        while at < self.text.len() && self.search > 0 {
            let rest = &self.text[at..];
            let length = rest.find('\n').map_or(rest.len(), |i| i + 1);
            self.search = self.search.saturating_sub(length);
            let indent = rest.len() - rest.trim_start_matches([' ', '\t']).len();
            if let Some(after) = rest[indent..].strip_prefix(word)
                && !after.starts_with(ident_continue)
            {
                return Some((at, at + indent + word.len()));
            }
            at += length;
        }
        None
    }
}
