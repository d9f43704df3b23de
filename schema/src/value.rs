//! What expressions evaluate to.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::desired::Entitlement;
use crate::ids::SecretName;

/// A value. Copying one is cheap: what is large is shared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Flag(bool),
    /// Always finite, and a whole number below 2^53 when it has no fraction.
    Number(f64),
    Text(Rc<str>),
    List(Rc<Items<Vec<Value>>>),
    Map(Rc<Items<BTreeMap<String, Value>>>),
    /// A block of the configuration, by kind and name.
    Block(&'static str, Rc<str>),
    Secret(SecretName),
    Entitlement(Rc<Entitlement>),
}

/// Several values, with how many there are in all: what is shared still counts each time, so that comparing or
/// reading a value never takes longer than its weight says.
#[derive(Debug)]
pub(crate) struct Items<T> {
    pub(crate) values: T,
    weight: usize,
}

impl<T: PartialEq> PartialEq for Items<T> {
    fn eq(&self, other: &Self) -> bool {
        self.weight == other.weight && self.values == other.values
    }
}

impl Value {
    pub(crate) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(Rc::from(text.as_ref()))
    }

    pub(crate) fn list(values: Vec<Self>) -> Self {
        let weight = values
            .iter()
            .fold(1, |sum: usize, value| sum.saturating_add(value.weight()));
        Self::List(Rc::new(Items { values, weight }))
    }

    pub(crate) fn map(values: BTreeMap<String, Self>) -> Self {
        let weight = values
            .values()
            .fold(1, |sum: usize, value| sum.saturating_add(value.weight()));
        Self::Map(Rc::new(Items { values, weight }))
    }

    /// How many values it is made of; a long text counts as several.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::List(items) => items.weight,
            Self::Map(items) => items.weight,
            Self::Text(text) => 1 + text.len() / 256,
            Self::Null
            | Self::Flag(_)
            | Self::Number(_)
            | Self::Block(..)
            | Self::Secret(_)
            | Self::Entitlement(_) => 1,
        }
    }

    /// Its kind with an article, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Flag(_) => "a flag".to_owned(),
            Self::Number(_) => "a number".to_owned(),
            Self::Text(_) => "a text".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
            Self::Block(kind, name) => format!("the block `{kind}.{name}`"),
            Self::Secret(_) => "a secret".to_owned(),
            Self::Entitlement(_) => "an entitlement".to_owned(),
        }
    }

    /// The value as part of a text; `None` when it has no such form.
    pub(crate) fn as_text(&self) -> Option<Rc<str>> {
        match self {
            Self::Text(text) => Some(Rc::clone(text)),
            Self::Number(number) => Some(Rc::from(number_text(*number))),
            Self::Flag(flag) => Some(Rc::from(if *flag { "true" } else { "false" })),
            Self::Null
            | Self::List(_)
            | Self::Map(_)
            | Self::Block(..)
            | Self::Secret(_)
            | Self::Entitlement(_) => None,
        }
    }

    /// The number it is, or that its text spells.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok().filter(|n: &f64| n.is_finite()),
            Self::Null
            | Self::Flag(_)
            | Self::List(_)
            | Self::Map(_)
            | Self::Block(..)
            | Self::Secret(_)
            | Self::Entitlement(_) => None,
        }
    }
}

/// A number as people write it.
pub(crate) fn number_text(number: f64) -> String {
    format!("{number}")
}

/// The whole number that `number` is.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a whole number below 2^53 is exact in both"
)]
pub(crate) fn whole(number: f64) -> Option<i64> {
    if number.fract() != 0.0 || number.abs() > 9_007_199_254_740_991.0 {
        return None;
    }
    Some(number as i64)
}

/// `number` as a value; beyond 2^53 the nearest that can be held.
pub(crate) fn number(number: i64) -> Value {
    Value::Number(number.to_string().parse().unwrap_or(0.0))
}
