//! Servers are killed or stand still, and what is left goes on.

use std::time::Instant;

use rustix::process::Signal;

use crate::apart::{GRID, apart};
use crate::site::Site;
use crate::writes::Writes;

#[test]
fn when_whoever_leads_is_killed_the_grid_answers_again_at_its_address() {
    apart(3, |site| {
        let mut servers = site.grid(3);
        site.gives_address();
        let mut killed = 0;
        let writes = Writes::during(site, GRID, |writes| {
            killed = site.leader(1);
            let began = Instant::now();
            servers.remove(place(killed)).kill();
            writes.acknowledged_from(began);
            writes.go_on(10);
        });
        servers.insert(place(killed), site.serve(killed));
        writes.are_known(3);
        assert_ne!(site.leader(killed), killed);
    });
}

#[test]
fn whoever_leads_and_stands_still_leads_no_more_when_it_goes_on() {
    apart(3, |site| {
        let servers = site.grid(3);
        site.gives_address();
        let former = site.leader(1);
        let writes = Writes::during(site, GRID, |writes| {
            // Also somebody who asks the one that stands still, and goes on asking.
            let of_former = Writes::during(site, &site.host(former), |of_former| {
                let began = Instant::now();
                servers[place(former)].signal(Signal::STOP);
                writes.acknowledged_from(began);
                servers[place(former)].signal(Signal::CONT);
                let went_on = Instant::now();
                site.until("another leads, by what the former one says", || {
                    let leader = site.leader(former);
                    let other = leader != former;
                    other.then_some(()).ok_or_else(|| leader.to_string())
                });
                of_former.acknowledged_from(went_on);
            });
            of_former.are_known(3);
        });
        writes.are_known(3);
    });
}

#[test]
fn what_was_acknowledged_is_there_after_all_were_killed_at_once() {
    apart(3, |site| {
        let servers = site.grid(3);
        site.gives_address();
        let writes = Writes::during(site, GRID, |writes| {
            writes.go_on(10);
            // As good as at once: nothing is answered between.
            for server in &servers {
                server.signal(Signal::KILL);
            }
        });
        drop(servers);
        let began = Instant::now();
        let starting: Vec<_> = std::thread::scope(|scope| {
            let each = [1, 2, 3].map(|n| scope.spawn(move || site.serve(n)));
            each.map(|server| server.join().unwrap()).into()
        });
        site.until("the grid answers at its address", || {
            let asked = site.ask_at(GRID, &["token", "create", "after", "--scope", "viewer"]);
            let done = asked.code == 0 || asked.err.contains("exists already");
            done.then_some(()).ok_or(asked.err)
        });
        println!("all killed: an answer after {:?}", began.elapsed());
        writes.are_known(3);
        site.ask(3, &["history"]).code(0).says("admin");
        drop(starting);
    });
}

fn place(server: u32) -> usize {
    usize::try_from(server).unwrap() - 1
}

impl Site {
    /// Commits that whoever leads has an address, and waits until it does.
    pub(crate) fn gives_address(&self) {
        std::fs::create_dir(self.path("wanted")).unwrap();
        let text = format!("grid \"class\" {{\n  address = \"{GRID}\"\n}}\n");
        std::fs::write(self.path("wanted/grid.hcl"), text).unwrap();
        self.ask(1, &["apply", "wanted", "--yes"]).code(0);
        self.until("the grid answers at its address", || {
            let asked = self.ask_at(GRID, &["status"]);
            (asked.code == 0).then_some(()).ok_or(asked.err)
        });
    }
}
