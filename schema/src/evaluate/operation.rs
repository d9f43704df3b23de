//! Operators.

use hcl::edit::Span;
use hcl::edit::expr::{BinaryOp, BinaryOperator, UnaryOp, UnaryOperator};

use super::{Eval, Evaluator, Scope};
use crate::diagnostic::Problem;
use crate::source::At;
use crate::value::{Value, whole};

impl Evaluator<'_> {
    pub(super) fn unary(&self, operation: &UnaryOp, scope: Scope<'_>, at: At) -> Eval {
        let value = self.eval(&operation.expr, scope)?;
        let inner = scope.at(&operation.expr);
        match operation.operator.value() {
            UnaryOperator::Not => Ok(Value::Flag(!self.flag(&value, inner)?)),
            UnaryOperator::Neg => self.result(-self.operand(&value, inner)?, at),
        }
    }

    pub(super) fn binary(&self, operation: &BinaryOp, scope: Scope<'_>, at: At) -> Eval {
        let operator = *operation.operator.value();
        let (left_at, right_at) = (scope.at(&operation.lhs_expr), scope.at(&operation.rhs_expr));
        if matches!(operator, BinaryOperator::And | BinaryOperator::Or) {
            let left = self.eval(&operation.lhs_expr, scope)?;
            let left = self.flag(&left, left_at)?;
            if left == (operator == BinaryOperator::Or) {
                return Ok(Value::Flag(left));
            }
            let right = self.eval(&operation.rhs_expr, scope)?;
            return Ok(Value::Flag(self.flag(&right, right_at)?));
        }
        let (left, right) = (
            self.eval(&operation.lhs_expr, scope),
            self.eval(&operation.rhs_expr, scope),
        );
        let (left, right) = (left?, right?);
        if matches!(operator, BinaryOperator::Eq | BinaryOperator::NotEq) {
            self.charge(left.weight().min(right.weight()), at)?;
            return Ok(Value::Flag(
                (left == right) == (operator == BinaryOperator::Eq),
            ));
        }
        let (left, right) = (self.operand(&left, left_at), self.operand(&right, right_at));
        let (left, right) = (left?, right?);
        let exact = whole(left).is_some() && whole(right).is_some();
        match operator {
            BinaryOperator::Less => Ok(Value::Flag(left < right)),
            BinaryOperator::LessEq => Ok(Value::Flag(left <= right)),
            BinaryOperator::Greater => Ok(Value::Flag(left > right)),
            BinaryOperator::GreaterEq => Ok(Value::Flag(left >= right)),
            BinaryOperator::Div | BinaryOperator::Mod if right == 0.0 => {
                let problem = Problem::error(
                    "V0302",
                    At::new(scope.file, operation.rhs_expr.span()),
                    "division by zero",
                );
                self.fail(problem.label("this is 0"))
            }
            BinaryOperator::Div => self.result(left / right, at),
            BinaryOperator::Mod => self.result(left % right, at),
            BinaryOperator::Plus => self.exact_result(left + right, exact, at),
            BinaryOperator::Minus => self.exact_result(left - right, exact, at),
            BinaryOperator::Mul => self.exact_result(left * right, exact, at),
            // Decided above.
            BinaryOperator::And
            | BinaryOperator::Or
            | BinaryOperator::Eq
            | BinaryOperator::NotEq => Ok(Value::Null),
        }
    }

    fn operand(&self, value: &Value, at: At) -> Eval<f64> {
        if let Value::Number(number) = value {
            return Ok(*number);
        }
        let message = format!("a number is needed here, this is {}", value.describe());
        let problem = Problem::error("V0301", at, message);
        self.fail(if matches!(value, Value::Text(_)) {
            problem.help("texts are put together as \"${a}${b}\"")
        } else {
            problem
        })
    }

    /// A result of whole numbers that could not be held exactly is an error instead of another number.
    fn exact_result(&self, number: f64, exact: bool, at: At) -> Eval {
        if exact && whole(number).is_none() {
            return self.fail(Problem::error(
                "V0303",
                at,
                "the result is beyond 2^53 and cannot be held exactly",
            ));
        }
        self.result(number, at)
    }

    fn result(&self, number: f64, at: At) -> Eval {
        if !number.is_finite() {
            return self.fail(Problem::error("V0303", at, "the result is too large"));
        }
        // -0 would be written with its sign.
        Ok(Value::Number(if number == 0.0 { 0.0 } else { number }))
    }
}
