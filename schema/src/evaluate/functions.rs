//! The functions of the language. None of them sees a clock, a random number, a file or a network.

mod address;
pub(crate) use address::network;
mod format;

use std::collections::BTreeMap;
use std::rc::Rc;

use hcl::edit::Span;
use hcl::edit::expr::{Expression, FuncCall};

use super::{Eval, Evaluator, LIST_MAX, Scope, variable};
use crate::desired::Entitlement;
use crate::diagnostic::Problem;
use crate::inputs;
use crate::source::At;
use crate::value::{Value, whole};

/// One function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// Its arguments, as the reference shows them.
    pub(crate) arguments: &'static str,
    /// What it gives.
    pub(crate) doc: &'static str,
    /// Fewest and most arguments.
    takes: (usize, usize),
    run: fn(&Evaluator<'_>, &Call<'_>) -> Eval,
}

/// One call, its arguments evaluated.
pub(super) struct Call<'e> {
    /// The name, for messages.
    at: At,
    file: usize,
    arguments: Vec<(Value, At)>,
    /// The arguments as written.
    written: Vec<&'e Expression>,
}

const fn function(
    name: &'static str,
    arguments: &'static str,
    takes: (usize, usize),
    run: fn(&Evaluator<'_>, &Call<'_>) -> Eval,
    doc: &'static str,
) -> Function {
    Function {
        name,
        arguments,
        doc,
        takes,
        run,
    }
}

const MANY: usize = usize::MAX;

/// Every function.
pub(crate) static FUNCTIONS: &[Function] = &[
    function(
        "secret",
        "name",
        (1, 1),
        secret,
        "The secret of that name; its value is never part of a configuration.",
    ),
    function(
        "group",
        "directory, name",
        (2, 2),
        |e, c| member(e, c, Entitlement::Group),
        "Members of a group, by name or DN.",
    ),
    function(
        "user",
        "directory, name",
        (2, 2),
        |e, c| member(e, c, Entitlement::User),
        "One person.",
    ),
    function(
        "ou",
        "directory, dn",
        (2, 2),
        |e, c| member(e, c, Entitlement::Ou),
        "Everyone below an organisational unit.",
    ),
    function(
        "everyone",
        "directory",
        (1, 1),
        everyone,
        "Everyone in a directory.",
    ),
    function(
        "file",
        "path",
        (1, 1),
        file,
        "The content of a text file beside the configuration; the path is a literal, inside the directory.",
    ),
    function(
        "min",
        "numbers...",
        (1, MANY),
        |e, c| extreme(e, c, f64::min),
        "The least.",
    ),
    function(
        "max",
        "numbers...",
        (1, MANY),
        |e, c| extreme(e, c, f64::max),
        "The greatest.",
    ),
    function(
        "format",
        "pattern, values...",
        (1, MANY),
        format::run,
        "Text with `%s`, `%d`, `%05d`, `%.2f`, `%x`, `%q`, `%v` and `%t` replaced.",
    ),
    function(
        "lower",
        "text",
        (1, 1),
        |e, c| Ok(Value::text(e.text(c, 0)?.to_lowercase())),
        "In lower case.",
    ),
    function(
        "upper",
        "text",
        (1, 1),
        |e, c| Ok(Value::text(e.text(c, 0)?.to_uppercase())),
        "In upper case.",
    ),
    function(
        "join",
        "separator, list",
        (2, 2),
        join,
        "The texts of a list in one.",
    ),
    function(
        "split",
        "separator, text",
        (2, 2),
        split,
        "The parts of a text.",
    ),
    function(
        "concat",
        "lists...",
        (0, MANY),
        concat,
        "One list after the other.",
    ),
    function(
        "keys",
        "map",
        (1, 1),
        |e, c| Ok(Value::list(e.map(c, 0)?.keys().map(Value::text).collect())),
        "The keys of a map, sorted.",
    ),
    function(
        "values",
        "map",
        (1, 1),
        |e, c| Ok(Value::list(e.map(c, 0)?.values().cloned().collect())),
        "The values of a map, in the order of their keys.",
    ),
    function(
        "merge",
        "maps...",
        (0, MANY),
        merge,
        "One map of all; the last that has a key wins.",
    ),
    function(
        "length",
        "list, map or text",
        (1, 1),
        length,
        "How many elements, or characters.",
    ),
    function(
        "contains",
        "list, value",
        (2, 2),
        contains,
        "Whether the list has that value.",
    ),
    function(
        "range",
        "[start,] end[, step]",
        (1, 3),
        range,
        "Numbers from start (0) up to end, without end.",
    ),
    function(
        "toset",
        "list",
        (1, 1),
        toset,
        "The list sorted, each value once.",
    ),
    function(
        "cidrhost",
        "network, number",
        (2, 2),
        address::cidrhost,
        "The address of a host in a network.",
    ),
];

