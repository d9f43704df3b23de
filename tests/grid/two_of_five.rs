//! Two of five servers are killed at once, and the other three go on.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::process::Signal;

use crate::apart::{GRID, apart};
use crate::site::{Server, Site};
use crate::writes::Writes;

const ALL: [u32; 5] = [1, 2, 3, 4, 5];

/// Five servers that vote, by their numbers, and an address that whoever leads has.
fn five(site: &Site) -> BTreeMap<u32, Server> {
    let servers = ALL.into_iter().zip(site.grid(5)).collect();
    site.gives_address();
    servers
}

/// As good as at once: nothing is answered between.
fn kill(servers: &mut BTreeMap<u32, Server>, which: [u32; 2]) {
    let killed = which.map(|n| servers.remove(&n).unwrap());
    for server in &killed {
        server.signal(Signal::KILL);
    }
}

#[test]
fn when_two_of_five_are_killed_at_once_and_one_of_them_leads_the_others_go_on() {
    apart(5, |site| {
        let mut servers = five(site);
        let former = site.leader(1);
        let (other, left) = (former % 5 + 1, (former + 1) % 5 + 1);
        let writes = Writes::during(site, GRID, |writes| {
            let began = Instant::now();
            kill(&mut servers, [former, other]);
            writes.acknowledged_from(began);
            writes.go_on(10);
            let leads = site.leader(left);
            assert!(![former, other].contains(&leads), "{leads} leads");
            for n in [former, other] {
                servers.insert(n, site.serve(n));
            }
            site.until_vote(former, &ALL, &[]);
            writes.go_on(5);
        });
        writes.are_known(5);
    });
}

#[test]
fn two_that_were_away_carry_what_was_agreed_without_them_when_two_others_are_killed() {
    apart(5, |site| {
        let mut servers = five(site);
        let leader = site.leader(1);
        let follow: Vec<u32> = ALL.into_iter().filter(|n| *n != leader).collect();
        let writes = Writes::during(site, GRID, |writes| {
            kill(&mut servers, [follow[0], follow[1]]);
            writes.go_on(10);
            // Whoever leads next has to bring these two what was agreed on by the other three, of which two go now.
            for n in [follow[0], follow[1]] {
                servers.insert(n, site.serve(n));
            }
            let began = Instant::now();
            kill(&mut servers, [leader, follow[2]]);
            writes.acknowledged_from(began);
            writes.go_on(10);
            for n in [leader, follow[2]] {
                servers.insert(n, site.serve(n));
            }
            site.until_vote(leader, &ALL, &[]);
            writes.go_on(5);
        });
        writes.are_known(5);
    });
}
