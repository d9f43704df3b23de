//! Variables: their types, and the values that were given for them.

use std::collections::BTreeMap;

use hcl::edit::expr::Expression;
use hcl::edit::parser;
use hcl::edit::structure::Block;

use super::{Eval, Evaluator, Failed, Memo, Scope};
use crate::diagnostic::Problem;
use crate::source::At;
use crate::value::Value;

/// The type of a variable.
enum Type {
    Any,
    Text,
    Number,
    Flag,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
}

impl Type {
    fn describe(&self) -> String {
        match self {
            Self::Any => "any value".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::List(of) => format!("a list, each {}", of.describe()),
            Self::Set(of) => format!("a set, each {}", of.describe()),
            Self::Map(of) => format!("a map, each {}", of.describe()),
        }
    }
}

impl<'a> Evaluator<'a> {
    pub(super) fn variable(&self, name: &'a str, at: At) -> Eval {
        match self.variables.borrow().get(name) {
            Some(Memo::Done(value)) => return value.clone(),
            Some(Memo::Working) => return self.circle(&format!("var.{name}"), at),
            None => {}
        }
        self.variables.borrow_mut().insert(name, Memo::Working);
        let value = self.find_variable(name);
        self.variables
            .borrow_mut()
            .insert(name, Memo::Done(value.clone()));
        value
    }

    fn find_variable(&self, name: &str) -> Eval {
        let Some(declared) = self.program.variables.get(name) else {
            return Err(Failed);
        };
        let body = &declared.block.body;
        let scope = Scope {
            file: declared.file,
            frame: None,
        };
        let wanted = match body.get_attribute("type") {
            Some(attribute) => self.read_type(&attribute.value, scope)?,
            None => Type::Any,
        };
        if let Some(raw) = self.program.bundle.variables.get(name) {
            let value = self.read_raw(raw, &wanted, declared.header)?;
            return self.convert(value, &wanted, declared.header, name);
        }
        if let Some(default) = body.get_attribute("default") {
            let value = self.eval(&default.value, scope)?;
            if value == Value::Null {
                return Ok(value);
            }
            return self.convert(value, &wanted, scope.at(&default.value), name);
        }
        let problem = Problem::error(
            "V0308",
            declared.header,
            format!("the variable `{name}` has no value"),
        );
        self.fail(problem.help(format!(
            "give one with `--var {name}=...` or COPPICE_VAR_{name}, or add `default = ...`"
        )))
    }

    /// What was given from outside: a text as it is; anything else in the language itself.
    fn read_raw(&self, raw: &str, wanted: &Type, at: At) -> Eval {
        if matches!(wanted, Type::Any | Type::Text) {
            return self.bounded(Value::text(raw), at);
        }
        let shallow = raw.len() <= super::TEXT_MAX
            && raw.matches(['[', '{', '(', '"', '!', '-']).count() <= 100_000;
        let parsed = if shallow {
            parser::parse_expr(raw.trim()).ok()
        } else {
            None
        };
        match parsed {
            Some(expression) if is_literal(&expression) => self.eval(
                &expression,
                Scope {
                    file: usize::MAX,
                    frame: None,
                },
            ),
            _ => {
                let message = format!(
                    "the value given for this variable is not {}",
                    wanted.describe()
                );
                self.fail(
                    Problem::error("V0308", at, message)
                        .help("write it as in the language, such as [\"a\", \"b\"]"),
                )
            }
        }
    }

    fn read_type(&self, expression: &Expression, scope: Scope<'_>) -> Eval<Type> {
        if let Expression::Variable(word) = expression {
            match word.as_str() {
                "any" => return Ok(Type::Any),
                "string" => return Ok(Type::Text),
                "number" => return Ok(Type::Number),
                "bool" => return Ok(Type::Flag),
                "list" => return Ok(Type::List(Box::new(Type::Any))),
                "set" => return Ok(Type::Set(Box::new(Type::Any))),
                "map" => return Ok(Type::Map(Box::new(Type::Any))),
                _ => {}
            }
        }
        if let Expression::FuncCall(call) = expression
            && let (Some(of), 1) = (call.args.get(0), call.args.len())
        {
            let of = || self.read_type(of, scope).map(Box::new);
            match call.name.name.as_str() {
                "list" => return Ok(Type::List(of()?)),
                "set" => return Ok(Type::Set(of()?)),
                "map" => return Ok(Type::Map(of()?)),
                _ => {}
            }
        }
        let problem = Problem::error("V0203", scope.at(expression), "this is not a type");
        self.fail(
            problem.help("types are string, number, bool, any, list(...), set(...) and map(...)"),
        )
    }

