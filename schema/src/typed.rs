//! Values as the table says they must be.

use std::net::IpAddr;
use std::rc::Rc;

use jiff::civil::DateTime;

use crate::calendar;
use crate::desired::{ClockTime, Copies, Cron, Days, Entitlement};
use crate::digest::Digest;
use crate::evaluate::functions::network;
use crate::ids::{SecretName, VersionName};
use crate::quantity;
use crate::table::{Default, Kind};
use crate::units::{Share, Size, Span};
use crate::value::{Value, whole};

/// A value of a known type.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Typed {
    Text(String),
    Number(u64),
    Flag(bool),
    Size(Size),
    Span(Span),
    Share(Share),
    Clock(ClockTime),
    Days(Days),
    Cron(Cron),
    Moment(DateTime),
    Name(Rc<str>),
    Names(Vec<Rc<str>>),
    Word(&'static str),
    Words(Vec<&'static str>),
    Texts(Vec<String>),
    Secret(SecretName),
    Digest(Digest),
    Version(VersionName),
    Address(IpAddr),
    Copies(Copies),
    Entitlements(Vec<Entitlement>),
}

/// Why a value is not of its type.
#[derive(Debug, PartialEq)]
pub(crate) enum Wrong {
    /// What is expected; the value is of another type.
    Type(String),
    /// What is expected; the type is right.
    Form(String),
    /// The value is beyond the range; in words.
    Range(String),
    /// The word is none of these.
    Choice(&'static [&'static str], String),
    /// Only a secret is accepted.
    Secret,
}

fn wrong_type<T>(expected: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Type(expected.into()))
}

fn text(value: &Value, expected: &str) -> Result<Rc<str>, Wrong> {
    if let Value::Text(text) = value {
        Ok(Rc::clone(text))
    } else {
        wrong_type(expected)
    }
}

fn form<T>(read: Result<T, quantity::Expected>) -> Result<T, Wrong> {
    read.map_err(|expected| Wrong::Form(expected.to_owned()))
}

fn number(value: &Value, low: u64, high: u64) -> Result<u64, Wrong> {
    let Value::Number(number) = value else {
        return wrong_type("a whole number");
    };
    let Some(number) = whole(*number) else {
        return wrong_type("a whole number");
    };
    let fits = u64::try_from(number)
        .ok()
        .filter(|n| (low..=high).contains(n));
    fits.ok_or_else(|| Wrong::Range(format!("from {low} to {high}")))
}

fn choice(value: &Value, words: &'static [&'static str]) -> Result<&'static str, Wrong> {
    let Value::Text(found) = value else {
        return wrong_type(format!("one of {}", quoted(words)));
    };
    words
        .iter()
        .copied()
        .find(|word| *word == found.as_ref())
        .ok_or_else(|| Wrong::Choice(words, found.to_string()))
}

/// Words in quotes, for messages.
pub(crate) fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn list<T>(
    value: &Value,
    expected: &str,
    read: impl Fn(&Value) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let Value::List(items) = value else {
        return wrong_type(expected);
    };
    items.values.iter().map(read).collect()
}

fn block(value: &Value, kind: &str) -> Result<Rc<str>, Wrong> {
    if let Value::Block(found, name) = value
        && *found == kind
    {
        return Ok(Rc::clone(name));
    }
    wrong_type(format!("a reference such as {kind}.name"))
}

