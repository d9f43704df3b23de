//! `format`, with the verbs of Terraform that have a use here.

use super::{Call, Eval, Evaluator};
use crate::diagnostic::Problem;
use crate::value::{Value, number_text, whole};

/// Widest field.
const WIDTH_MAX: usize = 200;

struct Verb {
    zero: bool,
    left: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

pub(super) fn run(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let pattern = e.text(call, 0)?;
    let mut out = String::new();
    let mut used = 1;
    let mut rest = pattern.as_ref();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (verb, letter, after) = read(rest);
        rest = after;
        let Some((value, value_at)) = call.arguments.get(used) else {
            return e.fail(Problem::error(
                "V0306",
                call.at,
                "`format` has more verbs than values",
            ));
        };
        used += 1;
        let Some(text) = letter
            .filter(|_| verb.width <= WIDTH_MAX)
            .and_then(|letter| spell(&verb, letter, value))
        else {
            let message = format!("`format` cannot write {} this way", value.describe());
            let problem = Problem::error("V0306", *value_at, message);
            return e.fail(
                problem.help("verbs are %s, %q, %v, %d, %f, %x and %t, with widths of at most 200"),
            );
        };
        e.charge(1 + text.len() / 16, call.at)?;
        pad(&verb, &text, &mut out);
        if out.len() > super::super::TEXT_MAX {
            break;
        }
    }
    out.push_str(rest);
    if used < call.arguments.len() {
        return e.fail(Problem::error(
            "V0306",
            call.at,
            "`format` has more values than verbs",
        ));
    }
    Ok(Value::text(out))
}

fn read(text: &str) -> (Verb, Option<char>, &str) {
    let flags = text.len() - text.trim_start_matches(['0', '-', '+']).len();
    let (set, rest) = text.split_at(flags);
    let number = |text: &str| {
        let length = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        (
            text[..length]
                .parse()
                .ok()
                .or(if length == 0 { None } else { Some(usize::MAX) }),
            length,
        )
    };
    let (width, length) = number(rest);
    let mut rest = &rest[length..];
    let mut precision = None;
    if let Some(after) = rest.strip_prefix('.') {
        let (digits, length) = number(after);
        precision = Some(digits.unwrap_or(0).min(WIDTH_MAX));
        rest = &after[length..];
    }
    let (zero, left, plus) = (set.contains('0'), set.contains('-'), set.contains('+'));
    let letter = rest.chars().next();
    let after = letter.map_or("", |letter| &rest[letter.len_utf8()..]);
    (
        Verb {
            zero,
            left,
            plus,
            width: width.unwrap_or(0),
            precision,
        },
        letter,
        after,
    )
}

fn spell(verb: &Verb, letter: char, value: &Value) -> Option<String> {
    let sign = |text: String, number: f64| {
        if verb.plus && number >= 0.0 {
            format!("+{text}")
        } else {
            text
        }
    };
    let text = value.as_text();
    match (letter, value) {
        ('d', Value::Number(number)) => whole(*number).map(|n| sign(n.to_string(), *number)),
        ('x', Value::Number(number)) => {
            whole(*number).filter(|n| *n >= 0).map(|n| format!("{n:x}"))
        }
        ('X', Value::Number(number)) => {
            whole(*number).filter(|n| *n >= 0).map(|n| format!("{n:X}"))
        }
        ('f', Value::Number(number)) => Some(sign(
            format!("{number:.*}", verb.precision.unwrap_or(6)),
            *number,
        )),
        ('t', Value::Flag(flag)) => Some(flag.to_string()),
        ('q', _) => text.map(|text| format!("{text:?}")),
        ('v', Value::Number(number)) => Some(number_text(*number)),
        ('s' | 'v', _) => text.map(|text| {
            text.chars()
                .take(verb.precision.unwrap_or(usize::MAX))
                .collect()
        }),
        _ => None,
    }
}

fn pad(verb: &Verb, text: &str, out: &mut String) {
    let fill = verb.width.saturating_sub(text.chars().count());
    if verb.left {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', fill));
    } else if verb.zero {
        let digits = text.trim_start_matches(['-', '+']);
        out.push_str(&text[..text.len() - digits.len()]);
        out.extend(std::iter::repeat_n('0', fill));
        out.push_str(digits);
    } else {
        out.extend(std::iter::repeat_n(' ', fill));
        out.push_str(text);
    }
}
