//! Most of a grid is gone: what is left says so, goes on alone, and what comes back joins again.

use serde_json::Value;

use crate::site::{Ran, Site};

fn status(site: &Site, n: u32) -> Value {
    let told = site.ask(n, &["status", "--json"]);
    serde_json::from_str(&told.out).unwrap_or_default()
}

/// Waits until server `n` says so of another.
#[track_caller]
fn until_finding(site: &Site, n: u32, kind: &str) {
    site.until(&format!("{kind} is told by {n}"), || {
        let now = status(site, n);
        let findings = now["findings"].to_string();
        findings.contains(kind).then_some(()).ok_or(findings)
    });
}

#[track_caller]
fn until_degraded(site: &Site, n: u32) {
    site.until("it is on its own", || {
        let now = status(site, n);
        now["degraded"]
            .is_u64()
            .then_some(())
            .ok_or_else(|| now.to_string())
    });
}

fn recover(site: &Site, n: u32, more: &[&str]) -> Ran {
    let config = format!("{n}/coppice.toml");
    let fixed = ["server", "recover", "--alone", "--config", &config];
    site.run(&[&fixed, more].concat())
}

fn rejoin(site: &Site, n: u32, through: u32, grid: &str) -> Ran {
    let (address, token) = (site.address(through), site.token_of(through, "server"));
    let config = format!("{n}/coppice.toml");
    site.run(&[
        "server",
        "rejoin",
        &address,
        &token,
        "--config",
        &config,
        "--confirm",
        grid,
    ])
}