impl Evaluator<'_> {
    pub(super) fn unknown_function(&self, call: &FuncCall, scope: Scope<'_>) -> Problem {
        let name = call.name.name.as_str();
        let at = At::new(scope.file, call.name.name.span());
        let problem = Problem::error("V0205", at, format!("unknown function `{name}`"))
            .label("no such function");
        let known = FUNCTIONS.iter().map(|function| function.name);
        problem.nearest_or(name, known, "`coppice schema` lists the functions")
    }

    pub(super) fn call(&self, call: &FuncCall, scope: Scope<'_>, at: At) -> Eval {
        let name = call.name.name.as_str();
        let known = FUNCTIONS
            .iter()
            .find(|function| function.name == name && !call.name.is_namespaced());
        let Some(function) = known else {
            return self.fail(self.unknown_function(call, scope));
        };
        let evaluated: Vec<Eval> = call
            .args
            .iter()
            .map(|argument| self.eval(argument, scope))
            .collect();
        let mut arguments = Vec::new();
        for (value, expression) in evaluated.into_iter().zip(call.args.iter()) {
            arguments.push((value?, scope.at(expression)));
        }
        if call.args.expand_final()
            && let Some((last, last_at)) = arguments.pop()
        {
            let Value::List(items) = last else {
                let message = format!("`...` spreads a list, this is {}", last.describe());
                return self.fail(Problem::error("V0306", last_at, message));
            };
            self.charge(items.values.len(), at)?;
            arguments.extend(items.values.iter().map(|value| (value.clone(), last_at)));
        }
        let (least, most) = function.takes;
        if arguments.len() < least || arguments.len() > most {
            let message = format!(
                "`{name}` takes {}, found {}",
                count(least, most),
                arguments.len()
            );
            let problem = Problem::error("V0306", at, message);
            return self.fail(problem.help(format!("write {name}({})", function.arguments)));
        }
        let call = Call {
            at,
            file: scope.file,
            arguments,
            written: call.args.iter().collect(),
        };
        let value = (function.run)(self, &call)?;
        self.bounded(value, at)
    }

    fn wrong<T>(&self, call: &Call<'_>, i: usize, wanted: &str) -> Eval<T> {
        let (found, at) = match call.arguments.get(i) {
            Some((value, at)) => (value.describe(), *at),
            None => ("nothing".to_owned(), call.at),
        };
        self.fail(Problem::error(
            "V0306",
            at,
            format!("{wanted} is needed here, this is {found}"),
        ))
    }

    fn text(&self, call: &Call<'_>, i: usize) -> Eval<Rc<str>> {
        match call.arguments.get(i).and_then(|(value, _)| value.as_text()) {
            Some(text) => Ok(text),
            None => self.wrong(call, i, "a text"),
        }
    }

    fn integer(&self, call: &Call<'_>, i: usize) -> Eval<i64> {
        let number = call.arguments.get(i).and_then(|(value, _)| {
            if let Value::Number(n) = value {
                whole(*n)
            } else {
                None
            }
        });
        number.map_or_else(|| self.wrong(call, i, "a whole number"), Ok)
    }

    fn list<'c>(&self, call: &'c Call<'_>, i: usize) -> Eval<&'c Vec<Value>> {
        match call.arguments.get(i) {
            Some((Value::List(items), _)) => Ok(&items.values),
            _ => self.wrong(call, i, "a list"),
        }
    }

    fn map<'c>(&self, call: &'c Call<'_>, i: usize) -> Eval<&'c BTreeMap<String, Value>> {
        match call.arguments.get(i) {
            Some((Value::Map(items), _)) => Ok(&items.values),
            _ => self.wrong(call, i, "a map"),
        }
    }
}

