//! On addresses of real machines: as `ip` shows them, and in a network of this test's own.

use std::net::IpAddr;

use super::*;

/// As iproute2 6.1 prints it, shortened.
const SHOWN: &str = r#"[{"ifindex":1,"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,
    "valid_life_time":4294967295}]},
    {"ifindex":4,"ifname":"eth0","addr_info":[{"family":"inet","local":"10.0.0.5","prefixlen":8,"valid_life_time":4294967295},
    {"family":"inet","local":"10.77.0.100","prefixlen":32,"valid_life_time":2},
    {"family":"inet6","local":"fd00::5","prefixlen":64,"valid_life_time":4294967295}]},
    {"ifindex":7,"ifname":"eth1","addr_info":[{"family":"inet","local":"10.77.0.5","prefixlen":24,"valid_life_time":4294967295}]}]"#;

fn of(address: &str) -> Result<(String, bool), AddressError> {
    let interfaces: Vec<Interface> = serde_json::from_str(SHOWN).unwrap();
    place(&interfaces, address.parse().unwrap()).map(|p| (p.ifname, p.there))
}

#[test]
fn an_address_goes_where_its_network_is() {
    assert_eq!(
        of("10.77.0.101"),
        Ok(("eth1".to_owned(), false)),
        "the narrowest"
    );
    assert_eq!(of("10.78.0.1"), Ok(("eth0".to_owned(), false)));
    assert_eq!(of("fd00::77"), Ok(("eth0".to_owned(), false)));
    assert_eq!(
        of("10.77.0.100"),
        Ok(("eth0".to_owned(), true)),
        "where it is"
    );
    let nowhere = "192.0.2.1".parse().unwrap();
    assert_eq!(of("192.0.2.1"), Err(AddressError::NoNetwork(nowhere)));
    let own = AddressError::Foreign {
        address: "10.77.0.5".parse().unwrap(),
        interface: "eth1".to_owned(),
    };
    assert_eq!(of("10.77.0.5"), Err(own));
}

/// Set where this test runs in a network of its own.
const WITHIN: &str = "COPPICE_TEST_OWN_NETWORK";

/// Starts this test again in a network of its own, in which `eth0` has `10.77.0.5/24` and `fd00::5/64`.
fn in_own_network(test: &str) {
    let unshare = || {
        let mut call = std::process::Command::new("unshare");
        call.arg("--net");
        call
    };
    if !unshare().arg("true").status().is_ok_and(|s| s.success()) {
        return crate::skip::skip("no network namespace can be made here");
    }
    let network = "set -e; ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up
        ip address add 10.77.0.5/24 dev eth0; ip address add fd00::5/64 dev eth0 nodad; exec \"$@\"";
    let me = std::env::current_exe().unwrap();
    let mut call = unshare();
    call.args(["sh", "-c", network, "sh"]).arg(me);
    call.args(["--exact", test, "--nocapture"]).env(WITHIN, "1");
    let path = std::env::var("PATH").unwrap_or_default();
    call.env("PATH", format!("/usr/sbin:/sbin:{path}"));
    let output = call.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

async fn has(address: IpAddr) -> bool {
    let interfaces = interfaces(address).await.unwrap();
    place(&interfaces, address).is_ok_and(|place| place.there)
}

#[tokio::test]
async fn the_kernel_ends_a_lease_that_nobody_renews() {
    if std::env::var_os(WITHIN).is_none() {
        return in_own_network(concat!(
            "addresses::linux::tests::",
            "the_kernel_ends_a_lease_that_nobody_renews"
        ));
    }
    for text in ["10.77.0.100", "fd00::100"] {
        let address: IpAddr = text.parse().unwrap();
        let hold = || LinuxAddresses.hold(address, Span::seconds(2));
        assert_eq!(hold().await, Ok(Holding::Taken("eth0".to_owned())));
        assert!(has(address).await);
        hold().await.unwrap();
        LinuxAddresses.release(address).await.unwrap();
        assert!(!has(address).await, "let go at once");
        LinuxAddresses.release(address).await.unwrap();
        hold().await.unwrap();
        while has(address).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let own: IpAddr = "10.77.0.5".parse().unwrap();
    let refused = LinuxAddresses.hold(own, Span::seconds(1)).await;
    let foreign = matches!(refused, Err(AddressError::Foreign { .. }));
    assert!(foreign, "{refused:?}");
    LinuxAddresses.release(own).await.unwrap();
    let kept = interfaces(own).await.unwrap();
    let mut given = kept.iter().flat_map(|i| &i.addr_info);
    assert!(given.any(|g| g.local == Some(own)), "it was let go");
}
