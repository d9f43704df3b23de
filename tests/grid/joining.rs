//! Servers come, and any of them answers.

use crate::site::Site;

#[test]
fn five_servers_vote_and_whoever_comes_after_learns() {
    let site = Site::new();
    let mut servers = vec![site.found()];
    assert!(site.is_there("1/identity/ca.key"));
    site.join(2, 1).code(0).says("as server host-2");
    servers.push(site.serve(2));
    site.until_vote(1, &[1], &[2]);
    // Through one that has not the authority's key, while it only learns.
    for n in 3..=6 {
        site.join(n, 2).code(0);
        servers.push(site.serve(n));
    }
    site.until_vote(3, &[1, 2, 3, 4, 5], &[6]);
    // Any server answers, and says the same.
    for n in 1..=6 {
        site.until("all six are heard, and have what is agreed on", || {
            let servers = site.servers(n);
            let fine = |server: &serde_json::Value| {
                let heard = server["log"]["heard"].as_u64();
                server["log"]["behind"] == 0 && heard.is_some_and(|ago| ago < 60_000)
            };
            let all = servers.len() == 6 && servers.iter().all(fine);
            all.then_some(()).ok_or_else(|| format!("{servers:?}"))
        });
        let name = format!("made-{n}");
        site.ask(n, &["token", "create", &name, "--scope", "viewer"])
            .code(0);
        site.ask(7 - n, &["token", "list"]).code(0).says(&name);
    }
    // Whoever votes has the authority's key, and whoever only learns has not.
    for n in 2..=5 {
        site.until("each that votes has the authority's key", || {
            let key = format!("{n}/identity/ca.key");
            site.is_there(key)
                .then_some(())
                .ok_or_else(|| n.to_string())
        });
    }
    assert!(!site.is_there("6/identity/ca.key"));
    site.ask(4, &["server", "upgrade-check"])
        .code(0)
        .says("safe");
    // One that cannot make itself a certificate gets one under its new names all the same.
    assert_eq!(servers.pop().unwrap().stop(), 0);
    let config = site.path("6/coppice.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "# names = [\"desk.example.org\"]",
        "names = [\"desk.example\"]",
    );
    std::fs::write(&config, text).unwrap();
    let shown = || std::fs::read(site.path("6/identity/server.pem")).unwrap();
    let before = shown();
    servers.push(site.serve(6));
    site.until("it has a new certificate", || {
        let after = shown();
        (after != before).then_some(()).ok_or_else(String::new)
    });
    assert!(!site.is_there("6/identity/ca.key"));
    for server in servers {
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_grid_of_two_with_a_witness_goes_on_when_whoever_leads_is_killed() {
    let site = Site::new();
    let first = site.found();
    site.join(2, 1).code(0);
    let second = site.serve(2);
    let token = site.token("witness");
    site.join_as(3, 1, &token, &["--witness"])
        .code(0)
        .says("as witness host-3");
    let witness = site.serve(3);
    site.until_vote(2, &[1, 2, 3], &[]);
    site.ask(3, &["status"])
        .code(1)
        .says("it votes, and has no API");
    assert!(!site.is_there("3/identity/grid.key") && !site.is_there("3/identity/ca.key"));

    let leader = site.leader(2);
    let (killed, other) = if leader == 1 {
        (first, second)
    } else {
        (second, first)
    };
    let survivor = 3 - leader;
    killed.kill();
    // Nothing more is asked of a person: what is wanted is agreed on by the two that are left.
    site.until("the two that are left agree", || {
        let asked = site.ask(survivor, &["token", "create", "after", "--scope", "viewer"]);
        // The first attempt may have come about after all.
        let done = asked.code == 0 || asked.err.contains("exists already");
        done.then_some(()).ok_or(asked.err)
    });
    site.until("it is seen who is gone", || {
        let servers = site.servers(survivor);
        let gone = servers
            .iter()
            .find(|s| s["name"] == format!("host-{leader}").as_str());
        // Whoever leads now may never have heard of it.
        let heard = gone.map(|s| s["log"]["heard"].as_u64().unwrap_or(u64::MAX));
        heard
            .is_some_and(|heard| heard > 2_000)
            .then_some(())
            .ok_or_else(|| format!("{servers:?}"))
    });
    // A witness leads only until a server can.
    site.until("a server leads", || {
        let leader = site.leader(survivor);
        (leader == survivor)
            .then_some(())
            .ok_or_else(|| leader.to_string())
    });
    site.ask(survivor, &["server", "upgrade-check"])
        .code(5)
        .says("are needed");
    let back = site.serve(leader);
    site.until_vote(leader, &[1, 2, 3], &[]);
    site.ask(leader, &["token", "list"]).code(0).says("after");
    drop((back, other, witness));
}
