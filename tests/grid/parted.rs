//! Wires are cut, both ways or one: most go on, the others know that they are on their own, and all are one again.

use std::time::Instant;

use crate::apart::apart;
use crate::site::Site;
use crate::writes::Writes;

/// Waits until server `n` is on its own, and demands that it changes nothing.
#[track_caller]
fn refuses(site: &Site, n: u32) {
    site.until(&format!("host-{n} is on its own"), || {
        let told = site.ask(n, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&told.out).unwrap_or_default();
        let degraded = status["degraded"].is_u64();
        degraded.then_some(()).ok_or(told.out + &told.err)
    });
    let asked = site.ask(n, &["token", "create", "lonely", "--scope", "viewer"]);
    asked.code(1).says("on its own");
}

/// Waits until server `n` agrees on changes again, and that nobody knows what was refused.
#[track_caller]
fn is_one_again(site: &Site, n: u32) {
    site.until(&format!("host-{n} agrees again"), || {
        let asked = site.ask(n, &["token", "create", "together", "--scope", "viewer"]);
        let done = asked.code == 0 || asked.err.contains("exists already");
        done.then_some(()).ok_or(asked.err)
    });
    let listed = site.ask(n, &["token", "list"]).code(0);
    assert!(!listed.out.contains("lonely"), "{}", listed.out);
}

#[test]
fn whoever_leads_and_is_cut_off_refuses_and_the_others_go_on() {
    apart(3, |site| {
        let servers = site.grid(3);
        let former = site.leader(1);
        let others: Vec<u32> = (1..=3).filter(|n| *n != former).collect();
        let writes = Writes::during(site, &site.host(others[0]), |writes| {
            let began = Instant::now();
            for other in &others {
                site.cut(former, *other);
                site.cut(*other, former);
            }
            writes.acknowledged_from(began);
            refuses(site, former);
            assert_ne!(site.leader(others[1]), former);
            for other in &others {
                site.heal(former, *other);
                site.heal(*other, former);
            }
            is_one_again(site, former);
        });
        writes.are_known(3);
        drop(servers);
    });
}

#[test]
fn whoever_leads_and_is_not_heard_leads_no_more() {
    one_way(|site, former, other| site.cut(former, other), Site::heal);
}

#[test]
fn whoever_leads_and_hears_nothing_leads_no_more() {
    one_way(
        |site, former, other| site.cut(other, former),
        |site, former, other| site.heal(other, former),
    );
}

/// The wires between whoever leads and all others are cut one way.
fn one_way(cut: fn(&Site, u32, u32), heal: fn(&Site, u32, u32)) {
    apart(3, |site| {
        let servers = site.grid(3);
        let former = site.leader(1);
        let others: Vec<u32> = (1..=3).filter(|n| *n != former).collect();
        let writes = Writes::during(site, &site.host(others[0]), |writes| {
            let began = Instant::now();
            for other in &others {
                cut(site, former, *other);
            }
            writes.acknowledged_from(began);
            refuses(site, former);
            assert_ne!(site.leader(others[1]), former);
            for other in &others {
                heal(site, former, *other);
            }
            is_one_again(site, former);
        });
        writes.are_known(3);
        drop(servers);
    });
}
