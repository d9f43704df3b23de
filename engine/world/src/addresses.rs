//! The port to the addresses of this machine: the one address of the grid comes and goes with whoever leads.

mod linux;

use std::net::{IpAddr, SocketAddr};

use coppice_schema::units::Span;
use futures::future::BoxFuture;

pub use self::linux::LinuxAddresses;

/// Addresses that this machine has for a while.
///
/// Guarantees of every adapter: an address that was taken goes by itself when its lease is over, also when the
/// process that took it hangs or is gone; one that someone else gave to this machine is never touched; each call can
/// be repeated.
pub trait Addresses: Send + Sync {
    /// Has `address` answer here for `lease` from now on, and tells the neighbours where it is. Called again in time,
    /// it stays. Its network is found by the addresses that the machine has already.
    fn hold(&self, address: IpAddr, lease: Span) -> BoxFuture<'_, Result<Holding, AddressError>>;

    /// Lets it go now, if it was taken by [`hold`](Self::hold).
    fn release(&self, address: IpAddr) -> BoxFuture<'_, Result<(), AddressError>>;
}

/// How an address came to be held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holding {
    /// It was not here before; on this interface it is now.
    Taken(String),
    /// It was here.
    Kept,
}

/// Why an address is not held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing on this machine is in its network.
    #[error(
        "no interface of this machine is in the network of {0}: give this server an address in that network, or \
             choose another `address` in the grid's block"
    )]
    NoNetwork(IpAddr),
    /// This machine has it for good.
    #[error(
        "{address} is an address of this machine itself, on {interface}: the grid's address must be one that no \
             machine has of its own"
    )]
    Foreign {
        /// The address.
        address: IpAddr,
        /// Where it is.
        interface: String,
    },
    /// It is here, and nobody answers on it.
    #[error("nothing can answer at {at}: {why}. Use listen = \"{every}\" in coppice.toml")]
    Silent {
        /// Where the grid is to answer.
        at: SocketAddr,
        /// Why not.
        why: String,
        /// Where a server listens that answers at every address.
        every: SocketAddr,
    },
    /// A program of the system refused, or is not there.
    #[error("{program} failed for {address}: {why}")]
    System {
        /// The program.
        program: &'static str,
        /// The address.
        address: IpAddr,
        /// Why, in its words.
        why: String,
    },
}
