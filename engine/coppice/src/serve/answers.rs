//! The grid's address, where this server listens on one address of its own only: it answers on the grid's, too, as long as
//! that is here. Otherwise whoever leads would take it, and refuse everybody who comes to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use coppice_portal::Also;
use coppice_schema::units::Span;
use coppice_world::addresses::{AddressError, Addresses, Holding};
use futures::future::{BoxFuture, FutureExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Addresses on each of which this server answers when it is here.
pub(super) struct Answering<A> {
    addresses: A,
    /// Where it answers always.
    listens: SocketAddr,
    open: watch::Sender<Option<Arc<TcpListener>>>,
}

impl<A: Addresses> Answering<A> {
    /// And the socket on which it answers beside its own, for as long as that is to be.
    pub(super) fn new(addresses: A, listens: SocketAddr) -> (Self, Also) {
        let (open, also) = watch::channel(None);
        let this = Self {
            addresses,
            listens,
            open,
        };
        (this, also)
    }

    /// Whether it answers there anyway.
    fn covers(&self, address: IpAddr) -> bool {
        let own = self.listens.ip();
        // What listens on all addresses of IPv6 is given by the system what comes to those of IPv4, too.
        let all = own.is_unspecified() && (own.is_ipv6() || address.is_ipv4());
        all || own == address
    }

    async fn answer(&self, address: IpAddr) -> Result<(), AddressError> {
        let at = SocketAddr::new(address, self.listens.port());
        let open = self.open.borrow().clone();
        let there = open.and_then(|listener| listener.local_addr().ok());
        if self.covers(address) || there == Some(at) {
            return Ok(());
        }
        let listener = TcpListener::bind(at).await.map_err(|error| {
            let every = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            AddressError::Silent {
                at,
                why: error.to_string(),
                every: SocketAddr::new(every, self.listens.port()),
            }
        })?;
        self.open.send_replace(Some(Arc::new(listener)));
        Ok(())
    }
}

impl<A: Addresses> Addresses for Answering<A> {
    fn hold(&self, address: IpAddr, lease: Span) -> BoxFuture<'_, Result<Holding, AddressError>> {
        async move {
            let holding = self.addresses.hold(address, lease).await?;
            self.answer(address).await?;
            Ok(holding)
        }
        .boxed()
    }

    fn release(&self, address: IpAddr) -> BoxFuture<'_, Result<(), AddressError>> {
        async move {
            self.open.send_replace(None);
            self.addresses.release(address).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::ready;

    use super::*;

    /// A machine that has all addresses, as one has those of its loopback.
    struct Every;

    impl Addresses for Every {
        fn hold(&self, _: IpAddr, _: Span) -> BoxFuture<'_, Result<Holding, AddressError>> {
            ready(Ok(Holding::Kept)).boxed()
        }

        fn release(&self, _: IpAddr) -> BoxFuture<'_, Result<(), AddressError>> {
            ready(Ok(())).boxed()
        }
    }

    /// Where it answers beside its own address.
    fn there(also: &Also) -> Option<SocketAddr> {
        let open = also.borrow().clone()?;
        Some(open.local_addr().unwrap())
    }

    #[tokio::test]
    async fn the_grids_address_is_answered_as_long_as_it_is_held() {
        let grid: IpAddr = "127.9.9.9".parse().unwrap();
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = own.local_addr().unwrap();
        let (addresses, also) = Answering::new(Every, listens);
        assert_eq!(there(&also), None);
        // Held again and again, it is one socket.
        for _ in 0..2 {
            addresses.hold(grid, Span::seconds(3)).await.unwrap();
            assert_eq!(there(&also), Some(SocketAddr::new(grid, listens.port())));
        }
        addresses.release(grid).await.unwrap();
        assert_eq!(there(&also), None);
        // Somebody else has the port there.
        let other = TcpListener::bind((grid, listens.port())).await.unwrap();
        let silent = addresses.hold(grid, Span::seconds(3)).await;
        let said = silent.unwrap_err().to_string();
        assert!(
            said.contains(&format!("0.0.0.0:{}", listens.port())),
            "{said}"
        );
        drop(other);
        addresses.hold(grid, Span::seconds(3)).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_listens_on_all_addresses_opens_nothing_more() {
        let (four, six) = ("127.9.9.8".parse().unwrap(), "::1".parse().unwrap());
        for (listens, address) in [
            ("0.0.0.0:7443", four),
            ("[::]:7443", four),
            ("[::]:7443", six),
        ] {
            let (addresses, also) = Answering::new(Every, listens.parse().unwrap());
            addresses.hold(address, Span::seconds(3)).await.unwrap();
            assert_eq!(there(&also), None, "{listens} {address}");
        }
    }
}