#[test]
fn one_of_two_goes_on_alone_and_the_other_joins_again() {
    let site = Site::new();
    let first = site.found();
    site.join(2, 1).code(0);
    let second = site.serve(2);
    site.until_vote(1, &[1, 2], &[]);
    let grid = status(&site, 1)["grid"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    site.ask(1, &["token", "create", "kept", "--scope", "viewer"])
        .code(0);
    second.kill();

    until_degraded(&site, 1);
    until_finding(&site, 1, "no_majority");
    site.ask(1, &["token", "create", "new", "--scope", "viewer"])
        .code(1)
        .says("on its own")
        .says("host-2 is silent")
        .says("recover --alone");
    recover(&site, 1, &["--leave-peers-alone"])
        .code(1)
        .says("stop `coppice serve`");
    first.kill();

    recover(&site, 1, &[])
        .code(64)
        .says("nobody knows whether host-2 still runs");
    recover(&site, 1, &["--peer-is-off", "host-7"])
        .code(64)
        .says("no other server");
    recover(&site, 1, &["--leave-peers-alone", "--confirm", "campus"])
        .code(1)
        .says("nothing was changed");
    recover(&site, 1, &["--leave-peers-alone", "--confirm", &grid])
        .code(0)
        .says("life 2")
        .says("server rejoin");
    recover(&site, 1, &["--leave-peers-alone", "--confirm", &grid])
        .code(1)
        .says("only voter already");
    let first = site.serve(1);
    site.ask(1, &["token", "list"]).code(0).says("kept");
    site.ask(1, &["token", "create", "new", "--scope", "viewer"])
        .code(0);
    assert_eq!(status(&site, 1)["grid"]["epoch"], 2);

    // The other is back as it was: nobody takes it for a member, and both say so.
    let second = site.serve(2);
    until_finding(&site, 1, "former_life");
    until_finding(&site, 2, "left_behind");
    drop(second);
    rejoin(&site, 2, 1, &grid).code(0).says("as server host-2");
    let second = site.serve(2);
    site.until_vote(1, &[1, 2], &[]);
    site.ask(2, &["token", "list"]).code(0).says("new");
    let servers = site.servers(2);
    assert_eq!(servers.len(), 2, "{servers:?}");
    drop((first, second));
}

#[test]
fn two_that_both_went_on_alone_stay_apart_until_a_person_says_who_gives_way() {
    let site = Site::new();
    let first = site.found();
    site.join(2, 1).code(0);
    let second = site.serve(2);
    site.until_vote(1, &[1, 2], &[]);
    let grid = status(&site, 1)["grid"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    first.kill();
    second.kill();
    for n in [1, 2] {
        recover(&site, n, &["--leave-peers-alone", "--confirm", &grid]).code(0);
    }
    let first = site.serve(1);
    let second = site.serve(2);
    for n in [1, 2] {
        until_finding(&site, n, "split");
        let name = format!("only-{n}");
        site.ask(n, &["token", "create", &name, "--scope", "viewer"])
            .code(0);
    }
    // The wrong grid's name gives nothing up, nor does a grid that cannot be reached.
    drop(second);
    let token = site.token_of(1, "server");
    let none = site.address(9);
    let config = ["--config", "2/coppice.toml", "--confirm", &grid];
    let elsewhere = [&["server", "rejoin", &none, &token][..], &config].concat();
    site.run(&elsewhere).code(1).says("as it was before");
    let second = site.serve(2);
    site.ask(2, &["token", "list"]).code(0).says("only-2");
    drop(second);

    rejoin(&site, 2, 1, &grid).code(0);
    let second = site.serve(2);
    site.until_vote(1, &[1, 2], &[]);
    let list = site.ask(2, &["token", "list"]).code(0);
    assert!(
        list.out.contains("only-1") && !list.out.contains("only-2"),
        "{list:?}"
    );
    drop((first, second));
}

#[test]
fn a_server_whose_log_is_damaged_steps_aside_and_joins_again_in_its_place() {
    let site = Site::new();
    let first = site.found();
    for n in [2, 3] {
        site.join(n, 1).code(0);
    }
    let (second, third) = (site.serve(2), site.serve(3));
    site.until_vote(1, &[1, 2, 3], &[]);
    // The name is in what cannot be read any more.
    let grid = status(&site, 1)["grid"]["id"].as_str().unwrap().to_owned();
    let numbers = |n: u32| -> Vec<Value> {
        let servers = site.servers(n);
        servers.iter().map(|s| s["id"].clone()).collect()
    };
    let before = numbers(1);
    assert_eq!(third.stop(), 0);
    std::fs::remove_dir_all(site.path("3/grid/log")).unwrap();
    let refused = site.run(&["serve", "--config", "3/coppice.toml"]);
    refused
        .code(1)
        .says("lost its tail")
        .says("coppice server rejoin ADDRESS TOKEN");

    rejoin(&site, 3, 2, &grid).code(0).says("as server host-3");
    let third = site.serve(3);
    site.until_vote(3, &[1, 2, 3], &[]);
    assert_eq!(numbers(3), before, "it is the member that it was");
    site.ask(3, &["token", "create", "on", "--scope", "viewer"])
        .code(0);
    drop((first, second, third));
}

#[test]
fn of_three_the_one_that_is_left_is_told_that_it_may_lack_something() {
    let site = Site::new();
    let first = site.found();
    let mut others = Vec::new();
    for n in [2, 3] {
        site.join(n, 1).code(0);
        others.push(site.serve(n));
    }
    site.until_vote(1, &[1, 2, 3], &[]);
    let grid = status(&site, 1)["grid"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    others.into_iter().for_each(|server| server.kill());
    first.kill();
    let position = |n: u32| {
        let config = format!("{n}/coppice.toml");
        let told = site.run(&["server", "log-position", "--json", "--config", &config]);
        let told: Value = serde_json::from_str(&told.code(0).out).unwrap();
        assert_eq!(told["voters"].as_object().unwrap().len(), 3, "{told}");
        (
            told["term"].as_u64().unwrap(),
            told["index"].as_u64().unwrap(),
        )
    };
    let best = [1, 2, 3].into_iter().max_by_key(|n| position(*n)).unwrap();
    recover(&site, best, &["--leave-peers-alone", "--confirm", &grid])
        .code(0)
        .says("others may hold newer entries")
        .says("log-position");
    let left = site.serve(best);
    site.ask(best, &["token", "create", "on", "--scope", "viewer"])
        .code(0);
    drop(left);
}
