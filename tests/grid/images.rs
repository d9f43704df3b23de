//! An image on its way to a server that is killed.

use serde_json::Value;

use crate::apart::apart;
use crate::site::Site;

/// As random as a compressed disk, so that it is as long on the wire.
const SIZE: usize = 24 << 20;

const WANTED: &str = r#"
grid "class" {
  image_bandwidth = "4MiB"
}
image "tiny" {
  version = "1"
  os      = "linux"
  copies  = "all"
}
"#;

impl Site {
    /// How the copy on host-2 stands, and how many bytes of it are there and right.
    fn copy(&self) -> (String, u64) {
        let listed = self.ask(1, &["image", "status", "--json"]);
        let listed: Value = serde_json::from_str(&listed.out).unwrap_or_default();
        let copies = listed[0]["copies"].as_array().cloned().unwrap_or_default();
        let mine = copies.into_iter().find(|copy| copy["server"] == "host-2");
        let mine = mine.unwrap_or_default();
        let state = mine["state"].as_str().unwrap_or("absent").to_owned();
        (state, mine["progress"]["here"].as_u64().unwrap_or_default())
    }

    fn until_copy(&self, what: &str, is: impl Fn(&str, u64) -> bool) -> u64 {
        self.until(what, || {
            let (state, here) = self.copy();
            let found = is(&state, here).then_some(here);
            found.ok_or_else(|| format!("{state}, {here} bytes are there"))
        })
    }
}

#[test]
fn an_image_on_its_way_to_a_server_that_is_killed_goes_on_from_where_it_was() {
    apart(2, |site| {
        // Disks as they are, without desktops: libvirt's own simulation.
        let first = site.found_with("test:///default");
        let token = site.token("server");
        let second = ["--hypervisor", "test:///default"];
        site.join_as(2, 1, &token, &second).code(0);
        let second = site.serve(2);
        let mut chance = 7_u64;
        let noise = (0..SIZE / 8).flat_map(|_| {
            // xorshift64
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance.to_le_bytes()
        });
        std::fs::write(site.path("tiny.raw"), noise.collect::<Vec<u8>>()).unwrap();
        let import = ["image", "import", "tiny", "tiny.raw", "--version", "1"];
        site.ask(1, &import).code(0);
        std::fs::create_dir(site.path("wanted")).unwrap();
        std::fs::write(site.path("wanted/grid.hcl"), WANTED).unwrap();
        let before = site.received(2);
        site.ask(1, &["apply", "wanted", "--yes", "--detach"])
            .code(0);

        let size = u64::try_from(SIZE).unwrap();
        let here = site.until_copy("a third is there", |state, here| {
            state == "copying" && here > size / 3
        });
        second.kill();
        let second = site.serve(2);
        let again = site.until_copy("it is told how far it is", |_, here| here > 0);
        println!("{here} bytes were there when it was killed, {again} when it was asked next");
        assert!(again >= here, "{again} of {here} bytes are left");
        site.until_copy("it is whole", |state, _| state == "verified");
        let came = site.received(2) - before;
        println!("{came} bytes came for an image of {size}");
        assert!(came < size * 5 / 4, "it came again from the beginning");
        site.ask(2, &["image", "status"]).code(0).says("whole");
        drop((first, second));
    });
}
