//! Text with `${ }` and `%{ }` in it.

use hcl::edit::template::{Directive, Element, HeredocTemplate, StringTemplate, Strip, Template};

use super::{Eval, Evaluator, Failed, Frame, Scope, TEXT_MAX};
use crate::diagnostic::Problem;
use crate::source::At;
use crate::value::Value;

impl Evaluator<'_> {
    /// A quoted template; one that is a single `${ }` is the value within, whatever its type.
    pub(super) fn string_template(
        &self,
        template: &StringTemplate,
        scope: Scope<'_>,
        at: At,
    ) -> Eval {
        if let Some(Element::Interpolation(inner)) = template.as_single_element() {
            return self.eval(&inner.expr, scope);
        }
        let elements: Vec<&Element> = template.iter().collect();
        let mut out = String::new();
        self.elements(&elements, scope, (false, false), &mut out, at)?;
        self.bounded(Value::text(out), at)
    }

    pub(super) fn heredoc(&self, heredoc: &HeredocTemplate, scope: Scope<'_>, at: At) -> Eval {
        let mut out = String::new();
        self.template(&heredoc.template, scope, (false, false), &mut out, at)?;
        self.bounded(Value::text(out), at)
    }

    fn template(
        &self,
        template: &Template,
        scope: Scope<'_>,
        trim: (bool, bool),
        out: &mut String,
        at: At,
    ) -> Eval<()> {
        let elements: Vec<&Element> = template.iter().collect();
        self.elements(&elements, scope, trim, out, at)
    }

    /// Adds the elements' text to `out`. `trim` says whether white space goes at the beginning and at the end.
    fn elements(
        &self,
        elements: &[&Element],
        scope: Scope<'_>,
        trim: (bool, bool),
        out: &mut String,
        at: At,
    ) -> Eval<()> {
        let mut failed = false;
        for (i, element) in elements.iter().enumerate() {
            let added = match element {
                Element::Literal(literal) => {
                    let mut text = literal.as_str();
                    let before = i.checked_sub(1).and_then(|i| elements.get(i));
                    if before.map_or(trim.0, |element| strips(element).1) {
                        text = text.trim_start();
                    }
                    if elements
                        .get(i + 1)
                        .map_or(trim.1, |element| strips(element).0)
                    {
                        text = text.trim_end();
                    }
                    self.add(text, out, at)
                }
                Element::Interpolation(inner) => {
                    let at = scope.at(&inner.expr);
                    self.eval(&inner.expr, scope)
                        .and_then(|value| match value.as_text() {
                            Some(text) => self.add(&text, out, at),
                            None => {
                                let message =
                                    format!("{} cannot be part of a text", value.describe());
                                self.fail(Problem::error("V0301", at, message))
                            }
                        })
                }
                Element::Directive(directive) => self.directive(directive, scope, out, at),
            };
            failed |= added.is_err();
        }
        if failed { Err(Failed) } else { Ok(()) }
    }

    fn add(&self, text: &str, out: &mut String, at: At) -> Eval<()> {
        self.charge(1 + text.len() / 16, at)?;
        if out.len() + text.len() > TEXT_MAX {
            return self.fail(Problem::error(
                "V0303",
                at,
                format!("a text of more than {TEXT_MAX} bytes"),
            ));
        }
        out.push_str(text);
        Ok(())
    }

    fn directive(
        &self,
        directive: &Directive,
        scope: Scope<'_>,
        out: &mut String,
        at: At,
    ) -> Eval<()> {
        match directive {
            Directive::If(directive) => {
                let intro = &directive.if_expr;
                let condition = self.eval(&intro.cond_expr, scope)?;
                let end = sides(directive.endif_expr.strip).0;
                let otherwise = directive.else_expr.as_ref();
                if self.flag(&condition, scope.at(&intro.cond_expr))? {
                    let end = otherwise.map_or(end, |otherwise| sides(otherwise.strip).0);
                    self.template(&intro.template, scope, (sides(intro.strip).1, end), out, at)
                } else if let Some(otherwise) = otherwise {
                    self.template(
                        &otherwise.template,
                        scope,
                        (sides(otherwise.strip).1, end),
                        out,
                        at,
                    )
                } else {
                    Ok(())
                }
            }
            Directive::For(directive) => {
                let intro = &directive.for_expr;
                let collection = self.eval(&intro.collection_expr, scope)?;
                let trim = (sides(intro.strip).1, sides(directive.endfor_expr.strip).0);
                for (key, value) in self.pairs(&collection, scope.at(&intro.collection_expr))? {
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
                    self.charge(1, at)?;
                    self.template(&intro.template, inner, trim, out, at)?;
                }
                Ok(())
            }
        }
    }
}

/// Whether an element takes away the white space before it, and after it.
fn strips(element: &Element) -> (bool, bool) {
    match element {
        Element::Literal(_) => (false, false),
        Element::Interpolation(inner) => sides(inner.strip),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(directive) => (
                sides(directive.if_expr.strip).0,
                sides(directive.endif_expr.strip).1,
            ),
            Directive::For(directive) => (
                sides(directive.for_expr.strip).0,
                sides(directive.endfor_expr.strip).1,
            ),
        },
    }
}

fn sides(strip: Strip) -> (bool, bool) {
    match strip {
        Strip::None => (false, false),
        Strip::Start => (true, false),
        Strip::End => (false, true),
        Strip::Both => (true, true),
    }
}
