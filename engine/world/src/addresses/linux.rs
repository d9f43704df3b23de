//! Addresses of a Linux machine, by `ip` of iproute2. The lease is the kernel's: an address with a valid lifetime is
//! removed by the kernel when that is over, whatever has become of us (ip-address(8), `valid_lft`).
//!
//! IPv4 neighbours are told by gratuitous ARP (RFC 5227, part 3), which `arping` of iputils sends; IPv6 neighbours by
//! an unsolicited neighbour advertisement (RFC 4861, part 7.2.6), which we send ourselves.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::process::{Output, Stdio};
use std::time::Duration;

use coppice_schema::units::Span;
use futures::future::{BoxFuture, FutureExt};
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::process::Command;

use super::{AddressError, Addresses, Holding};

/// No call of a program of the system takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of this machine, or of the network namespace that this process is in.
#[derive(Clone, Copy, Default, Debug)]
pub struct LinuxAddresses;

/// An interface as `ip -json address` shows it.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
struct Interface {
    #[serde(default)]
    ifindex: u32,
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Given>,
}

/// An address of an interface.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
struct Given {
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    /// In seconds; `u32::MAX` is for ever.
    #[serde(default)]
    valid_life_time: u32,
}

/// Where an address is, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    ifindex: u32,
    ifname: String,
    /// It is there already.
    there: bool,
}

impl Addresses for LinuxAddresses {
    fn hold(&self, address: IpAddr, lease: Span) -> BoxFuture<'_, Result<Holding, AddressError>> {
        async move {
            let place = place(&interfaces(address).await?, address)?;
            let seconds = lease.0.div_ceil(1_000).max(1).to_string();
            let whole = whole(address);
            let mut words = vec!["address", "replace", &whole, "dev", &place.ifname];
            words.extend(["valid_lft", &seconds, "preferred_lft", &seconds]);
            if address.is_ipv6() {
                // Whoever had it may still answer for a moment: it must not be taken for a duplicate.
                words.push("nodad");
            }
            run("ip", address, &words).await?;
            // Also when it was here: a frame gets lost, and whoever held it before may have answered once more.
            announce(address, &place).await?;
            Ok(if place.there {
                Holding::Kept
            } else {
                Holding::Taken(place.ifname)
            })
        }
        .boxed()
    }

    fn release(&self, address: IpAddr) -> BoxFuture<'_, Result<(), AddressError>> {
        async move {
            let found = place(&interfaces(address).await?, address);
            let Ok(Place {
                ifname,
                there: true,
                ..
            }) = found
            else {
                return Ok(());
            };
            let whole = whole(address);
            let removed = run("ip", address, &["address", "del", &whole, "dev", &ifname]).await;
            match removed {
                // It may have gone by itself meanwhile.
                Err(error) => match place(&interfaces(address).await?, address) {
                    Ok(Place { there: true, .. }) => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                },
                Ok(_) => Ok(()),
            }
        }
        .boxed()
    }
}

/// A network of its own: the machine's routes stay as they are.
fn whole(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("{address}/32"),
        IpAddr::V6(_) => format!("{address}/128"),
    }
}

async fn interfaces(address: IpAddr) -> Result<Vec<Interface>, AddressError> {
    let shown = run("ip", address, &["-json", "address", "show", "up"]).await?;
    serde_json::from_slice(&shown).map_err(|e| AddressError::System {
        program: "ip",
        address,
        why: format!("its answer is not understood: {e}"),
    })
}

/// Where `address` is; otherwise the interface with the narrowest network that it is in.
fn place(interfaces: &[Interface], address: IpAddr) -> Result<Place, AddressError> {
    let given = || {
        let of = |i| move |given| (i, given);
        interfaces
            .iter()
            .flat_map(move |i: &Interface| i.addr_info.iter().map(of(i)))
    };
    let at = |interface: &Interface, there| Place {
        ifindex: interface.ifindex,
        ifname: interface.ifname.clone(),
        there,
    };
    if let Some((interface, given)) = given().find(|(_, g)| g.local == Some(address)) {
        if given.valid_life_time == u32::MAX {
            return Err(AddressError::Foreign {
                address,
                interface: interface.ifname.clone(),
            });
        }
        return Ok(at(interface, true));
    }
    given()
        .filter(|(_, given)| {
            given
                .local
                .is_some_and(|local| same_network(local, address, given.prefixlen))
        })
        .max_by_key(|(interface, given)| (given.prefixlen, std::cmp::Reverse(interface.ifindex)))
        .map(|(interface, _)| at(interface, false))
        .ok_or(AddressError::NoNetwork(address))
}

fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.min(128)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

async fn announce(address: IpAddr, place: &Place) -> Result<(), AddressError> {
    match address {
        IpAddr::V4(v4) => {
            let text = v4.to_string();
            // One frame. arping stays for a second, for answers that never come.
            let words = ["-q", "-U", "-c", "1", "-w", "1", "-I", &place.ifname, &text];
            run("arping", address, &words).await.map(drop)
        }
        IpAddr::V6(v6) => advertise(v6, place.ifindex).map_err(|e| AddressError::System {
            program: "a neighbour advertisement",
            address,
            why: e.to_string(),
        }),
    }
}

/// Where every IPv6 machine of a link listens.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn advertise(address: Ipv6Addr, ifindex: u32) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(ifindex)?;
    // Others are ignored by whoever hears it.
    socket.set_multicast_hops_v6(255)?;
    socket.bind(&SocketAddrV6::new(address, 0, 0, ifindex).into())?;
    // Type 136, code 0, checksum (the kernel's work), flags: override; then the address. The kernel of whoever hears it takes
    // the link's address from the frame.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    socket.send_to(
        &message,
        &SocketAddrV6::new(ALL_NODES, 0, 0, ifindex).into(),
    )?;
    Ok(())
}

async fn run(
    program: &'static str,
    address: IpAddr,
    words: &[&str],
) -> Result<Vec<u8>, AddressError> {
    let failed = |why: String| AddressError::System {
        program,
        address,
        why,
    };
    let call = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        // Debian keeps both where ordinary users do not look.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output: Output = match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            let package = if program == "ip" {
                "iproute2"
            } else {
                "iputils-arping"
            };
            return Err(failed(format!(
                "it is not installed: apt-get install {package}"
            )));
        }
        Ok(Err(e)) => return Err(failed(e.to_string())),
        Err(_) => return Err(failed(format!("nothing within {PATIENCE:?}"))),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().next().unwrap_or("it said nothing").trim();
        return Err(failed(format!("{words} ({})", output.status)));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests;
