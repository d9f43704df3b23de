//! The one address of the grid: whoever leads has it, for as long as a majority answers.
//!
//! It is held under a lease that the machine itself ends. A leader that hangs, or is cut off, loses the address before or
//! soon after another has taken it; for the moment between, clients go by whom they heard last, and that is the new one:
//! a holder tells the neighbours each time that it renews.

use std::net::IpAddr;
use std::sync::Arc;

use coppice_schema::units::Span;
use coppice_state::{Agreement, Leadership};
use coppice_world::addresses::{Addresses, Holding};
use coppice_world::clock::Clock;

/// How long the machine keeps the address without hearing from us. In whole seconds, as machines count it.
pub const LEASE: Span = Span::seconds(3);
/// Between two renewals, each of which takes up to a second itself.
const RENEW: Span = Span(500);
/// A leader that no majority has answered for so long may have a successor.
const FRESH: Span = Span(1_250);
/// Where it is not held, it is looked that often whether it is to be: costs nothing, and people wait.
const LOOK: Span = Span(250);

/// The address that this server is to have now.
#[must_use]
pub fn wanted(agreement: &dyn Agreement) -> Option<IpAddr> {
    let Leadership::Here { .. } = agreement.leadership() else {
        return None;
    };
    let heard = agreement.standing().majority;
    heard.filter(|ago| *ago <= FRESH)?;
    agreement.local().committed.grid.address
}

/// Takes, keeps and lets go of the grid's address, for ever. On a server that cannot show the portal it is not run.
///
/// Dropping it is safe at any point: the address then goes with its lease.
pub async fn run(
    agreement: Arc<dyn Agreement>,
    addresses: Arc<dyn Addresses>,
    clock: Arc<dyn Clock>,
) {
    let mut held: Option<IpAddr> = None;
    let mut said: Option<String> = None;
    loop {
        let wanted = wanted(agreement.as_ref());
        let trouble = step(addresses.as_ref(), &mut held, wanted).await.err();
        if let Some(trouble) = &trouble
            && said.as_ref() != Some(trouble)
        {
            tracing::warn!(trouble, "the grid's address is not held here");
        }
        said = trouble;
        clock.sleep(if held.is_some() { RENEW } else { LOOK }).await;
    }
}

/// Makes what is held what is wanted.
async fn step(
    addresses: &dyn Addresses,
    held: &mut Option<IpAddr>,
    wanted: Option<IpAddr>,
) -> Result<(), String> {
    if let Some(former) = held.filter(|held| Some(*held) != wanted) {
        addresses.release(former).await.map_err(|e| e.to_string())?;
        tracing::info!(address = %former, "the grid's address is no longer here");
        *held = None;
    }
    let Some(address) = wanted else {
        return Ok(());
    };
    // Remembered before it is there: what was begun may come about, and is to be let go.
    *held = Some(address);
    match addresses.hold(address, LEASE).await {
        Ok(Holding::Taken(interface)) => {
            tracing::info!(%address, interface, "the grid's address is here now");
            Ok(())
        }
        Ok(Holding::Kept) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use coppice_world::addresses::AddressError;
    use futures::FutureExt;
    use futures::future::{BoxFuture, ready};

    use super::*;

    /// A machine, fussier than a real one: an address that is let go was held.
    #[derive(Default)]
    struct Machine {
        held: Mutex<BTreeSet<IpAddr>>,
        broken: Mutex<bool>,
    }

    impl Addresses for Machine {
        fn hold(&self, address: IpAddr, _: Span) -> BoxFuture<'_, Result<Holding, AddressError>> {
            let new = self.held.lock().unwrap().insert(address);
            if *self.broken.lock().unwrap() {
                return ready(Err(AddressError::NoNetwork(address))).boxed();
            }
            let taken = if new {
                Holding::Taken("eth0".to_owned())
            } else {
                Holding::Kept
            };
            ready(Ok(taken)).boxed()
        }

        fn release(&self, address: IpAddr) -> BoxFuture<'_, Result<(), AddressError>> {
            assert!(
                self.held.lock().unwrap().remove(&address),
                "it was not held"
            );
            ready(Ok(())).boxed()
        }
    }

    impl Machine {
        fn step(&self, held: &mut Option<IpAddr>, wanted: Option<IpAddr>) -> Result<(), String> {
            step(self, held, wanted)
                .now_or_never()
                .expect("nothing to wait for")
        }

        fn has(&self) -> Vec<IpAddr> {
            self.held.lock().unwrap().iter().copied().collect()
        }
    }

    #[test]
    fn a_machine_has_at_most_the_address_that_it_is_to_have() {
        let machine = Machine::default();
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let mut held = None;
        machine.step(&mut held, None).unwrap();
        machine.step(&mut held, Some(a)).unwrap();
        machine.step(&mut held, Some(a)).unwrap();
        assert_eq!(machine.has(), [a]);
        machine.step(&mut held, Some(b)).unwrap();
        assert_eq!(machine.has(), [b], "the former one is let go first");
        *machine.broken.lock().unwrap() = true;
        machine.step(&mut held, None).unwrap();
        assert!(machine.step(&mut held, Some(a)).is_err());
        machine.step(&mut held, None).unwrap();
        assert!(machine.has().is_empty(), "what was begun is let go too");
    }
}
