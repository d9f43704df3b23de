//! What names mean, checked where they stand, even in branches that are never evaluated.

use hcl::edit::expr::{Expression, ObjectKey, TraversalOperator};
use hcl::edit::template::{Directive, Element, Template};
use hcl::edit::{Decorated, Ident, Span};

use super::functions::FUNCTIONS;
use super::{Eval, Evaluator, Frame, Scope};
use crate::diagnostic::Problem;
use crate::source::At;
use crate::value::Value;

/// Kinds of block that expressions refer to.
pub(crate) const KINDS: &[&str] = &[
    "template",
    "image",
    "policy",
    "window",
    "directory",
    "network",
    "location",
    "pool",
];

/// What a name turned out to be.
pub(crate) enum Named<'a> {
    /// Bound by `for`, `for_each` or `count`.
    Bound,
    Local(&'a str),
    Variable(&'a str),
    /// A block, by its index.
    Block(usize),
    /// It may stand in text that could not be read.
    Unread,
}

impl<'a> Evaluator<'a> {
    /// What `root` with its first operator names; reports when it is nothing.
    pub(super) fn lookup(
        &self,
        root: &Decorated<Ident>,
        operators: &[&TraversalOperator],
        scope: Scope<'_>,
    ) -> Eval<Named<'a>> {
        let word = root.as_str();
        let at = At::new(scope.file, root.span());
        if scope.get(word).is_some() {
            return Ok(Named::Bound);
        }
        let known = ["var", "local"].into_iter().chain(KINDS.iter().copied());
        let Some(kind) = known.clone().find(|kind| *kind == word) else {
            return self.fail(self.unknown_root(word, at, known));
        };
        let first = operators.first().and_then(|operator| match operator {
            TraversalOperator::GetAttr(name) => Some(name),
            TraversalOperator::AttrSplat(_)
            | TraversalOperator::FullSplat(_)
            | TraversalOperator::Index(_)
            | TraversalOperator::LegacyIndex(_) => None,
        });
        let Some(name) = first else {
            let problem = Problem::error("V0206", at, format!("`{word}` alone is no value"));
            return self.fail(problem.help(format!("write `{word}.name`")));
        };
        let at = At {
            end: scope.at(name).end,
            ..at
        };
        let name = name.as_str();
        let program = self.program;
        match kind {
            "var" => match program.variables.get_key_value(name) {
                Some((key, _)) => Ok(Named::Variable(key)),
                None if program.is_unread("variable", name) => Ok(Named::Unread),
                None => {
                    let problem =
                        Problem::error("V0206", at, format!("there is no variable `{name}`"));
                    let known: Vec<String> = program
                        .variables
                        .keys()
                        .map(|key| format!("var.{key}"))
                        .collect();
                    let help = format!("declare it: variable \"{name}\" {{}}");
                    let wanted = format!("var.{name}");
                    self.fail(problem.nearest_or(&wanted, known.iter().map(String::as_str), help))
                }
            },
            "local" => match program.locals.get_key_value(name) {
                Some((key, _)) => Ok(Named::Local(key)),
                None if program.is_unread("locals", name) => Ok(Named::Unread),
                None => {
                    let problem =
                        Problem::error("V0206", at, format!("there is no local `{name}`"));
                    let known: Vec<String> = program
                        .locals
                        .keys()
                        .map(|key| format!("local.{key}"))
                        .collect();
                    let wanted = format!("local.{name}");
                    self.fail(problem.nearest(&wanted, known.iter().map(String::as_str)))
                }
            },
            kind => match program.find(kind, name) {
                Some((index, _)) => Ok(Named::Block(index)),
                None if program.is_unread(kind, name) => Ok(Named::Unread),
                None => {
                    let problem =
                        Problem::error("V0206", at, format!("there is no `{kind} \"{name}\"`"));
                    let known: Vec<String> = program
                        .names(kind)
                        .map(|name| format!("{kind}.{name}"))
                        .collect();
                    let wanted = format!("{kind}.{name}");
                    self.fail(problem.nearest(&wanted, known.iter().map(String::as_str)))
                }
            },
        }
    }

    fn unknown_root<'k>(
        &self,
        word: &str,
        at: At,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> Problem {
        let problem = Problem::error("V0206", at, format!("nothing is called `{word}`"));
        match word {
            "each" => problem.help("`each` is known only in a block with `for_each`"),
            "count" => problem.help("`count` is known only in a block with `count`"),
            "on" | "yes" => problem.help("a flag is written `true`").instead("true"),
            "off" | "no" => problem.help("a flag is written `false`").instead("false"),
            _ => problem.nearest_or(
                word,
                known,
                format!("a text is written in quotes: \"{word}\""),
            ),
        }
    }

    /// Checks every name in `expression`.
    pub(crate) fn check_names(&self, expression: &Expression, scope: Scope<'_>) {
        if self.charge(1, scope.at(expression)).is_err() {
            return;
        }
        let check = |inner: &Expression| self.check_names(inner, scope);
        match expression {
            Expression::Null(_)
            | Expression::Bool(_)
            | Expression::Number(_)
            | Expression::String(_) => {}
            Expression::Variable(variable) => {
                let _said = self.lookup(variable, &[], scope);
            }
            Expression::Traversal(traversal) => {
                let operators: Vec<&TraversalOperator> =
                    traversal.operators.iter().map(|o| o.value()).collect();
                if let Expression::Variable(variable) = &traversal.expr {
                    let _said = self.lookup(variable, &operators, scope);
                } else {
                    check(&traversal.expr);
                }
                for operator in operators {
                    if let TraversalOperator::Index(index) = operator {
                        check(index);
                    }
                }
            }
            Expression::Array(array) => array.iter().for_each(check),
            Expression::Object(object) => {
                for (key, value) in object {
                    if let ObjectKey::Expression(key) = key {
                        check(key);
                    }
                    check(value.expr());
                }
            }
            Expression::StringTemplate(template) => self.check_elements(template.iter(), scope),
            Expression::HeredocTemplate(heredoc) => {
                self.check_elements(heredoc.template.iter(), scope)
            }
            Expression::Parenthesis(inner) => check(inner.inner()),
            Expression::Conditional(conditional) => {
                [
                    &conditional.cond_expr,
                    &conditional.true_expr,
                    &conditional.false_expr,
                ]
                .into_iter()
                .for_each(check);
            }
            Expression::FuncCall(call) => {
                let name = call.name.name.as_str();
                if call.name.is_namespaced()
                    || !FUNCTIONS.iter().any(|function| function.name == name)
                {
                    self.report.push(self.unknown_function(call, scope));
                }
                call.args.iter().for_each(check);
            }
            Expression::UnaryOp(operation) => check(&operation.expr),
            Expression::BinaryOp(operation) => [&operation.lhs_expr, &operation.rhs_expr]
                .into_iter()
                .for_each(check),
            Expression::ForExpr(for_expr) => {
                let intro = &for_expr.intro;
                check(&intro.collection_expr);
                self.within(intro.key_var.as_ref(), &intro.value_var, scope, |inner| {
                    let parts = [for_expr.key_expr.as_ref(), Some(&for_expr.value_expr)];
                    let condition = for_expr.cond.as_ref().map(|condition| &condition.expr);
                    for part in parts.into_iter().chain([condition]).flatten() {
                        self.check_names(part, inner);
                    }
                });
            }
        }
    }

    fn within(
        &self,
        key: Option<&Decorated<Ident>>,
        value: &Decorated<Ident>,
        scope: Scope<'_>,
        check: impl FnOnce(Scope<'_>),
    ) {
        let names = key
            .into_iter()
            .chain([value])
            .map(|name| (name.as_str(), Value::Null))
            .collect();
        let frame = Frame {
            names,
            parent: scope.frame,
        };
        check(Scope {
            file: scope.file,
            frame: Some(&frame),
        });
    }

    fn check_elements<'e>(&self, elements: impl Iterator<Item = &'e Element>, scope: Scope<'_>) {
        for element in elements {
            match element {
                Element::Literal(_) => {}
                Element::Interpolation(inner) => self.check_names(&inner.expr, scope),
                Element::Directive(directive) => match directive.as_ref() {
                    Directive::If(directive) => {
                        self.check_names(&directive.if_expr.cond_expr, scope);
                        self.check_template(&directive.if_expr.template, scope);
                        if let Some(otherwise) = &directive.else_expr {
                            self.check_template(&otherwise.template, scope);
                        }
                    }
                    Directive::For(directive) => {
                        let intro = &directive.for_expr;
                        self.check_names(&intro.collection_expr, scope);
                        self.within(intro.key_var.as_ref(), &intro.value_var, scope, |inner| {
                            self.check_template(&intro.template, inner);
                        });
                    }
                },
            }
        }
    }

    fn check_template(&self, template: &Template, scope: Scope<'_>) {
        self.check_elements(template.iter(), scope);
    }
}
