//! `moved` blocks.

use std::collections::BTreeMap;

use hcl::edit::Span;
use hcl::edit::expr::{Expression, TraversalOperator};

use crate::desired::Moved;
use crate::diagnostic::{Problem, Report};
use crate::ids::Address;
use crate::program::Declared;
use crate::source::At;

/// A `moved` block as it was written.
pub(super) struct Written {
    from: (Address, At),
    to: (Address, At),
}

pub(super) fn written(declared: &Declared<'_>, report: &Report) -> Option<Written> {
    let side = |name| {
        // A block without it was reported as such.
        let attribute = declared.block.body.get_attribute(name)?;
        let at = At::new(declared.file, attribute.value.span());
        let found = address(&attribute.value);
        if found.is_none() {
            let problem = Problem::error(
                "V0203",
                at,
                format!("`{name}` must be the address of a block"),
            );
            report.push(problem.help("such as pool.lab or template.lab[\"a\"]"));
        }
        found.map(|address| (address, at))
    };
    let (from, to) = (side("from"), side("to"));
    Some(Written {
        from: from?,
        to: to?,
    })
}

fn address(expression: &Expression) -> Option<Address> {
    if let Expression::String(text) = expression {
        return text.parse().ok();
    }
    let Expression::Traversal(traversal) = expression else {
        return None;
    };
    let Expression::Variable(kind) = &traversal.expr else {
        return None;
    };
    let operators: Vec<&TraversalOperator> =
        traversal.operators.iter().map(|o| o.value()).collect();
    let (name, index) = match operators.as_slice() {
        [TraversalOperator::GetAttr(name)] => (name, None),
        [
            TraversalOperator::GetAttr(name),
            TraversalOperator::Index(index),
        ] => (name, Some(index)),
        _ => return None,
    };
    let key = match index {
        None => String::new(),
        Some(Expression::String(key)) => format!("-{}", key.as_str()),
        Some(Expression::Number(number)) => format!("-{}", number.value()),
        Some(_) => return None,
    };
    format!("{}.{}{key}", kind.as_str(), name.as_str())
        .parse()
        .ok()
}

pub(super) fn check(
    written: &Written,
    declared: &BTreeMap<Address, At>,
    report: &Report,
) -> Option<Moved> {
    let ((from, from_at), (to, to_at)) = (&written.from, &written.to);
    let kind = |address: &Address| address.to_string().split('.').next().map(str::to_owned);
    if kind(from) != kind(to) {
        let problem = Problem::error(
            "V0413",
            *to_at,
            format!("`{from}` cannot become `{to}`: they are of two kinds"),
        );
        report.push(problem);
        return None;
    }
    if let Some(at) = declared.get(from) {
        let problem = Problem::error("V0413", *from_at, format!("`{from}` is still declared"))
            .also(*at, "here");
        report
            .push(problem.help(
                "a block that moved has only its present name; remove `moved`, or the block",
            ));
        return None;
    }
    if !declared.contains_key(to) {
        let problem = Problem::error("V0413", *to_at, format!("there is no `{to}`"));
        let known: Vec<String> = declared.keys().map(ToString::to_string).collect();
        report.push(problem.nearest(&to.to_string(), known.iter().map(String::as_str)));
        return None;
    }
    Some(Moved {
        from: from.clone(),
        to: to.clone(),
    })
}
