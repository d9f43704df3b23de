//! A server that the grid gave up ends its personal desktops of which there are copies, before anybody else may start them.

#![cfg(test)] // all of it, which clippy only believes when told

use coppice_schema::ids::DesktopId;
use coppice_schema::known::ServerState;
use coppice_schema::units::Span;
use coppice_tests::world::World;
use coppice_world::clock::Clock;
use coppice_world::sim::{Chance, Deed, Hand};

/// A grid with a pool of desktops that are somebody's, one on each server, and one of desktops that are nobody's.
struct Site(World);

const SECOND: usize = 1;

impl Site {
    fn of(servers: u64) -> Self {
        let mut site = Self(World::new(&mut Chance::new(3), servers, None));
        site.0.settle_as(&format!(
            "image \"debian\" {{\n version = \"1\"\n os = \"linux\"\n}}\n\
             template \"desk\" {{\n image = image.debian\n memory = \"96MiB\"\n}}\n\
             pool \"own\" {{\n template = template.desk\n desktops = {servers}\n assignment = \"personal\"\n copies = 1\n}}\n\
             pool \"lab\" {{\n template = template.desk\n desktops = {servers}\n}}\n"
        ));
        site
    }

    /// A second in which everybody does their part.
    fn second(&mut self) {
        self.0.pass(Span::seconds(1));
        self.0.rounds();
        self.0.leader_round();
    }

    /// Which desktops run on that server.
    fn running(&self, index: usize) -> Vec<String> {
        let domains = self.0.machines[index].sim.domains();
        let running = domains.into_iter().filter(|domain| domain.runs());
        running.map(|domain| domain.name).collect()
    }

    /// Whether the desktop of that pool on that server runs.
    fn runs(&self, index: usize, pool: &str) -> bool {
        self.running(index)
            .iter()
            .any(|name| name.starts_with(pool))
    }

    fn server(&self, index: usize) -> coppice_state::state::Server {
        let state = self.0.log.state();
        let id = self.0.machines[index].id(&self.0.log).expect("a member");
        state.servers[&id].clone()
    }

    fn starts(&self, index: usize) -> usize {
        let journal = self.0.machines[index].sim.journal();
        let starts = journal.iter().filter(|change| {
            let Deed::Started { mark, .. } = &change.deed else {
                return false;
            };
            let mark = mark.as_ref();
            mark.is_some_and(|mark| mark.member.desktop.pool.to_string() == "own")
        });
        starts.count()
    }
}

#[test]
fn a_server_that_is_cut_off_ends_them_before_anybody_counts_on_it() {
    let mut site = Site::of(3);
    assert_eq!(site.server(SECOND).lease, Some(Span::seconds(30)));
    let starts = site.starts(SECOND);
    site.0.part(SECOND, false);
    let alone = site.0.clock.now();
    site.0.machines[SECOND].agreement.set_alone(Some(alone));
    let mut ended = None;
    for second in 0..60 {
        site.second();
        let (runs, server) = (site.runs(SECOND, "own"), site.server(SECOND));
        assert!(!server.fenced || !runs, "after {second} s it still runs");
        if !runs {
            ended.get_or_insert(second);
        }
    }
    let server = site.server(SECOND);
    assert!(server.fenced && server.state == ServerState::Lost);
    // Renewed every five seconds.
    assert!(
        ended.is_some_and(|second| (24..31).contains(&second)),
        "{ended:?}"
    );
    assert!(site.runs(SECOND, "lab"), "others run on");
    assert_eq!(
        site.starts(SECOND),
        starts,
        "nothing is started again meanwhile"
    );
    let journal = site.0.machines[SECOND].sim.journal();
    let by_watchdog = journal.iter().filter(|change| change.by == Hand::Watchdog);
    assert_eq!(by_watchdog.count(), 1);
    // It is back, and what is there is started again under the watchdog.
    site.0.machines[SECOND].agreement.set_alone(None);
    site.0.join(SECOND);
    for _ in 0..30 {
        site.second();
    }
    assert!(site.runs(SECOND, "own"));
    assert!(!site.server(SECOND).fenced);
    let look = site.server(SECOND).look.expect("it looked");
    let own: DesktopId = "own-002".parse().expect("a name");
    let (_, seen) = look
        .members
        .iter()
        .find(|(member, _)| member.desktop == own)
        .expect("it is there");
    assert!(seen.domain.as_ref().is_some_and(|domain| domain.guarded));
}

#[test]
fn one_that_is_back_in_time_loses_nothing() {
    let mut site = Site::of(3);
    site.0.part(SECOND, false);
    for _ in 0..20 {
        site.second();
    }
    assert_eq!(site.server(SECOND).state, ServerState::Lost);
    site.0.join(SECOND);
    for _ in 0..60 {
        site.second();
        assert!(site.runs(SECOND, "own"));
    }
    assert_eq!(site.server(SECOND).state, ServerState::Ready);
}

#[test]
fn whoever_does_not_go_on_without_a_server_ends_nothing_there() {
    let mut site = Site::of(2);
    assert_eq!(site.server(SECOND).lease, None);
    site.0.part(SECOND, false);
    for _ in 0..120 {
        site.second();
        assert!(site.runs(SECOND, "own"));
    }
    assert!(!site.server(SECOND).fenced);
}

#[test]
fn what_is_started_by_hand_after_its_moment_ends_again() {
    let mut site = Site::of(3);
    site.0.part(SECOND, false);
    for _ in 0..60 {
        site.second();
    }
    let sim = &site.0.machines[SECOND].sim;
    let domains = sim.domains();
    let own = domains.iter().find(|domain| domain.name.starts_with("own"));
    let own = own.expect("it is there").uuid;
    sim.start_by_hand(own).expect("it starts");
    assert!(!site.runs(SECOND, "own"));
}

#[test]
fn a_machine_that_lost_its_power_starts_them_only_under_the_watchdog() {
    let mut site = Site::of(3);
    site.0.part(SECOND, true);
    for _ in 0..60 {
        site.second();
    }
    assert!(site.server(SECOND).fenced);
    site.0.join(SECOND);
    // Its watchdog does not come back with it.
    let broken = coppice_world::watchdog::WatchdogError::Away("killed".to_owned());
    let sim = std::sync::Arc::clone(&site.0.machines[SECOND].sim);
    sim.break_watchdog(Some(broken));
    for _ in 0..10 {
        site.second();
        let server = site.server(SECOND);
        assert!(server.lease.is_none() || !site.runs(SECOND, "own"));
    }
    assert_eq!(
        site.server(SECOND).lease,
        None,
        "nobody is to count with it"
    );
    sim.break_watchdog(None);
    for _ in 0..30 {
        site.second();
    }
    assert!(site.runs(SECOND, "own"));
    assert_eq!(site.server(SECOND).lease, Some(Span::seconds(30)));
}
