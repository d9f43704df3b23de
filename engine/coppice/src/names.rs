//! Under which names and addresses clients may reach this server: what its certificate says.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coppice_grid::authority::can_be_named;

/// What a server that listens on `listen` is called, beside its own name and what every machine calls itself: what its
/// file says, and where it listens. Listening everywhere, that is all addresses and names of the machine.
pub(crate) fn of(listen: IpAddr, named: &BTreeSet<String>) -> BTreeSet<String> {
    let mut names = named.clone();
    if listen.is_unspecified() {
        // What cannot be read is not there; the names from the file are.
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        names.extend(addresses(
            &read("/proc/net/fib_trie"),
            &read("/proc/net/if_inet6"),
        ));
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_lowercase();
        names.extend(hosts(&host, &read("/etc/hosts")));
    } else {
        names.insert(listen.to_string());
    }
    names
}

/// Where other servers reach one that listens on `listen`: there, or, where that is every address, at the machine's
/// first one.
pub(crate) fn reached_at(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let all = addresses(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"));
    let all = all.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    // IPv4 first: it is there in every network of such servers.
    let first = all.min_by_key(|address| (address.is_ipv6(), *address));
    let first = first.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(first, listen.port()).to_string()
}

/// Takes `HOST:PORT` or `[ADDRESS]:PORT` apart; the host without brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().ok()?.to_string(),
        None if host.contains(':') || !can_be_named(host) => return None,
        None => host.to_owned(),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some((host, port))
}

/// The machine's addresses as the kernel lists them, but for those that mean something only beside an interface.
fn addresses(fib_trie: &str, if_inet6: &str) -> BTreeSet<String> {
    let mut lines = fib_trie.lines().map(str::trim).peekable();
    let mut all = BTreeSet::new();
    while let Some(line) = lines.next() {
        let address = line.strip_prefix("|-- ").map(str::parse::<Ipv4Addr>);
        if let (Some(Ok(address)), Some(&"/32 host LOCAL")) = (address, lines.peek()) {
            all.insert(IpAddr::V4(address));
        }
    }
    for line in if_inet6.lines() {
        let bits = line.split_whitespace().next().unwrap_or_default();
        if let Ok(bits) = u128::from_str_radix(bits, 16) {
            all.insert(IpAddr::V6(Ipv6Addr::from_bits(bits)));
        }
    }
    all.into_iter()
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .map(|address| address.to_string())
        .collect()
}

/// The host's name, and what else `/etc/hosts` calls it, which is where Debian keeps its full name.
fn hosts(host: &str, etc_hosts: &str) -> BTreeSet<String> {
    let lines = etc_hosts.lines().map(|line| {
        let said = line.split('#').next().unwrap_or_default().to_lowercase();
        let names = said.split_whitespace().skip(1).map(str::to_owned);
        names.collect::<Vec<_>>()
    });
    let mine = lines.filter(|names| names.iter().any(|name| name == host));
    mine.flatten()
        .chain([host.to_owned()])
        .filter(|name| can_be_named(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_machines_addresses_are_those_that_others_reach() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        \
                    /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                    /32 host LOCAL\nLocal:\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     fe800000000000000000000000000007 02 40 20 80     eth0\n";
        assert_eq!(addresses(trie, inet6), set(&["10.0.0.5", "2001:db8::7"]));
        assert_eq!(addresses("", ""), set(&[]));
    }

    #[test]
    fn a_hosts_full_name_is_taken_from_the_file_of_hosts() {
        let file = "127.0.0.1 localhost\n127.0.1.1 Host-1.school.example host-1 # mine\n10.0.0.9 other.example other\n";
        let full = set(&["host-1", "host-1.school.example"]);
        assert_eq!(hosts("host-1", file), full);
        assert_eq!(hosts("a_b", ""), set(&[]), "no certificate can carry it");
    }

    #[test]
    fn a_host_and_its_port_are_told_apart_or_refused() {
        let read = |text| host_and_port(text);
        assert_eq!(read("a.example:1"), Some(("a.example".to_owned(), 1)));
        assert_eq!(read("[::1]:7443"), Some(("::1".to_owned(), 7443)));
        for wrong in [
            "a", "a:", "a:0", "::1:7443", "[::1]", "a b:1", ":1", "a:70000",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let listen = |text: &str| reached_at(text.parse().unwrap());
        assert_eq!(listen("10.0.0.5:1"), "10.0.0.5:1");
        assert!(!listen("0.0.0.0:1").starts_with("0.0.0.0"));
    }

    #[test]
    fn one_address_is_no_more_than_itself() {
        let listen = "10.0.0.5".parse().unwrap();
        let names = of(listen, &set(&["desk.example"]));
        assert_eq!(names, set(&["10.0.0.5", "desk.example"]));
        let everywhere = of("0.0.0.0".parse().unwrap(), &set(&["desk.example"]));
        assert!(everywhere.contains("desk.example"));
        assert!(!everywhere.contains("0.0.0.0"));
    }
}
