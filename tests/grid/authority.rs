//! Another certificate authority takes over while everything goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::site::{Server, Site};

/// What server `n` says of the authority.
fn authority(site: &Site, n: u32) -> Value {
    let shown = site.ask(n, &["ca", "show", "--json"]).code(0);
    serde_json::from_str(&shown.out).unwrap()
}

#[track_caller]
fn until_taken_over(site: &Site, n: u32, old: &Value) -> Value {
    site.until("another authority has taken over", || {
        let now = authority(site, n);
        let done = now["rotation"].is_null() && now["fingerprint"] != old["fingerprint"];
        if done { Ok(now) } else { Err(now.to_string()) }
    })
}

#[test]
fn the_authority_is_replaced_while_clients_ask_and_servers_come_and_go() {
    let site = Site::new();
    let mut servers = vec![site.found()];
    for n in 2..=4 {
        site.join(n, 1).code(0);
        servers.push(site.serve(n));
    }
    site.until_vote(1, &[1, 2, 3], &[4]);
    site.until("those that vote have the authority's key", || {
        let all = (1..=3).all(|n| site.is_there(format!("{n}/identity/ca.key")));
        all.then_some(()).ok_or_else(String::new)
    });
    let old = authority(&site, 1);
    let pinned = site.path("pinned.pem");
    std::fs::copy(site.path("1/ca.pem"), &pinned).unwrap();
    let early = site.token("server");
    let key = |n: u32| std::fs::read(site.path(&format!("{n}/identity/ca.key"))).unwrap();
    let keys = [key(1), key(2), key(3)];

    // A client that knows the old authority alone asks all the time.
    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let ask = || {
            while !stop.load(Ordering::SeqCst) {
                for n in 1..=4 {
                    let mut command = site.command(&["status", "--json"]);
                    command
                        .env("COPPICE_SERVER", format!("https://{}", site.address(n)))
                        .env("COPPICE_CA_FILE", &pinned);
                    let output = command.output().unwrap();
                    let err = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(output.status.code(), Some(0), "server {n}: {err}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let asking = scope.spawn(ask);
        // Through one that has not the authority's key.
        site.ask(4, &["ca", "rotate"]).code(0).says("takes over");
        let rotated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let new = until_taken_over(&site, 2, &old);
            let before = asked.load(Ordering::SeqCst);
            site.until("it was asked after that", || {
                let more = asked.load(Ordering::SeqCst) > before + 8;
                more.then_some(()).ok_or_else(String::new)
            });
            new
        }));
        stop.store(true, Ordering::SeqCst);
        asking.join().unwrap();
        rotated.unwrap();
    });
    let new = until_taken_over(&site, 1, &old);
    for n in 1..=4 {
        site.until("every server has the new authority alone", || {
            let now = authority(&site, n);
            let alone = now["certificates"] == new["certificates"];
            alone.then_some(()).ok_or_else(|| now.to_string())
        });
        let file = std::fs::read_to_string(site.path(&format!("{n}/ca.pem"))).unwrap();
        assert_eq!(Value::from(file), new["certificates"], "for clients of {n}");
    }
    for (n, old) in (1..=3).zip(keys) {
        assert_ne!(key(n), old, "the key of server {n}");
    }
    assert!(!site.is_there("4/identity/ca.key"));

    // Each starts again with what it has now, and the others accept it.
    for n in [4, 2, 1] {
        let server = servers.remove(n - 1);
        assert_eq!(server.stop(), 0);
        let n = u32::try_from(n).unwrap();
        servers.insert((n - 1) as usize, site.serve(n));
        site.until("it is heard again", || {
            let servers = site.servers(3);
            let behind = servers.iter().all(|s| s["log"]["behind"] == 0);
            let listed = servers.len() == 4 && behind;
            listed.then_some(()).ok_or_else(|| format!("{servers:?}"))
        });
    }
    // A token of before names an authority that is not trusted any more, and says so; a new one is good.
    site.join_as(5, 2, &early, &["--hypervisor", "sim://"])
        .code(1)
        .says("has another authority by now")
        .says("coppice token create");
    site.join(5, 4).code(0);
    servers.push(site.serve(5));
    site.until_vote(5, &[1, 2, 3, 4, 5], &[]);

    // The client is told, and what it holds is replaced by a command.
    let with_pinned = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        command
            .env("COPPICE_SERVER", format!("https://{}", site.address(3)))
            .env("COPPICE_CA_FILE", &pinned);
        command.output().unwrap()
    };
    let told = with_pinned(&["ca", "show"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("coppice ca update"), "{told}");
    assert_eq!(with_pinned(&["ca", "update"]).status.code(), Some(0));
    let held = std::fs::read_to_string(&pinned).unwrap();
    assert_eq!(Value::from(held), new["certificates"]);
    let told = with_pinned(&["ca", "show"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.contains("coppice ca update"), "{told}");
}

/// Waits until server `other` is lost by what server `n` says.
#[track_caller]
fn until_lost(site: &Site, n: u32, other: u32) {
    let name = format!("host-{other}");
    site.until(&format!("{name} is lost"), || {
        let servers = site.servers(n);
        let lost = servers
            .iter()
            .any(|s| s["name"] == *name && s["state"] == "lost");
        lost.then_some(()).ok_or_else(|| format!("{servers:?}"))
    });
}

/// Waits until every server that is there has followed, and these alone have not, by what server `n` says.
#[track_caller]
fn until_waits_for(site: &Site, n: u32, away: &[u32]) {
    let away: BTreeSet<String> = away.iter().map(|n| format!("host-{n}")).collect();
    site.until(&format!("it waits for {away:?} alone"), || {
        let now = authority(site, n);
        let rotation = &now["rotation"];
        let waits = rotation["waits_for"] == serde_json::json!(away) && rotation["step"] == "show";
        waits.then_some(()).ok_or_else(|| now.to_string())
    });
}

#[test]
fn another_authority_takes_over_though_whoever_leads_is_killed_meanwhile() {
    let site = Site::new();
    let mut servers: BTreeMap<u32, Server> = BTreeMap::from([(1, site.found())]);
    for n in 2..=4 {
        site.join(n, 1).code(0);
        servers.insert(n, site.serve(n));
    }
    site.until_vote(1, &[1, 2, 3], &[4]);
    let old = authority(&site, 1);
    let (leader, away) = (site.leader(1), 4);
    servers.remove(&away).unwrap().kill();
    until_lost(&site, 1, away);
    // One stands still, so that the first step is not over before whoever leads is killed.
    let (other, still) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    servers[&still].signal(Signal::STOP);
    site.ask(leader, &["ca", "rotate"]).code(0);
    servers.remove(&leader).unwrap().kill();
    servers[&still].signal(Signal::CONT);
    until_waits_for(&site, other, &[leader, away]);
    assert_ne!(site.leader(other), leader);
    // The one that led is back, whatever it had done of it before, and follows under another leader.
    servers.insert(leader, site.serve(leader));
    until_waits_for(&site, leader, &[away]);

    // Killed once more, whoever leads now; those that are left do not wait, and it can follow no more.
    let second = site.leader(leader);
    servers.remove(&second).unwrap().kill();
    let other = second % 3 + 1;
    until_lost(&site, other, second);
    site.ask(other, &["ca", "rotate", "--finish"]).code(0);
    let new = until_taken_over(&site, other, &old);
    servers.insert(second, site.serve(second));
    for n in [other, second] {
        site.until("the new authority alone is trusted", || {
            let now = authority(&site, n);
            let file = std::fs::read_to_string(site.path(&format!("{n}/ca.pem"))).unwrap();
            let same = now["fingerprint"] == new["fingerprint"] && now["certificates"] == *file;
            let alone = same && file.matches("BEGIN CERTIFICATE").count() == 1;
            alone.then_some(()).ok_or_else(|| now.to_string())
        });
    }
    site.until_vote(second, &[1, 2, 3], &[4]);
}

#[test]
fn a_server_that_is_away_holds_up_the_last_step_until_it_is_back_or_somebody_does_not_wait() {
    let site = Site::new();
    let first = site.found();
    for n in 2..=4 {
        site.join(n, 1).code(0);
    }
    let (second, third, away) = (site.serve(2), site.serve(3), site.serve(4));
    site.until_vote(1, &[1, 2, 3], &[4]);
    away.kill();
    until_lost(&site, 1, 4);
    let old = authority(&site, 1);
    site.ask(1, &["ca", "rotate"]).code(0);
    until_waits_for(&site, 2, &[4]);
    site.ask(1, &["status"])
        .code(0)
        .says("coppice ca rotate --finish");
    site.ask(1, &["ca", "rotate"])
        .code(1)
        .says("takes over already");
    // It knows the old authority alone, the others show certificates of the new one, and all accept each other.
    let away = site.serve(4);
    let new = until_taken_over(&site, 4, &old);

    // Again, and nobody waits: it is out then.
    away.kill();
    until_lost(&site, 1, 4);
    site.ask(2, &["ca", "rotate"]).code(0);
    until_waits_for(&site, 2, &[4]);
    site.ask(3, &["ca", "rotate", "--finish"]).code(0);
    until_taken_over(&site, 1, &new);
    site.ask(3, &["ca", "rotate", "--finish"])
        .code(1)
        .says("there is no authority that takes over");

    // It is back, and is let in by nobody; both sides say how it joins again.
    let away = site.serve(4);
    for n in [4, site.leader(1)] {
        site.until("it says how that one joins again", || {
            let log = site.log(n);
            let told = log.lines().any(|line| {
                let why = line.contains("another authority signed it");
                why && line.contains("coppice server rejoin ADDRESS TOKEN")
            });
            told.then_some(()).ok_or(log)
        });
    }
    let status = site.ask(1, &["status", "--json"]).code(0);
    let status: Value = serde_json::from_str(&status.out).unwrap();
    let (grid, token) = (status["grid"]["name"].as_str(), site.token("server"));
    let (to, grid) = (site.address(2), grid.unwrap());
    let rejoin = ["server", "rejoin", &to, &token, "--confirm", grid];
    let rejoin = [&rejoin[..], &["--config", "4/coppice.toml"]].concat();
    site.run(&rejoin).code(1).says("stop `coppice serve`");
    drop(away);
    site.run(&rejoin).code(0).says("as server host-4");
    let away = site.serve(4);
    site.until_vote(4, &[1, 2, 3], &[4]);
    let name = |n: u32| authority(&site, n)["fingerprint"].clone();
    assert_eq!(name(4), name(1));
    drop((first, second, third, away));
}
