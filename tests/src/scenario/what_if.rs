//! What would come of it: levelling the load, and losing servers.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::document::{self, Document};
use coppice_plans::plan::Base;
use coppice_plans::{check, markdown, rebalance, what_if};
use coppice_schema::ids::{Member, ServerId, ServerName};
use coppice_state::Entry;
use coppice_world::clock::Clock;

use super::hands::said;
use super::stage::{Stage, show, text_of};

impl Stage {
    pub(super) fn what_if(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["rebalance"] => self.rebalance(false),
            ["rebalance", "apply"] => self.rebalance(true),
            ["rebalance", "stop"] => Ok(self.agree_on_moves(Base::default(), BTreeMap::new())),
            ["lose", servers @ ..] => self.lose(servers, text_of),
            ["lose-markdown", servers @ ..] => self.lose(servers, markdown::render),
            _ => Err("no such command".to_owned()),
        }
    }

    /// What would move to level the load, and whether that is agreed.
    fn rebalance(&self, apply: bool) -> Result<String, String> {
        let state = self.world.log.state();
        let mut known = state.known(self.world.log.term());
        let moves = rebalance(&state.committed, &known, self.world.clock.now());
        known.ask_to_move(&moves);
        let (plan, document) = self.make(&state.committed, &known)?;
        if !apply {
            return Ok(show(&document));
        }
        Ok(self.agree_on_moves(plan.base, moves))
    }

    fn agree_on_moves(&self, base: Base, moves: BTreeMap<Member, ServerId>) -> String {
        said(&self.world.log.append(Entry::Rebalanced {
            base,
            moves,
            author: "ada".to_owned(),
        }))
    }

    /// What if those servers were lost, with the files as they are.
    fn lose(&self, servers: &[&str], render: fn(&Document) -> String) -> Result<String, String> {
        let desired = self.desired()?;
        let mut known = self.world.log.state().known(self.world.log.term());
        known.runs.clear();
        let now = self.world.clock.now();
        let servers = servers
            .iter()
            .map(|name| name.parse().map_err(|e| format!("{e}")));
        let servers: BTreeSet<ServerName> = servers.collect::<Result<_, _>>()?;
        let what_if = what_if(&desired, &known, &servers, now);
        let violations = check(&what_if.plan, &desired, &what_if.known);
        if !violations.is_empty() {
            return Err(format!("the plan breaks rules: {violations:#?}"));
        }
        let document = document::of_loss(&what_if, &desired.grid.name, now);
        Ok(render(&document).replace(&document.plan_id.short(), "PLAN"))
    }
}
