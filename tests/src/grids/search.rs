//! Whether any order explains a history: a search that knows nothing of the log.
//!
//! The algorithm of Wing and Gong (1993) with the memory of Lowe (2017): depth first over which request took effect
//! next, never twice from the same requests done and the same value. Registers are looked at one by one, since each
//! request is about one of them and linearizability is a property of each object.

use std::collections::HashSet;

use super::history::{Asked, Deed, Heard, Key};

/// What a search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// An order explains it.
    Order,
    /// No order explains it.
    None,
    /// It took too long. Not an answer: whoever asks counts it as none.
    Undecided,
}

/// What `asked` makes of `value`, if it can take effect there with what was heard.
fn step(value: Option<u64>, asked: &Asked) -> Option<Option<u64>> {
    let after = asked.key.after(value, asked.deed);
    match &asked.heard {
        Heard::Unknown => Some(after.unwrap_or(value)),
        Heard::Written { done: true } => after,
        Heard::Written { done: false } => after.is_none().then_some(value),
        Heard::Read { value: read, .. } => (*read == value).then_some(value),
    }
}

/// Looks for an order of the requests about `key`, from an empty register, in at most `steps`.
#[must_use]
pub fn search(history: &[Asked], key: Key, mut steps: u64) -> Found {
    let unknown = |asked: &Asked| asked.heard == Heard::Unknown;
    let mut all: Vec<&Asked> = history
        .iter()
        .filter(|asked| asked.key == key && !(unknown(asked) && asked.deed == Deed::Read))
        .collect();
    all.sort_by_key(|asked| asked.began);
    // What was not heard of may take effect at any time later, or never.
    let ends = |asked: &Asked| {
        if unknown(asked) {
            u64::MAX
        } else {
            asked.ended
        }
    };
    let mut left = all.iter().filter(|asked| !unknown(asked)).count();
    let mut done = vec![false; all.len()];
    let mut seen = HashSet::new();
    // What took effect, the value before it, and where to look further when it proves wrong.
    let mut path: Vec<(usize, Option<u64>, usize)> = Vec::new();
    let (mut value, mut from) = (None, 0);
    while left > 0 {
        if steps == 0 {
            return Found::Undecided;
        }
        steps -= 1;
        let open = || (0..all.len()).filter(|i| !done[*i]);
        // Nothing can come before what ended before it began.
        let limit = open().map(|i| ends(all[i])).min().unwrap_or(u64::MAX);
        let next = open()
            .filter(|i| *i >= from)
            .take_while(|i| all[*i].began <= limit)
            .filter_map(|i| Some((i, step(value, all[i])?)))
            .find(|(i, after)| {
                let useless = unknown(all[*i]) && *after == value;
                let mut then = done.clone();
                then[*i] = true;
                !useless && seen.insert((then, *after))
            });
        if let Some((i, after)) = next {
            done[i] = true;
            left -= usize::from(!unknown(all[i]));
            path.push((i, value, i + 1));
            (value, from) = (after, 0);
        } else if let Some((i, before, resume)) = path.pop() {
            done[i] = false;
            left += usize::from(!unknown(all[i]));
            (value, from) = (before, resume);
        } else {
            return Found::None;
        }
    }
    Found::Order
}
