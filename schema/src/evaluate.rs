//! Expressions to values: total, deterministic, and bounded by a count of steps instead of a clock.
//!
//! The parser's own evaluator panics on `1 % 0`, evaluates both sides of `&&`, and copies whole variables at each
//! reference; this one does none of that. Problems go to the report at once; what failed is `Failed`, said once.

pub(crate) mod functions;
mod instances;
mod names;
mod operation;
mod template;
mod variable;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use hcl::edit::Span;
use hcl::edit::expr::{Expression, ForExpr, ObjectKey, Traversal, TraversalOperator};

use crate::diagnostic::{Problem, Report};
use crate::ids::SecretName;
use crate::program::Program;
use crate::source::At;
use crate::value::{Value, whole};

pub(crate) use instances::Instances;
pub(crate) use names::Named;

/// Steps that one load may take: a fraction of a second where optimized. Ten thousand pools need half of them.
const STEPS_MAX: u64 = 2_000_000;
/// Most elements of one list or map.
pub(crate) const LIST_MAX: usize = 10_000;
/// Most values that a value is made of in all.
const WEIGHT_MAX: usize = 100_000;
/// Longest text, in bytes.
pub(crate) const TEXT_MAX: usize = 1 << 20;
/// Deepest evaluation, through locals and variables too.
const DEPTH_MAX: u32 = 200;

/// It failed, and why was reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed;

pub(crate) type Eval<T = Value> = Result<T, Failed>;

/// What is remembered of something that is evaluated once.
enum Memo<T> {
    Working,
    Done(Eval<T>),
}

/// Names that an expression sees beside those of the configuration: the innermost first.
pub(crate) struct Frame<'s> {
    pub(crate) names: Vec<(&'s str, Value)>,
    pub(crate) parent: Option<&'s Frame<'s>>,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    pub(crate) file: usize,
    pub(crate) frame: Option<&'s Frame<'s>>,
}

impl Scope<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        let mut frame = self.frame;
        while let Some(here) = frame {
            if let Some((_, value)) = here.names.iter().find(|(known, _)| *known == name) {
                return Some(value);
            }
            frame = here.parent;
        }
        None
    }

    fn at(&self, expression: &impl Span) -> At {
        At::new(self.file, expression.span())
    }
}

