//! Somebody looks on at what a command shows, also while the server that is asked is started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Child;

use serde_json::Value;

use crate::site::Site;

/// A command that shows again and again how something is. It ends with this value.
struct Looks<'a> {
    site: &'a Site,
    file: String,
    child: Child,
}

impl<'a> Looks<'a> {
    /// Asks server `n`.
    fn at(site: &'a Site, n: u32, arguments: &[&str]) -> Self {
        let file = format!("{}.shown", arguments.join("-"));
        let shown = File::create(site.path(&file)).unwrap();
        let mut command = site.command(arguments);
        let child = command
            .env("COPPICE_SERVER", format!("https://{}", site.address(n)))
            .stdout(shown.try_clone().unwrap())
            .stderr(shown)
            .spawn()
            .unwrap();
        Self { site, file, child }
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(self.site.path(&self.file)).unwrap()
    }

    /// Waits until it shows `text`.
    #[track_caller]
    fn until_says(&self, text: &str) {
        self.site.until(&format!("{text:?} is shown"), || {
            let shown = self.shown();
            shown.contains(text).then_some(()).ok_or(shown)
        });
    }
}

impl Drop for Looks<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn whoever_looks_on_goes_on_when_the_server_is_started_again() {
    let site = Site::new();
    let server = site.found();
    site.imports();
    site.wants(6);
    site.until_available(1);
    let status = Looks::at(&site, 1, &["status", "--watch"]);
    status.until_says("revision 1, settled");
    // There is no other server: it stays as it is.
    let mut drain = Looks::at(&site, 1, &["server", "drain", "host-1", "--watch"]);
    drain.until_says("host-1: ");
    let images = Looks::at(&site, 1, &["image", "status", "--watch"]);
    images.until_says("whole");
    std::fs::write(site.path("wanted/more.hcl"), "policy \"more\" {}\n").unwrap();
    let plan = Looks::at(&site, 1, &["plan", "wanted", "--watch"]);
    plan.until_says("policy.more");
    server.kill();
    // Also a file that changes meanwhile has a plan made, which has to wait.
    std::fs::write(site.path("wanted/more.hcl"), "policy \"much\" {}\n").unwrap();
    for looks in [&status, &drain, &images] {
        looks.until_says("does not answer, trying again");
    }
    plan.until_says("trying again");
    let server = site.serve(1);
    plan.until_says("policy.much");
    std::fs::remove_file(site.path("wanted/more.hcl")).unwrap();
    site.wants(0);
    status.until_says("revision 2, settled");
    drain.until_says("host-1 is empty");
    assert_eq!(drain.child.wait().unwrap().code(), Some(0));
    let before = images.shown().len();
    site.until("images are shown again", || {
        let now = images.shown();
        (now.len() > before).then_some(()).ok_or(now)
    });
    drop(server);
}

#[test]
fn desktops_move_to_a_server_that_came_later_when_somebody_levels_the_load() {
    let site = Site::new();
    let first = site.found();
    site.imports();
    site.wants(6);
    assert_eq!(site.until_available(1), BTreeMap::from([(1, 6)]));
    let copies = Looks::at(&site, 1, &["image", "status", "tiny", "--watch"]);
    copies.until_says("host-1");
    site.join(2, 1).code(0);
    let second = site.serve(2);
    site.until("the copy on the new server is shown as whole", || {
        let shown = copies.shown();
        let mut lines = shown.lines();
        let whole = lines.any(|line| line.contains("host-2") && line.contains("whole"));
        whole.then_some(()).ok_or(shown)
    });
    // Nothing moves before somebody says so.
    let dry = ["server", "rebalance", "--dry-run", "--json"];
    let dry = site.ask(2, &dry).code(0);
    let dry: Value = serde_json::from_str(&dry.out).unwrap();
    let moves = u32::try_from(dry["moves"].as_array().unwrap().len()).unwrap();
    assert!(moves > 0, "{dry}");
    assert_eq!(site.until_available(1), BTreeMap::from([(1, 6)]));
    let level = site.ask(2, &["server", "rebalance", "--yes"]);
    level.code(0).says("to move");
    site.until("those that were to move are on the new server", || {
        let places = site.until_available(2);
        let level = places == BTreeMap::from([(1, 6 - moves), (2, moves)]);
        level.then_some(()).ok_or_else(|| format!("{places:?}"))
    });
    let again = site.ask(1, &["server", "rebalance", "--dry-run"]);
    again.code(0).says("no move is worth it");
    drop((first, second));
}