    fn convert(&self, value: Value, wanted: &Type, at: At, name: &str) -> Eval {
        let each = |values: Vec<Value>, of: &Type| {
            values
                .into_iter()
                .map(|value| self.convert(value, of, at, name))
                .collect::<Eval<Vec<_>>>()
        };
        let converted = match (wanted, &value) {
            (Type::Any, _) => Some(value.clone()),
            (Type::Text, _) => value.as_text().map(Value::Text),
            (Type::Number, _) => value.as_number().map(Value::Number),
            (Type::Flag, Value::Flag(_)) => Some(value.clone()),
            (Type::Flag, Value::Text(text)) => match text.as_ref() {
                "true" => Some(Value::Flag(true)),
                "false" => Some(Value::Flag(false)),
                _ => None,
            },
            (Type::List(of), Value::List(items)) => {
                Some(Value::list(each(items.values.clone(), of)?))
            }
            (Type::Set(of), Value::List(items)) => set(each(items.values.clone(), of)?),
            (Type::Map(of), Value::Map(items)) => {
                let values = items.values.iter();
                let values = values
                    .map(|(key, v)| Ok((key.clone(), self.convert(v.clone(), of, at, name)?)));
                Some(Value::map(values.collect::<Eval<BTreeMap<_, _>>>()?))
            }
            (Type::Flag | Type::List(_) | Type::Set(_) | Type::Map(_), _) => None,
        };
        match converted {
            Some(converted) => self.bounded(converted, at),
            None => {
                let message = format!(
                    "the variable `{name}` needs {}, this is {}",
                    wanted.describe(),
                    value.describe()
                );
                self.fail(Problem::error("V0203", at, message))
            }
        }
    }

    /// Finds the value of every variable and checks it; says which values were given for none.
    pub(crate) fn check_variables(&self) {
        for (name, declared) in &self.program.variables {
            let value = self.variable(name, declared.header);
            for block in declared.block.body.get_blocks("validation") {
                if value.is_ok() {
                    let _said = self.validate(block, declared.file);
                }
            }
        }
        for name in self.program.bundle.variables.keys() {
            if !self.program.variables.contains_key(name.as_str())
                && !self.program.is_unread("variable", name)
            {
                let shown: String = name.chars().take(80).collect();
                let message =
                    format!("a value was given for the variable `{shown}`, which is not declared");
                let problem = Problem::warning("V0503", At::NOWHERE, message);
                let known = self.program.variables.keys().copied();
                self.report.push(problem.nearest_or(
                    name,
                    known,
                    format!("declare it: variable \"{shown}\" {{}}"),
                ));
            }
        }
    }

    fn validate(&self, block: &Block, file: usize) -> Eval<()> {
        let scope = Scope { file, frame: None };
        let Some(condition) = block.body.get_attribute("condition") else {
            return Ok(());
        };
        self.check_names(&condition.value, scope);
        let value = self.eval(&condition.value, scope)?;
        if self.flag(&value, scope.at(&condition.value))? {
            return Ok(());
        }
        let said = match block.body.get_attribute("error_message") {
            Some(attribute) => self.eval(&attribute.value, scope)?.as_text(),
            None => None,
        };
        let said: String = said
            .as_deref()
            .unwrap_or("its condition is false")
            .chars()
            .take(500)
            .collect();
        self.fail(Problem::error(
            "V0309",
            scope.at(&condition.value),
            format!("the variable is refused: {said}"),
        ))
    }
}

/// Sorted, each once: flags, numbers, texts. `None` when one is none of these.
pub(super) fn set(mut values: Vec<Value>) -> Option<Value> {
    let rank = |value: &Value| match value {
        Value::Flag(flag) => Some((0, f64::from(u8::from(*flag)), String::new())),
        Value::Number(number) => Some((1, *number, String::new())),
        Value::Text(text) => Some((2, 0.0, text.to_string())),
        Value::Null
        | Value::List(_)
        | Value::Map(_)
        | Value::Block(..)
        | Value::Secret(_)
        | Value::Entitlement(_) => None,
    };
    if values.iter().any(|value| rank(value).is_none()) {
        return None;
    }
    values.sort_by(|a, b| match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    });
    values.dedup();
    Some(Value::list(values))
}

/// Whether `expression` is only literals, lists and maps.
fn is_literal(expression: &Expression) -> bool {
    match expression {
        Expression::Null(_)
        | Expression::Bool(_)
        | Expression::Number(_)
        | Expression::String(_) => true,
        Expression::Array(array) => array.iter().all(is_literal),
        Expression::Object(object) => object.iter().all(|(_, value)| is_literal(value.expr())),
        Expression::StringTemplate(_)
        | Expression::HeredocTemplate(_)
        | Expression::Parenthesis(_)
        | Expression::Variable(_)
        | Expression::Conditional(_)
        | Expression::FuncCall(_)
        | Expression::Traversal(_)
        | Expression::UnaryOp(_)
        | Expression::BinaryOp(_)
        | Expression::ForExpr(_) => false,
    }
}