fn count(least: usize, most: usize) -> String {
    match (least, most) {
        (1, 1) => "one argument".to_owned(),
        (least, most) if least == most => format!("{least} arguments"),
        (least, MANY) => format!("at least {least} arguments"),
        (least, most) => format!("{least} to {most} arguments"),
    }
}

fn secret(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let name = e.text(call, 0)?;
    match name.parse::<crate::ids::SecretName>() {
        Ok(name) => {
            e.secrets
                .borrow_mut()
                .entry(name.clone())
                .or_default()
                .insert(call.at);
            Ok(Value::Secret(name))
        }
        Err(bad) => e.fail(Problem::error(
            "V0306",
            call.arguments[0].1,
            bad.to_string(),
        )),
    }
}

fn directory(e: &Evaluator<'_>, call: &Call<'_>) -> Eval<crate::ids::DirectoryName> {
    match call.arguments.first() {
        Some((Value::Block("directory", name), _)) => {
            name.parse().or_else(|_| e.wrong(call, 0, "a directory"))
        }
        _ => e.wrong(call, 0, "a directory, such as directory.ad,"),
    }
}

fn member(
    e: &Evaluator<'_>,
    call: &Call<'_>,
    make: fn(crate::ids::DirectoryName, String) -> Entitlement,
) -> Eval {
    let (directory, name) = (directory(e, call), e.text(call, 1));
    let (directory, name) = (directory?, name?);
    if name.trim().is_empty() {
        return e.wrong(call, 1, "a name that is not empty");
    }
    Ok(Value::Entitlement(Rc::new(make(
        directory,
        name.to_string(),
    ))))
}

fn everyone(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    Ok(Value::Entitlement(Rc::new(Entitlement::Everyone(
        directory(e, call)?,
    ))))
}

fn file(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let at = call.arguments.first().map_or(call.at, |(_, at)| *at);
    let Some(Expression::String(path)) = call.written.first() else {
        let problem = Problem::error("V0307", at, "the path of a file must be written out");
        return e.fail(problem.help(
            "what a configuration reads must be known before it is evaluated: no variables here",
        ));
    };
    e.file(path.as_str(), call.file, at).map(Value::Text)
}

impl Evaluator<'_> {
    /// The content of the file that the text with index `file` names `path`.
    pub(crate) fn file(&self, path: &str, file: usize, at: At) -> Eval<Rc<str>> {
        let from = self.program.paths.get(file).copied().unwrap_or_default();
        let Some(key) = inputs::beside(from, path) else {
            let problem = Problem::error(
                "V0307",
                at,
                "the path of a file must be relative and stay inside the directory",
            );
            return self.fail(problem.help("no `..`, no leading `/`, no `\\`"));
        };
        match self.program.bundle.files.get(&key) {
            Some(text) if text.len() > super::TEXT_MAX => {
                let message = format!("the file `{key}` is larger than {} bytes", super::TEXT_MAX);
                self.fail(Problem::error("V0307", at, message))
            }
            Some(text) => Ok(Rc::from(text.as_str())),
            None => {
                let problem = Problem::error("V0307", at, format!("there is no file `{key}`"));
                let near =
                    problem.nearest(&key, self.program.bundle.files.keys().map(String::as_str));
                self.fail(near)
            }
        }
    }
}

