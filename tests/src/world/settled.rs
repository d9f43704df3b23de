//! A world in which what a configuration asks for is there.

use coppice_schema::units::Span;
use coppice_schema::{Bundle, SourceText};
use coppice_state::Outcome;
use coppice_world::clock::Clock;

use super::World;
use crate::storm::commit_of;

impl World {
    /// Commits what `text` asks for, and goes on until nothing is left to do.
    ///
    /// # Panics
    /// When that is no configuration, or does not come about.
    pub fn settle_as(&mut self, text: &str) {
        self.rounds();
        let text = SourceText {
            path: "grid.hcl".to_owned(),
            text: text.to_owned(),
        };
        let bundle = Bundle {
            texts: vec![text],
            ..Bundle::default()
        };
        let desired = coppice_schema::load(&bundle).desired;
        let desired = desired.expect("a valid configuration");
        let (state, now) = (self.log.state(), self.clock.now());
        let commit = commit_of(&desired, &state, self.log.term(), now, self.log.len());
        let committed = self
            .log
            .append(commit.expect("a plan that keeps its rules"));
        assert!(matches!(committed, Outcome::Committed { .. }));
        for _ in 0..40 {
            if self.leader_round().expect("it lives").settled() {
                return;
            }
            self.rounds();
            self.pass(Span::seconds(5));
        }
        panic!("it does not settle");
    }

    /// A round of each server; those that can be reached know everything that was agreed on.
    ///
    /// # Panics
    /// When a daemon dies in it.
    pub fn rounds(&mut self) {
        for index in 0..self.machines.len() {
            if self.reaches(index) {
                self.machines[index].agreement.catch_up();
            }
            self.server_round(index).expect("it lives");
        }
    }
}
