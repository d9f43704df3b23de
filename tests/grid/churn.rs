//! Servers join and are removed while somebody keeps changing the grid, whose log reaches back only to a snapshot.

use std::collections::BTreeMap;

use coppice_state::backup::Backup;

use crate::site::{Server, Site};
use crate::writes::Writes;

impl Site {
    /// A backup of what server `n` knows.
    fn backup(&self, n: u32, name: &str, more: &[&str]) -> Backup {
        let words = [&["backup", name][..], more].concat();
        self.ask(n, &words).code(0);
        let bytes = std::fs::read(self.path(name)).unwrap();
        Backup::decode(&bytes).unwrap()
    }

    /// A grid whose log begins with a snapshot: it was restored from a backup. Whoever joins it is sent that.
    fn restored(&self) -> Server {
        let first = self.found();
        self.ask(1, &["token", "create", "early", "--scope", "viewer"])
            .code(0);
        std::fs::write(self.path("phrase"), "rather long, and known to this test").unwrap();
        let keys = ["--passphrase-file", "phrase"];
        self.backup(1, "kept", &[&["--with-keys"], &keys[..]].concat());
        assert_eq!(first.stop(), 0);
        std::fs::rename(self.path("1"), self.path("former")).unwrap();
        let listen = self.address(1);
        let place = ["--data", "1", "--name", "host-1", "--listen", &listen];
        let restore = ["restore", "kept", "--hypervisor", "sim://"];
        self.run(&[&restore[..], &place, &keys].concat()).code(0);
        std::fs::copy(self.path("former/admin.token"), self.path("1/admin.token")).unwrap();
        self.serve(1)
    }

    /// Whether server `n` was sent a snapshot, or made one.
    fn has_snapshot(&self, n: u32) -> bool {
        let files = std::fs::read_dir(self.path(&format!("{n}/grid/snapshots")));
        files.is_ok_and(|mut files| files.next().is_some())
    }

    /// Server `n` joins anew, whatever it was before.
    fn comes(&self, n: u32, through: u32) -> Server {
        let _ = std::fs::remove_dir_all(self.path(&n.to_string()));
        self.join(n, through).code(0);
        let server = self.serve(n);
        self.until(&format!("host-{n} begins with a snapshot"), || {
            let has = self.has_snapshot(n);
            has.then_some(()).ok_or_else(|| self.log(n))
        });
        server
    }

    /// Server `n` is removed by way of server `through`, and ends by itself.
    fn goes(&self, n: u32, through: u32, server: Server) {
        let name = format!("host-{n}");
        let asked = self.ask(through, &["server", "remove", &name]);
        if asked.code != 0 {
            // Whoever leads may be out, for others, before it says that it is.
            asked.says("may still come about");
        }
        assert_ne!(server.ends(), 0, "it ended as if all were well");
    }
}

#[test]
fn servers_come_with_a_snapshot_and_go_while_the_grid_is_changed() {
    let site = Site::new();
    let mut servers = BTreeMap::from([(1, site.restored())]);
    let writes = Writes::during(&site, &site.host(1), |writes| {
        for (n, through) in [(2, 1), (3, 2), (4, 3)] {
            servers.insert(n, site.comes(n, through));
        }
        site.until_vote(1, &[1, 2, 3], &[4]);
        // One that votes goes, and the one that learned has its seat; its machine comes again, as another member.
        site.goes(2, 1, servers.remove(&2).unwrap());
        site.until_vote(1, &[1, 3, 4], &[]);
        servers.insert(2, site.comes(2, 4));
        site.until_vote(3, &[1, 3, 4], &[2]);
        // Whoever leads goes: for a while, and another for good.
        if site.leader(3) == 1 {
            assert_eq!(servers.remove(&1).unwrap().stop(), 0);
            servers.insert(1, site.serve(1));
        }
        let leads = site.leader(2);
        assert_ne!(leads, 1);
        site.goes(leads, 2, servers.remove(&leads).unwrap());
        let rest: Vec<u32> = (1..=4).filter(|n| *n != leads).collect();
        site.until_vote(1, &rest, &[]);
        servers.insert(leads, site.comes(leads, 1));
        site.until_vote(leads, &rest, &[leads]);
        writes.go_on(5);
    });
    writes.are_known(4);
    for n in 1..=4 {
        site.ask(n, &["token", "list"]).code(0).says("early");
    }
    // Of all that ever were members, no two had the same number.
    let members = site.backup(1, "last", &[]).state.servers;
    let numbers: BTreeMap<u64, _> = members.iter().map(|(id, s)| (s.raft_id, *id)).collect();
    assert_eq!((members.len(), numbers.len()), (6, 6), "{members:?}");
}