fn extreme(e: &Evaluator<'_>, call: &Call<'_>, choose: fn(f64, f64) -> f64) -> Eval {
    let mut best: Option<f64> = None;
    for i in 0..call.arguments.len() {
        let (Value::Number(number), _) = &call.arguments[i] else {
            return e.wrong(call, i, "a number");
        };
        best = Some(best.map_or(*number, |best| choose(best, *number)));
    }
    best.map_or_else(
        || e.wrong(call, 0, "a number"),
        |best| Ok(Value::Number(best)),
    )
}

fn join(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let (separator, list) = (e.text(call, 0)?, e.list(call, 1)?);
    let mut out = String::new();
    for (i, value) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(&separator);
        }
        let Some(text) = value.as_text() else {
            return e.wrong(call, 1, "a list of texts");
        };
        out.push_str(&text);
        e.charge(1 + (text.len() + separator.len()) / 16, call.at)?;
        if out.len() > super::TEXT_MAX {
            break;
        }
    }
    Ok(Value::text(out))
}

fn split(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let (separator, text) = (e.text(call, 0)?, e.text(call, 1)?);
    e.charge(text.len() / 16, call.at)?;
    if separator.is_empty() {
        return Ok(Value::list(
            text.chars()
                .take(LIST_MAX + 1)
                .map(|c| Value::text(c.to_string()))
                .collect(),
        ));
    }
    Ok(Value::list(
        text.split(separator.as_ref())
            .take(LIST_MAX + 1)
            .map(Value::text)
            .collect(),
    ))
}

fn concat(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let mut out = Vec::new();
    for i in 0..call.arguments.len() {
        let list = e.list(call, i)?;
        e.charge(list.len(), call.at)?;
        out.extend(list.iter().cloned());
        if out.len() > LIST_MAX {
            break;
        }
    }
    Ok(Value::list(out))
}

fn merge(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let mut out = BTreeMap::new();
    for i in 0..call.arguments.len() {
        let map = e.map(call, i)?;
        e.charge(map.len(), call.at)?;
        out.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
        if out.len() > LIST_MAX {
            break;
        }
    }
    Ok(Value::map(out))
}

fn length(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let length = match call.arguments.first() {
        Some((Value::List(items), _)) => items.values.len(),
        Some((Value::Map(items), _)) => items.values.len(),
        Some((Value::Text(text), _)) => text.chars().count(),
        _ => return e.wrong(call, 0, "a list, a map or a text"),
    };
    // At most the longest text, far below 2^32.
    Ok(Value::Number(f64::from(
        u32::try_from(length).unwrap_or(u32::MAX),
    )))
}

fn contains(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let list = e.list(call, 0)?;
    let Some((wanted, _)) = call.arguments.get(1) else {
        return e.wrong(call, 1, "a value");
    };
    e.charge(list.len().saturating_mul(wanted.weight()), call.at)?;
    Ok(Value::Flag(list.contains(wanted)))
}

fn range(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let mut numbers = Vec::new();
    for i in 0..call.arguments.len() {
        numbers.push(e.integer(call, i)?);
    }
    let (start, end, step) = match *numbers.as_slice() {
        [end] => (0, end, if end < 0 { -1 } else { 1 }),
        [start, end] => (start, end, if end < start { -1 } else { 1 }),
        [start, end, step] => (start, end, step),
        _ => return e.wrong(call, 0, "a whole number"),
    };
    if step == 0 || (end > start) != (step > 0) && end != start {
        return e.wrong(call, 2, "a step that leads to the end");
    }
    let mut out = Vec::new();
    let mut next = start;
    while (step > 0 && next < end || step < 0 && next > end) && out.len() <= LIST_MAX {
        out.push(crate::value::number(next));
        next = next.saturating_add(step);
    }
    Ok(Value::list(out))
}

fn toset(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let list = e.list(call, 0)?;
    variable::set(list.clone())
        .map_or_else(|| e.wrong(call, 0, "a list of texts, numbers or flags"), Ok)
}
