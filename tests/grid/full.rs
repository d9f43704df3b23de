//! A server's disk is full: it steps aside and says why, the others go on, and with space it comes back.

use std::time::Instant;

use crate::apart::{apart, leave, mount};
use crate::writes::Writes;

#[test]
fn a_server_whose_disk_is_full_steps_aside_and_comes_back_with_space() {
    apart(3, |site| {
        // A disk of its own for each, of which as much memory is taken as is written.
        let disk = |n: u32| site.path(&n.to_string());
        for n in 1..=3 {
            std::fs::create_dir(disk(n)).unwrap();
            mount(&disk(n), "4g");
        }
        let mut servers = site.grid(3);
        let full = site.leader(1);
        let writes = Writes::during(site, &site.host(full % 3 + 1), |writes| {
            // What is there stays, and soon nothing more has room.
            leave(&disk(full), 32);
            let at = usize::try_from(full).unwrap() - 1;
            assert_eq!(servers.remove(at).ends(), 1, "{}", site.log(full));
            let said = site.log(full);
            let clear = said.contains("No space left") && said.contains("look at the disk");
            assert!(clear, "{said}");
            writes.acknowledged_from(Instant::now());
            // Started again too early, it says so once more, and does not take its log for damaged.
            let again = ["serve", "--config", &format!("{full}/coppice.toml")];
            site.run(&again).code(1).says("make space there");
            leave(&disk(full), 4 << 20);
        });
        servers.push(site.serve(full));
        writes.are_known(3);
    });
}
