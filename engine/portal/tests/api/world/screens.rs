//! A hypervisor of which only screens are asked.

use std::sync::Mutex;

use coppice_schema::desired::Display;
use coppice_schema::known::{Capacity, GuestState};
use coppice_schema::units::Span;
use coppice_world::hypervisor::{ByteStream, Definition, Domain, Hypervisor, HypervisorError};
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::BoxStream;
use tokio_util::compat::TokioAsyncReadCompatExt;
use uuid::Uuid;

/// A hypervisor of which only screens are asked. Its VNC displays say what they are told, in capitals.
#[derive(Default)]
pub(crate) struct Screens(pub(crate) Mutex<Vec<Uuid>>);

impl Screens {
    fn known(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let known = self.0.lock().unwrap().contains(&uuid);
        if known {
            Ok(())
        } else {
            Err(HypervisorError::Absent(uuid))
        }
    }
}

macro_rules! nobody_asks {
    ($($call:ident($($name:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        fn $call<'a>(&'a self, $($name: $kind),*) -> BoxFuture<'a, Result<$answer, HypervisorError>> {
            $(let _ = $name;)*
            panic!("the portal has no business with {}", stringify!($call))
        }
    )*};
}

impl Hypervisor for Screens {
    nobody_asks! {
        capacity() -> Capacity;
        list() -> Vec<Domain>;
        start(uuid: Uuid) -> ();
        stop(uuid: Uuid, patience: Span) -> ();
        power_off(uuid: Uuid) -> ();
        undefine(uuid: Uuid) -> ();
        ask_guest(uuid: Uuid) -> GuestState;
    }

    fn define<'a>(&'a self, _: &'a Definition) -> BoxFuture<'a, Result<(), HypervisorError>> {
        panic!("the portal has no business with define")
    }

    fn console(
        &self,
        uuid: Uuid,
        display: Display,
    ) -> BoxFuture<'_, Result<ByteStream, HypervisorError>> {
        async move {
            self.known(uuid)?;
            if display != Display::Vnc {
                let domain = uuid.to_string();
                return Err(HypervisorError::NoDisplay { domain, display });
            }
            let (ours, theirs) = tokio::io::duplex(1 << 12);
            tokio::spawn(shout(theirs));
            Ok(Box::pin(ours.compat()) as ByteStream)
        }
        .boxed()
    }

    fn screenshot(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<u8>, HypervisorError>> {
        ready(self.known(uuid).map(|()| b"\x89PNG and so on".to_vec())).boxed()
    }

    fn watch(&self) -> BoxStream<'static, ()> {
        panic!("the portal has no business with watch")
    }
}

async fn shout(stream: tokio::io::DuplexStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut from, mut to) = tokio::io::split(stream);
    to.write_all(b"RFB 003.008\n").await.unwrap();
    let mut chunk = [0; 512];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if to
            .write_all(&chunk[..n].to_ascii_uppercase())
            .await
            .is_err()
        {
            break;
        }
    }
}
