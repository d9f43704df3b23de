//! Servers go: for a while, as planned, or for good.

use crate::site::Site;

#[test]
fn of_two_servers_either_can_be_stopped_as_planned() {
    let site = Site::new();
    let first = site.found();
    site.join(2, 1).code(0);
    let mut running = vec![first, site.serve(2)];
    site.until_vote(1, &[1, 2], &[]);
    for _ in 0..2 {
        let leader = site.leader(1);
        let stopped = running.remove(usize::from(leader == 2));
        assert_eq!(stopped.stop(), 0);
        // At once: the other was made the only one that votes before this one ended.
        let other = 3 - leader;
        let name = format!("without-{leader}");
        site.ask(other, &["token", "create", &name, "--scope", "viewer"])
            .code(0);
        site.until_vote(other, &[other], &[leader]);
        running.insert(usize::from(leader == 2), site.serve(leader));
        site.until_vote(leader, &[1, 2], &[]);
        site.ask(leader, &["token", "list"]).code(0).says(&name);
    }
}

#[test]
fn a_server_that_is_removed_is_out_at_once_and_for_good() {
    let site = Site::new();
    let first = site.found();
    site.join(2, 1).code(0);
    let second = site.serve(2);
    site.join(3, 1).code(0);
    let third = site.serve(3);
    site.until_vote(1, &[1, 2, 3], &[]);
    let raft_ids = |n: u32| -> Vec<u64> {
        let servers = site.servers(n);
        servers.iter().map(|s| s["id"].as_u64().unwrap()).collect()
    };
    let before = raft_ids(1);
    site.ask(1, &["server", "remove", "host-3"]).code(0);
    site.until_vote(1, &[1, 2], &[]);
    // It learns that from its own log, or is not let in any more.
    if third.ends() == 0 {
        panic!("it ended as if all were well");
    }
    let log = site.log(3);
    assert!(log.contains("was removed from grid"), "{log}");
    let mut again = site.command(&["serve", "--config", "3/coppice.toml"]);
    let again = again.output().unwrap();
    assert_ne!(again.status.code(), Some(0));

    // Its name is free, its numbers are not; and its directory is no way in.
    let token = site.token("server");
    std::fs::rename(site.path("3"), site.path("former")).unwrap();
    site.join_as(3, 2, &token, &["--hypervisor", "sim://"])
        .code(0);
    let back = site.serve(3);
    site.until_vote(2, &[1, 2, 3], &[]);
    let after = raft_ids(2);
    assert_eq!(after.len(), 3);
    assert!(
        !before.contains(after.last().unwrap()),
        "{before:?} {after:?}"
    );
    site.ask(1, &["server", "remove", "host-9"])
        .code(1)
        .says("there is no server host-9");
    drop((first, second, back));
}