/// `value` as `kind`; `null` is handled before. Files, sources and what is never evaluated are not read here.
pub(crate) fn read(value: &Value, kind: Kind) -> Result<Typed, Wrong> {
    Ok(match kind {
        Kind::Text | Kind::File | Kind::Source | Kind::Hostname | Kind::Timezone => {
            let text = text(value, "a text in quotes")?;
            if text.trim().is_empty() {
                return Err(Wrong::Form("a text that is not empty".to_owned()));
            }
            if kind == Kind::Timezone && !calendar::is_timezone(&text) {
                return Err(Wrong::Form(
                    "an IANA time zone such as \"Europe/Berlin\" or \"UTC\"".to_owned(),
                ));
            }
            Typed::Text(text.to_string())
        }
        Kind::Number(low, high) => Typed::Number(number(value, low, high)?),
        Kind::Flag => {
            let Value::Flag(flag) = value else {
                return wrong_type("true or false, without quotes");
            };
            Typed::Flag(*flag)
        }
        Kind::Size(low, high) => {
            let size = form(quantity::size(&text(value, quantity::SIZE)?))?;
            if !(low..=high).contains(&size.0) {
                return Err(Wrong::Range(format!(
                    "from {} to {}",
                    Size(low),
                    Size(high)
                )));
            }
            Typed::Size(size)
        }
        Kind::Duration(low, high) => {
            let span = form(quantity::span(&text(value, quantity::SPAN)?))?;
            if !(low..=high).contains(&span.0) {
                return Err(Wrong::Range(format!(
                    "from {} to {}",
                    Span(low),
                    Span(high)
                )));
            }
            Typed::Span(span)
        }
        Kind::Share if matches!(value, Value::Number(_)) => {
            let count = number(value, 0, 20_000)?;
            Typed::Share(Share::Count(u32::try_from(count).unwrap_or(u32::MAX)))
        }
        Kind::Share => Typed::Share(form(quantity::share(&text(value, quantity::SHARE)?))?),
        Kind::Clock => Typed::Clock(form(calendar::clock(&text(value, calendar::CLOCK)?))?),
        Kind::Days => Typed::Days(form(calendar::days(&text(value, calendar::DAYS)?))?),
        Kind::Cron => Typed::Cron(form(calendar::cron(&text(value, calendar::CRON)?))?),
        Kind::Moment => Typed::Moment(form(calendar::moment(&text(value, calendar::MOMENT)?))?),
        Kind::Ref(kind) => Typed::Name(block(value, kind)?),
        Kind::Refs(kind) if matches!(value, Value::List(_)) => {
            Typed::Names(list(value, "", |value| block(value, kind))?)
        }
        Kind::Refs(kind) => Typed::Names(vec![block(value, kind)?]),
        Kind::Choice(words) => Typed::Word(choice(value, words)?),
        Kind::Choices(words) => {
            let words_of = list(value, "", |value| choice(value, words));
            Typed::Words(match words_of {
                Err(Wrong::Type(expected)) if expected.is_empty() => {
                    return wrong_type(format!("a list of {}", quoted(words)));
                }
                other => other?,
            })
        }
        Kind::Texts => Typed::Texts(list(value, "a list of texts", |value| {
            let text = text(value, "a list of texts")?;
            if text.trim().is_empty() {
                Err(Wrong::Form("texts that are not empty".to_owned()))
            } else {
                Ok(text.to_string())
            }
        })?),
        Kind::Networks => {
            let expected = "a list of networks such as \"10.1.0.0/16\", without host bits";
            Typed::Texts(list(value, expected, |value| {
                let text = text(value, expected)?;
                if network(&text).is_some() {
                    Ok(text.to_string())
                } else {
                    Err(Wrong::Form(expected.to_owned()))
                }
            })?)
        }
        Kind::Secret => {
            let Value::Secret(name) = value else {
                return Err(Wrong::Secret);
            };
            Typed::Secret(name.clone())
        }
        Kind::Digest => {
            let expected = "64 hexadecimal digits, in quotes";
            let digest = text(value, expected)?.parse();
            Typed::Digest(digest.map_err(|_| Wrong::Form(expected.to_owned()))?)
        }
        Kind::Version => {
            let version = text(value, "the name of a version, in quotes")?.parse();
            Typed::Version(
                version.map_err(|bad: crate::ids::BadName| Wrong::Form(bad.expected.to_owned()))?,
            )
        }
        Kind::Address => {
            let expected = "an IP address such as \"10.1.0.10\"";
            let address = text(value, expected)?.parse();
            Typed::Address(address.map_err(|_| Wrong::Form(expected.to_owned()))?)
        }
        Kind::Copies if matches!(value, Value::Number(_)) => Typed::Copies(Copies::Count(
            u32::try_from(number(value, 1, 1_000)?).unwrap_or(u32::MAX),
        )),
        Kind::Copies => {
            let expected = "\"all\" or a number";
            if text(value, expected)?.as_ref() != "all" {
                return wrong_type(expected);
            }
            Typed::Copies(Copies::All)
        }
        Kind::Entitlements => {
            let expected = "a list of group(), user(), ou(), everyone() and locations";
            Typed::Entitlements(list(value, expected, |value| entitlement(value, expected))?)
        }
        // These are read where they mean something: see `variable`, `moved` and `instances`.
        Kind::BlockAddress | Kind::Any | Kind::Type | Kind::Condition => Typed::Flag(true),
    })
}

fn entitlement(value: &Value, expected: &str) -> Result<Entitlement, Wrong> {
    if let Value::Entitlement(entitlement) = value {
        return Ok(entitlement.as_ref().clone());
    }
    let name = block(value, "location").or_else(|_| wrong_type(expected))?;
    let name = name
        .parse()
        .map_err(|bad: crate::ids::BadName| Wrong::Form(bad.expected.to_owned()))?;
    Ok(Entitlement::Location(name))
}

/// The default as a typed value, where there is one.
pub(crate) fn default(default: Default, kind: Kind) -> Option<Typed> {
    let value = match default {
        Default::Unset | Default::Depends(_) => return None,
        Default::Text(text) => Value::text(text),
        Default::Number(number) => Value::Number(f64::from(number)),
        Default::Flag(flag) => Value::Flag(flag),
        Default::Texts(texts) => Value::list(texts.iter().map(Value::text).collect()),
    };
    read(&value, kind).ok()
}