/// Evaluates the expressions of one configuration.
pub(crate) struct Evaluator<'a> {
    pub(crate) program: &'a Program<'a>,
    pub(crate) report: &'a Report,
    steps: Cell<u64>,
    exhausted: Cell<bool>,
    depth: Cell<u32>,
    locals: RefCell<BTreeMap<&'a str, Memo<Value>>>,
    variables: RefCell<BTreeMap<&'a str, Memo<Value>>>,
    /// By index of the block.
    instances: RefCell<Vec<Option<Memo<Instances>>>>,
    /// Where each secret is named.
    pub(crate) secrets: RefCell<BTreeMap<SecretName, BTreeSet<At>>>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(program: &'a Program<'a>, report: &'a Report) -> Self {
        Self {
            program,
            report,
            steps: Cell::new(0),
            exhausted: Cell::new(false),
            depth: Cell::new(0),
            locals: RefCell::default(),
            variables: RefCell::default(),
            instances: RefCell::new(program.blocks.iter().map(|_| None).collect()),
            secrets: RefCell::default(),
        }
    }

    pub(crate) fn fail<T>(&self, problem: Problem) -> Eval<T> {
        self.report.push(problem);
        Err(Failed)
    }

    /// Whether the steps are used up, so that nothing is worth beginning.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Uses up `steps`; fails when there are none left.
    pub(crate) fn charge(&self, steps: usize, at: At) -> Eval<()> {
        let used = self
            .steps
            .get()
            .saturating_add(u64::try_from(steps).unwrap_or(u64::MAX));
        self.steps.set(used);
        if used <= STEPS_MAX {
            return Ok(());
        }
        if !self.exhausted.replace(true) {
            let problem = Problem::error(
                "V0303",
                at,
                "the configuration takes too many steps to evaluate",
            );
            return self.fail(
                problem
                    .label("here the limit was reached")
                    .help("smaller lists, and fewer nested `for`"),
            );
        }
        Err(Failed)
    }

    /// Checks the size of a value that was just made.
    pub(crate) fn bounded(&self, value: Value, at: At) -> Eval {
        let length = match &value {
            Value::List(items) => items.values.len(),
            Value::Map(items) => items.values.len(),
            Value::Text(text) => {
                self.charge(text.len() / 16, at)?;
                if text.len() > TEXT_MAX {
                    return self.fail(Problem::error(
                        "V0303",
                        at,
                        format!("a text of more than {TEXT_MAX} bytes"),
                    ));
                }
                0
            }
            Value::Null
            | Value::Flag(_)
            | Value::Number(_)
            | Value::Block(..)
            | Value::Secret(_)
            | Value::Entitlement(_) => 0,
        };
        self.charge(length, at)?;
        if length > LIST_MAX {
            return self.fail(Problem::error(
                "V0303",
                at,
                format!("more than {LIST_MAX} elements"),
            ));
        }
        if value.weight() > WEIGHT_MAX {
            let message = format!("a value of more than {WEIGHT_MAX} values in all");
            return self.fail(Problem::error("V0303", at, message));
        }
        Ok(value)
    }

    /// The value of `expression`.
    pub(crate) fn eval(&self, expression: &Expression, scope: Scope<'_>) -> Eval {
        let at = scope.at(expression);
        self.charge(1, at)?;
        if self.depth.get() >= DEPTH_MAX {
            return self.fail(Problem::error(
                "V0303",
                at,
                "expressions refer to each other too deeply",
            ));
        }
        self.depth.set(self.depth.get() + 1);
        let value = self.eval_inner(expression, scope, at);
        self.depth.set(self.depth.get() - 1);
        value
    }

    fn eval_inner(&self, expression: &Expression, scope: Scope<'_>, at: At) -> Eval {
        match expression {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(flag) => Ok(Value::Flag(*flag.value())),
            Expression::Number(number) => self.number(number.value(), at),
            Expression::String(text) => self.bounded(Value::text(text.as_str()), at),
            Expression::StringTemplate(template) => self.string_template(template, scope, at),
            Expression::HeredocTemplate(heredoc) => self.heredoc(heredoc, scope, at),
            Expression::Array(array) => self.array(array, scope, at),
            Expression::Object(object) => self.object(object, scope, at),
            Expression::Parenthesis(inner) => self.eval(inner.inner(), scope),
            Expression::Variable(_) => self.named(expression, &[], scope, at),
            Expression::Traversal(traversal) => self.traversal(traversal, scope, at),
            Expression::Conditional(conditional) => {
                let condition = self.eval(&conditional.cond_expr, scope)?;
                let chosen = match self.flag(&condition, scope.at(&conditional.cond_expr))? {
                    true => &conditional.true_expr,
                    false => &conditional.false_expr,
                };
                self.eval(chosen, scope)
            }
            Expression::FuncCall(call) => self.call(call, scope, at),
            Expression::UnaryOp(operation) => self.unary(operation, scope, at),
            Expression::BinaryOp(operation) => self.binary(operation, scope, at),
            Expression::ForExpr(for_expr) => self.for_expr(for_expr, scope, at),
        }
    }

    fn number(&self, number: &hcl::Number, at: At) -> Eval {
        match number.as_f64() {
            Some(value) if number.is_f64() || whole(value).is_some() => Ok(Value::Number(value)),
            _ => self.fail(Problem::error(
                "V0303",
                at,
                "a whole number beyond 2^53 cannot be held exactly",
            )),
        }
    }

    fn array(&self, array: &hcl::edit::expr::Array, scope: Scope<'_>, at: At) -> Eval {
        // All elements are looked at, so that everything wrong is said at once.
        let values: Vec<Eval> = array
            .iter()
            .map(|element| self.eval(element, scope))
            .collect();
        let values = values.into_iter().collect::<Eval<Vec<_>>>()?;
        self.bounded(Value::list(values), at)
    }

    fn object(&self, object: &hcl::edit::expr::Object, scope: Scope<'_>, at: At) -> Eval {
        let mut values = BTreeMap::new();
        let mut failed = false;
        for (key, value) in object {
            let name = match key {
                ObjectKey::Ident(ident) => Ok(ident.as_str().to_owned()),
                ObjectKey::Expression(expression) => self
                    .eval(expression, scope)
                    .and_then(|value| self.key(&value, scope.at(expression))),
            };
            match (name, self.eval(value.expr(), scope)) {
                (Ok(name), Ok(value)) => {
                    values.insert(name, value);
                }
                (Err(_), _) | (_, Err(_)) => failed = true,
            }
        }
        if failed {
            Err(Failed)
        } else {
            self.bounded(Value::map(values), at)
        }
    }

    fn key(&self, value: &Value, at: At) -> Eval<String> {
        match value.as_text() {
            Some(text) => Ok(text.to_string()),
            None => {
                let message = format!("a key must be a text, this is {}", value.describe());
                self.fail(Problem::error("V0301", at, message))
            }
        }
    }

    pub(crate) fn flag(&self, value: &Value, at: At) -> Eval<bool> {
        match value {
            Value::Flag(flag) => Ok(*flag),
            Value::Null
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Block(..)
            | Value::Secret(_)
            | Value::Entitlement(_) => {
                let message = format!("a flag is needed here, this is {}", value.describe());
                self.fail(
                    Problem::error("V0301", at, message).help("compare it, such as `x == \"a\"`"),
                )
            }
        }
    }

    /// The pairs that a `for` goes through: keys or indices, and values.
    pub(crate) fn pairs(&self, value: &Value, at: At) -> Eval<Vec<(Value, Value)>> {
        match value {
            Value::List(items) => {
                let numbered = (0u32..).map(|i| Value::Number(f64::from(i)));
                Ok(numbered.zip(items.values.iter().cloned()).collect())
            }
            Value::Map(items) => Ok(items
                .values
                .iter()
                .map(|(key, v)| (Value::text(key), v.clone()))
                .collect()),
            Value::Null
            | Value::Flag(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::Block(..)
            | Value::Secret(_)
            | Value::Entitlement(_) => {
                let message = format!(
                    "`for` goes through a list or a map, this is {}",
                    value.describe()
                );
                self.fail(Problem::error("V0301", at, message))
            }
        }
    }

    fn for_expr(&self, for_expr: &ForExpr, scope: Scope<'_>, at: At) -> Eval {
        let intro = &for_expr.intro;
        let collection = self.eval(&intro.collection_expr, scope)?;
        let pairs = self.pairs(&collection, scope.at(&intro.collection_expr))?;
        let (mut list, mut map): (Vec<Value>, BTreeMap<String, Vec<Value>>) = Default::default();
        for (key, value) in pairs {
            let mut names = vec![(intro.value_var.as_str(), value)];
            if let Some(key_var) = &intro.key_var {
                names.push((key_var.as_str(), key));
            }
            let frame = Frame {
                names,
                parent: scope.frame,
            };
            let inner = Scope {
                file: scope.file,
                frame: Some(&frame),
            };
            if let Some(condition) = &for_expr.cond {
                let value = self.eval(&condition.expr, inner)?;
                if !self.flag(&value, inner.at(&condition.expr))? {
                    continue;
                }
            }
            let value = self.eval(&for_expr.value_expr, inner)?;
            match &for_expr.key_expr {
                None => list.push(value),
                Some(expression) => {
                    let key = self.eval(expression, inner)?;
                    let key = self.key(&key, inner.at(expression))?;
                    let values = map.entry(key.clone()).or_default();
                    if !for_expr.grouping && !values.is_empty() {
                        let message = format!("the key {key:?} comes up twice");
                        let problem = Problem::error("V0301", inner.at(expression), message);
                        return self
                            .fail(problem.help(
                                "write `...` after the value to collect the values of a key",
                            ));
                    }
                    values.push(value);
                }
            }
        }
        if for_expr.key_expr.is_none() {
            return self.bounded(Value::list(list), at);
        }
        let grouped = map.into_iter().map(|(key, mut values)| {
            let single = if for_expr.grouping {
                None
            } else {
                values.pop()
            };
            (key, single.unwrap_or_else(|| Value::list(values)))
        });
        self.bounded(Value::map(grouped.collect()), at)
    }

    fn traversal(&self, traversal: &Traversal, scope: Scope<'_>, at: At) -> Eval {
        let operators: Vec<&TraversalOperator> =
            traversal.operators.iter().map(|o| o.value()).collect();
        self.named(&traversal.expr, &operators, scope, at)
    }

    /// The value that `root` names, followed through `operators`.
    fn named(
        &self,
        root: &Expression,
        operators: &[&TraversalOperator],
        scope: Scope<'_>,
        at: At,
    ) -> Eval {
        let Expression::Variable(variable) = root else {
            let value = self.eval(root, scope)?;
            return self.follow(value, operators, scope, at);
        };
        let (value, used) = match self.lookup(variable, operators, scope)? {
            Named::Bound => match scope.get(variable.as_str()) {
                Some(value) => (value.clone(), 0),
                None => return Err(Failed),
            },
            Named::Local(name) => (self.local(name, at)?, 1),
            Named::Variable(name) => (self.variable(name, at)?, 1),
            Named::Block(index) => (self.block(index, at)?, 1),
            Named::Unread => return Err(Failed),
        };
        self.follow(value, operators.get(used..).unwrap_or_default(), scope, at)
    }

    fn local(&self, name: &'a str, at: At) -> Eval {
        match self.locals.borrow().get(name) {
            Some(Memo::Done(value)) => return value.clone(),
            Some(Memo::Working) => return self.circle(&format!("local.{name}"), at),
            None => {}
        }
        let Some((file, expression, _)) = self.program.locals.get(name) else {
            return Err(Failed);
        };
        self.locals.borrow_mut().insert(name, Memo::Working);
        let value = self.eval(
            expression,
            Scope {
                file: *file,
                frame: None,
            },
        );
        self.locals
            .borrow_mut()
            .insert(name, Memo::Done(value.clone()));
        value
    }

    fn circle<T>(&self, name: &str, at: At) -> Eval<T> {
        let problem = Problem::error("V0304", at, format!("`{name}` depends on itself"));
        self.fail(problem.help("let one of the expressions stand on its own"))
    }

    /// Evaluates all locals, so that an error in one that nothing uses is found too.
    pub(crate) fn check_locals(&self) {
        for (name, (file, expression, at)) in &self.program.locals {
            self.check_names(
                expression,
                Scope {
                    file: *file,
                    frame: None,
                },
            );
            let _said = self.local(name, *at);
        }
    }

    /// Goes on from `value` through `operators`.
    fn follow(
        &self,
        value: Value,
        operators: &[&TraversalOperator],
        scope: Scope<'_>,
        at: At,
    ) -> Eval {
        let mut value = value;
        for (i, operator) in operators.iter().enumerate() {
            self.charge(1, at)?;
            value = match operator {
                TraversalOperator::GetAttr(name) => {
                    self.member(&value, name.as_str(), scope.at(name))?
                }
                TraversalOperator::LegacyIndex(index) => {
                    let number = f64::from(u32::try_from(*index.value()).unwrap_or(u32::MAX));
                    self.element(&value, &Value::Number(number), scope.at(index))?
                }
                TraversalOperator::Index(expression) => {
                    let index = self.eval(expression, scope)?;
                    self.element(&value, &index, scope.at(expression))?
                }
                TraversalOperator::AttrSplat(_) => {
                    let rest = &operators[i + 1..];
                    let own = rest
                        .iter()
                        .take_while(|o| matches!(o, TraversalOperator::GetAttr(_)))
                        .count();
                    let spread = self.splat(&value, &rest[..own], scope, at)?;
                    return self.follow(spread, &rest[own..], scope, at);
                }
                TraversalOperator::FullSplat(_) => {
                    return self.splat(&value, &operators[i + 1..], scope, at);
                }
            };
        }
        Ok(value)
    }

    fn splat(
        &self,
        value: &Value,
        operators: &[&TraversalOperator],
        scope: Scope<'_>,
        at: At,
    ) -> Eval {
        let single = [value.clone()];
        let elements = match value {
            Value::List(items) => items.values.as_slice(),
            Value::Null => &[],
            Value::Flag(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::Map(_)
            | Value::Block(..)
            | Value::Secret(_)
            | Value::Entitlement(_) => &single,
        };
        self.charge(elements.len(), at)?;
        if self.depth.get() >= DEPTH_MAX {
            return self.fail(Problem::error("V0303", at, "splats are nested too deeply"));
        }
        self.depth.set(self.depth.get() + 1);
        let values = elements
            .iter()
            .map(|element| self.follow(element.clone(), operators, scope, at));
        let values = values.collect::<Eval<Vec<_>>>();
        self.depth.set(self.depth.get() - 1);
        self.bounded(Value::list(values?), at)
    }

    fn member(&self, value: &Value, name: &str, at: At) -> Eval {
        if let Value::Map(items) = value {
            if let Some(found) = items.values.get(name) {
                return Ok(found.clone());
            }
            let problem = Problem::error("V0305", at, format!("there is no `{name}` in this map"));
            return self.fail(problem.nearest(name, items.values.keys().map(String::as_str)));
        }
        let problem = Problem::error(
            "V0305",
            at,
            format!("{} has no attributes", value.describe()),
        );
        self.fail(match value {
            Value::Block(..) => problem.help(
                "a block is referred to as a whole; name its value in `locals` to use it twice",
            ),
            Value::Null
            | Value::Flag(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Secret(_)
            | Value::Entitlement(_) => problem,
        })
    }

    fn element(&self, value: &Value, index: &Value, at: At) -> Eval {
        match (value, index) {
            (Value::List(items), Value::Number(number)) => {
                let place = whole(*number).and_then(|i| usize::try_from(i).ok());
                match place.and_then(|i| items.values.get(i)) {
                    Some(found) => Ok(found.clone()),
                    None => {
                        let length = items.values.len();
                        let message =
                            format!("the list has {length} elements, and none at {number}");
                        self.fail(Problem::error("V0305", at, message).help("the first is at 0"))
                    }
                }
            }
            (Value::Map(_), Value::Text(name)) => self.member(value, name, at),
            (_, _) => {
                let message = format!(
                    "{} has no element by {}",
                    value.describe(),
                    index.describe()
                );
                self.fail(Problem::error("V0305", at, message))
            }
        }
    }
}
