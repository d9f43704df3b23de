//! Blocks that `for_each` and `count` repeat.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Eval, Evaluator, Memo, Scope};
use crate::diagnostic::Problem;
use crate::source::At;
use crate::value::{Value, whole};

/// How often a block stands for one.
#[derive(Clone)]
pub(crate) enum Instances {
    /// Once, under its own name.
    One,
    /// Once for each key.
    Each(Rc<BTreeMap<String, Value>>),
    /// So often, from 0.
    Count(u32),
}

/// The name of an instance.
pub(crate) fn instance_name(name: &str, key: impl std::fmt::Display) -> String {
    format!("{name}-{key}")
}

impl Evaluator<'_> {
    /// The instances of the block with that index.
    pub(crate) fn instances(&self, index: usize, at: At) -> Eval<Instances> {
        let declared = &self.program.blocks[index];
        if !declared.row.repeats {
            return Ok(Instances::One);
        }
        match &self.instances.borrow()[index] {
            Some(Memo::Done(found)) => return found.clone(),
            Some(Memo::Working) => {
                return self.circle(&format!("{}.{}", declared.row.name, declared.name), at);
            }
            None => {}
        }
        self.instances.borrow_mut()[index] = Some(Memo::Working);
        let found = self.find_instances(index);
        self.instances.borrow_mut()[index] = Some(Memo::Done(found.clone()));
        found
    }

    fn find_instances(&self, index: usize) -> Eval<Instances> {
        let declared = &self.program.blocks[index];
        let scope = Scope {
            file: declared.file,
            frame: None,
        };
        let get = |name| declared.block.body.get_attribute(name);
        match (get("for_each"), get("count")) {
            (None, None) => Ok(Instances::One),
            (Some(each), Some(count)) => {
                let problem =
                    Problem::error("V0211", scope.at(&count.key), "`count` beside `for_each`");
                self.fail(
                    problem
                        .also(scope.at(&each.key), "`for_each` is here")
                        .help("remove one of them"),
                )
            }
            (Some(each), None) => {
                let at = scope.at(&each.value);
                let value = self.eval(&each.value, scope)?;
                if let Value::Map(items) = &value {
                    return Ok(Instances::Each(Rc::new(items.values.clone())));
                }
                let Value::List(items) = &value else {
                    let message = format!(
                        "`for_each` takes a map or a list of texts, this is {}",
                        value.describe()
                    );
                    return self.fail(Problem::error("V0203", at, message));
                };
                let mut found = BTreeMap::new();
                for value in &items.values {
                    let Value::Text(key) = value else {
                        let message = format!(
                            "`for_each` takes texts, one of these is {}",
                            value.describe()
                        );
                        return self.fail(Problem::error("V0203", at, message));
                    };
                    if found.insert(key.to_string(), value.clone()).is_some() {
                        let message = format!("`for_each` has {key:?} twice");
                        return self.fail(
                            Problem::error("V0203", at, message)
                                .help("write `toset(...)` around it"),
                        );
                    }
                }
                Ok(Instances::Each(Rc::new(found)))
            }
            (None, Some(count)) => {
                let at = scope.at(&count.value);
                let value = self.eval(&count.value, scope)?;
                let number = if let Value::Number(number) = value {
                    whole(number)
                } else {
                    None
                };
                match number
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| *n <= 10_000)
                {
                    Some(number) => Ok(Instances::Count(number)),
                    None => self.fail(Problem::error(
                        "V0203",
                        at,
                        "`count` takes a whole number from 0 to 10000",
                    )),
                }
            }
        }
    }

    /// What a reference to the block with that index is: the block, or all its instances.
    pub(super) fn block(&self, index: usize, at: At) -> Eval {
        let declared = &self.program.blocks[index];
        let kind = declared.row.name;
        let one = |name: &str| Value::Block(kind, Rc::from(name));
        match self.instances(index, at)? {
            Instances::One => Ok(one(&declared.name)),
            Instances::Each(keys) => {
                let blocks = keys
                    .keys()
                    .map(|key| (key.clone(), one(&instance_name(&declared.name, key))));
                self.bounded(Value::map(blocks.collect()), at)
            }
            Instances::Count(count) => {
                let blocks = (0..count).map(|i| one(&instance_name(&declared.name, i)));
                self.bounded(Value::list(blocks.collect()), at)
            }
        }
    }
}
