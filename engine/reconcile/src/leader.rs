//! The leader's round: what is known, a plan, its check, and what is agreed of it.

mod deadlines;
mod run;
pub mod vigil;

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_plans::plan::{Action, Plan, Reason, Step};
use coppice_plans::windows;
use coppice_schema::known::{Order, ServerState, Task};
use coppice_schema::units::Timestamp;
use coppice_schema::{Desired, Known};
use coppice_state::entry::NewOrder;
use coppice_state::{Agreement, AgreementError, Entry, Leadership, Outcome, State};

pub use self::deadlines::limit;
pub use self::run::run;

/// What a leader's round did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaderReport {
    /// The term in which this server leads; `None`: it does not, and nothing was done.
    pub term: Option<u64>,
    /// Orders given, in words.
    pub ordered: Vec<String>,
    /// Orders taken back, in words.
    pub withdrawn: Vec<String>,
    /// Servers that are what they were before they were lost, by name.
    pub restored: Vec<String>,
    /// The plan that was made.
    pub plan: Option<Box<Plan>>,
    /// What the checker found wrong with it. Then nothing of it was proposed: it is a fault of the planner.
    pub violations: Vec<String>,
    /// What did not work, in words.
    pub trouble: Vec<String>,
    /// When time alone may change something.
    pub next: Option<Timestamp>,
}

impl LeaderReport {
    /// The grid is what the committed configuration asks for, and nothing is under way.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.plan.as_deref().is_some_and(is_settled) && self.ordered.is_empty()
    }
}

/// One round at `now`, if this server leads.
///
/// It can be dropped at any point: what it had proposed is agreed or not, and the next round reads which. It writes
/// nothing to the log when nothing changes: an idle grid's log stays as long as it is.
pub async fn round(agreement: &dyn Agreement, now: Timestamp) -> LeaderReport {
    let mut report = LeaderReport::default();
    if let Err(e) = attempt(agreement, now, &mut report).await {
        report.trouble.push(e.to_string());
    }
    report
}

async fn attempt(
    agreement: &dyn Agreement,
    now: Timestamp,
    report: &mut LeaderReport,
) -> Result<(), AgreementError> {
    let Leadership::Here { term } = agreement.leadership() else {
        return Ok(());
    };
    report.term = Some(term);
    let mut state = agreement.read().await?;
    if state.grid.is_none() {
        return Ok(());
    }
    // Never before the last entry: a plan made in the past would find windows open that are closed.
    let now = now.max(state.time);
    if keep_deadlines(agreement, &state, now, report).await? {
        state = agreement.read().await?;
    }

    let known = state.known(term);
    let plan = coppice_plans::plan(&state.committed, &known, now);
    report.next = [plan.next, state.next_deadline()]
        .into_iter()
        .flatten()
        .min();
    let violations = coppice_plans::check(&plan, &state.committed, &known);
    report.violations = violations
        .iter()
        .map(|v| format!("{}: not so: {}", v.object, v.rule))
        .collect();
    if report.violations.is_empty() {
        propose(agreement, &state, &known, &plan, now, report).await?;
        restore(agreement, &state, &known, &plan, report).await?;
    }
    report.plan = Some(Box::new(plan));
    Ok(())
}

/// Servers that were lost are what they were before, once nothing is left to be put away there at once: what waits for
/// people goes when they have left.
async fn restore(
    agreement: &dyn Agreement,
    state: &State,
    known: &Known,
    plan: &Plan,
    report: &mut LeaderReport,
) -> Result<(), AgreementError> {
    let back = known.servers.iter();
    let back = back.filter(|(_, known)| known.state == ServerState::Reconciling && known.current);
    for (id, server) in back {
        let busy = state.orders.values().any(|order| order.server == *id)
            || plan
                .actions
                .iter()
                .any(|action| action.server == Some(*id) && action.waits.is_empty());
        if !busy {
            report.restored.push(server.name.to_string());
            agreement
                .propose(Entry::ServerRestored { server: *id })
                .await?;
        }
    }
    Ok(())
}

/// Takes orders back that were not done in time, and says that time has passed where that changes something.
/// Returns whether the state is another now.
async fn keep_deadlines(
    agreement: &dyn Agreement,
    state: &Arc<State>,
    now: Timestamp,
    report: &mut LeaderReport,
) -> Result<bool, AgreementError> {
    let late = state.orders.iter().filter(|(_, o)| o.deadline <= now);
    let mut changed = false;
    for (stamp, order) in late {
        let (stamp, why) = (*stamp, lateness(order));
        report.withdrawn.push(order.task.describe());
        agreement.propose(Entry::Withdrawn { stamp, why }).await?;
        changed = true;
    }
    if state.tick_is_due(now) {
        agreement.propose(Entry::Tick).await?;
        changed = true;
    }
    Ok(changed)
}

fn lateness(order: &Order) -> String {
    let late = if matches!(order.task, Task::CopyImage { .. }) {
        "it was not done in time, and goes on from there later"
    } else {
        "it was not done in time"
    };
    match &order.last_error {
        Some(error) => format!("{late}; the last try: {error}"),
        None => late.to_owned(),
    }
}

/// Agrees on what may be done now, if that changes anything.
async fn propose(
    agreement: &dyn Agreement,
    state: &State,
    known: &Known,
    plan: &Plan,
    now: Timestamp,
    report: &mut LeaderReport,
) -> Result<(), AgreementError> {
    let orders = plan.actions.iter();
    let orders: Vec<NewOrder> = orders
        .filter_map(|action| order(action, &state.committed, now))
        .collect();
    let findings = plan.remembered();
    let remembered: BTreeSet<String> = known.since.keys().cloned().collect();
    let settled = is_settled(plan) && state.orders.is_empty();
    let finishes = settled && state.runs.values().any(|run| run.finished.is_none());
    if orders.is_empty() && findings == remembered && !finishes {
        return Ok(());
    }
    let given = orders.iter().map(|o| o.task.describe()).collect();
    let entry = Entry::Planned {
        term: report.term.unwrap_or_default(),
        base: plan.base.clone(),
        orders,
        findings,
        settled,
    };
    match agreement.propose(entry).await? {
        Outcome::Done => report.ordered = given,
        // Something changed between reading and agreeing; the next round sees it.
        Outcome::Refused(refusal) => report.trouble.push(format!("plan: {refusal}")),
        Outcome::Committed { .. } | Outcome::Already { .. } => {}
    }
    Ok(())
}

/// The order for an action that waits for nothing.
fn order(action: &Action, desired: &Desired, now: Timestamp) -> Option<NewOrder> {
    let Step { task, memory } = action.step.as_ref().filter(|_| action.waits.is_empty())?;
    let deadline = now.after(limit(task));
    // Bad copies are repaired at any time; others are bound to the window in which they are begun.
    let bound = matches!(task, Task::CopyImage { .. }) && action.reason == Reason::NotPresent;
    let closes = bound.then(|| windows::images_until(desired, now)).flatten();
    Some(NewOrder {
        server: action.server?,
        task: task.clone(),
        not_before: now,
        deadline: closes.map_or(deadline, |closes| deadline.min(closes)),
        memory: memory.clone(),
    })
}

fn is_settled(plan: &Plan) -> bool {
    plan.complete && plan.is_settled()
}
