//! Desktops, simulated, on servers that are killed, drained, or both.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::apart::apart;
use crate::site::{Server, Site};

/// How many there are to be.
const DESKTOPS: u64 = 6;

const WANTED: &str = r#"
image "tiny" {
  version = "1"
  os      = "linux"
  copies  = "all"
}
template "small" {
  image  = image.tiny
  memory = "96MiB"
}
pool "class" {
  template = template.small
  desktops = DESKTOPS
}
"#;

impl Site {
    /// Commits that there are to be so many desktops; says what is wrong if that cannot be.
    pub(crate) fn wants(&self, desktops: u64) {
        let text = WANTED.replace("DESKTOPS", &desktops.to_string());
        std::fs::create_dir_all(self.path("wanted")).unwrap();
        std::fs::write(self.path("wanted/grid.hcl"), text).unwrap();
        let apply = ["apply", "wanted", "--yes", "--approve", "mass-delete"];
        self.ask(1, &apply).code(0);
    }

    /// The image that is wanted is in the grid.
    pub(crate) fn imports(&self) {
        std::fs::write(self.path("tiny.raw"), [7; 65_536]).unwrap();
        let import = ["image", "import", "tiny", "tiny.raw", "--version", "1"];
        self.ask(1, &import).code(0);
    }

    /// Servers that run, with a whole image on each, and desktops on all of them.
    fn with_desktops(&self, servers: u32) -> Vec<Server> {
        let running = self.gather(servers);
        self.imports();
        self.wants(0);
        self.until("each server has the image", || {
            let listed = self.ask(1, &["image", "status", "--json"]);
            let whole = listed.out.matches("\"verified\"").count();
            let all = whole == usize::try_from(servers).unwrap();
            all.then_some(()).ok_or(listed.out)
        });
        self.wants(DESKTOPS);
        let places = self.until_available(1);
        assert_eq!(places.len(), running.len(), "not on all: {places:?}");
        running
    }

    /// Waits until as many desktops are available as there are to be, and none is anything else, by what server `n` says;
    /// how many each server has.
    #[track_caller]
    pub(crate) fn until_available(&self, n: u32) -> BTreeMap<u32, u32> {
        self.until("all desktops are available", || {
            let listed = self.ask(n, &["desktop", "list", "--json"]);
            let listed: Value = serde_json::from_str(&listed.out).unwrap_or_default();
            let mut places = BTreeMap::new();
            let desktops = listed.as_array().map(Vec::as_slice).unwrap_or_default();
            for desktop in desktops.iter().filter(|d| d["state"] == "available") {
                let server = desktop["server"].as_str().unwrap_or_default();
                let server = server.strip_prefix("host-").unwrap().parse().unwrap();
                *places.entry(server).or_insert(0) += 1;
            }
            let available = places.values().map(|n| u64::from(*n)).sum::<u64>();
            let all =
                available == DESKTOPS && desktops.len() == places.values().sum::<u32>() as usize;
            all.then_some(places).ok_or_else(|| listed.to_string())
        })
    }

    /// What server `n` says of server `other`.
    fn state(&self, n: u32, other: u32) -> Value {
        let name = format!("host-{other}");
        let servers = self.servers(n);
        let found = servers.into_iter().find(|server| server["name"] == *name);
        found.unwrap_or_default()
    }
}

#[test]
fn desktops_of_a_server_that_is_killed_grow_again_on_the_others() {
    apart(3, |site| {
        let mut servers = site.with_desktops(3);
        let began = Instant::now();
        servers.remove(2).kill();
        site.until("its desktops grew again elsewhere", || {
            let told = site.ask(1, &["status", "--json"]);
            let status: Value = serde_json::from_str(&told.out).unwrap_or_default();
            let grown = status["pools"][0]["available"] == DESKTOPS;
            let lost = status["servers"][2]["state"] == "lost";
            (grown && lost).then_some(()).ok_or(told.out)
        });
        println!(
            "all desktops are available again after {:?}",
            began.elapsed()
        );
        // It comes back with nothing, as a machine that lost its power: what it held is known to be gone.
        let back = site.serve(3);
        let places = site.until_available(3);
        assert!(!places.contains_key(&3), "{places:?}");
        drop(back);
    });
}

#[test]
fn a_server_is_emptied_though_whoever_leads_is_killed_meanwhile() {
    apart(3, |site| {
        let mut servers = site.with_desktops(3);
        site.until_vote(1, &[1, 2, 3], &[]);
        let leader = site.leader(1);
        let (drained, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let drain = ["server", "drain", &format!("host-{drained}")];
        site.ask(other, &drain).code(0);
        let seen = site.until("it is being emptied", || {
            let state = site.state(other, drained);
            let begun = state["state"] == "draining";
            begun
                .then(|| state["desktops"].clone())
                .ok_or_else(|| state.to_string())
        });
        assert_ne!(seen, 0, "it is empty already");
        servers.remove(usize::try_from(leader).unwrap() - 1).kill();
        site.until("it is empty", || {
            let state = site.state(other, drained);
            let empty = state["state"] == "draining" && state["desktops"] == 0;
            empty.then_some(()).ok_or_else(|| state.to_string())
        });
        // The desktops of both are on the one that is left.
        let back = site.serve(leader);
        let places = site.until_available(leader);
        assert_eq!(places, BTreeMap::from([(other, 6)]));
        // The word is remembered, and taken back.
        let undrain = ["server", "undrain", &format!("host-{drained}")];
        site.ask(leader, &undrain).code(0);
        site.until("it is ready", || {
            let state = site.state(leader, drained);
            let ready = state["state"] == "ready";
            ready.then_some(()).ok_or_else(|| state.to_string())
        });
        drop(back);
    });
}

#[test]
fn a_server_that_is_killed_while_it_is_emptied_is_emptied_when_it_is_back() {
    apart(3, |site| {
        let mut servers = site.with_desktops(3);
        site.until_vote(1, &[1, 2, 3], &[]);
        let leader = site.leader(1);
        let drained = leader % 3 + 1;
        let name = format!("host-{drained}");
        site.ask(leader, &["server", "drain", &name]).code(0);
        let seen = site.until("it is being emptied", || {
            let state = site.state(leader, drained);
            let begun = state["state"] == "draining";
            begun
                .then(|| state["desktops"].clone())
                .ok_or_else(|| state.to_string())
        });
        assert_ne!(seen, 0, "it is empty already");
        servers.remove(usize::try_from(drained).unwrap() - 1).kill();
        site.until("it is lost, and all its desktops are elsewhere", || {
            let told = site.ask(leader, &["status", "--json"]);
            let status: Value = serde_json::from_str(&told.out).unwrap_or_default();
            let grown = status["pools"][0]["available"] == DESKTOPS;
            let lost = site.state(leader, drained)["state"] == "lost";
            (grown && lost).then_some(()).ok_or(told.out)
        });
        let back = site.serve(drained);
        site.until("it is back, and empty", || {
            let state = site.state(leader, drained);
            let empty = state["state"] == "draining" && state["desktops"] == 0;
            empty.then_some(()).ok_or_else(|| state.to_string())
        });
        let places = site.until_available(leader);
        assert!(!places.contains_key(&drained), "{places:?}");
        drop(back);
    });
}
