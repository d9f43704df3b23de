//! A domain's screen: a stream to its display, and a picture.

use coppice_schema::desired::Display;
use coppice_schema::known::PowerState;
use tokio::net::UnixStream;
use tokio_util::compat::TokioAsyncReadCompatExt;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::stream::Stream;
use virt::sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH;

use super::gate::Way;
use super::picture::to_png;
use super::{Libvirt, ffi};
use crate::hypervisor::{ByteStream, HypervisorError};

/// Largest picture taken from a hypervisor, in bytes: 8192 × 8192 points without compression.
const LARGEST: usize = 8192 * 8192 * 3 + 64;

impl Libvirt {
    pub(super) async fn open_console(
        &self,
        uuid: Uuid,
        display: Display,
    ) -> Result<ByteStream, HypervisorError> {
        let live = self.live("open a console of", uuid).await?;
        let no_display = || HypervisorError::NoDisplay {
            domain: uuid.to_string(),
            display,
        };
        if !live.hardware.displays.contains(&display) || display == Display::Rdp {
            return Err(no_display());
        }
        let refused = |cause: String| HypervisorError::Refused {
            what: "open a console of",
            domain: uuid.to_string(),
            cause,
        };
        let Some((_, path)) = live.sockets.iter().find(|(kind, _)| *kind == display) else {
            return Err(refused(
                "it is not running, or has no socket for this display".to_owned(),
            ));
        };
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::pin(stream.compat())),
            // Its directory may be closed to us, or be in another mount namespace: libvirt can reach it.
            Err(at_path) => {
                let index = live
                    .sockets
                    .iter()
                    .position(|(kind, _)| *kind == display)
                    .unwrap_or(0);
                let stream = self.graphics(uuid, index).await.map_err(|error| {
                    tracing::debug!(%uuid, %error, "libvirt does not open the display either");
                    refused(format!("{}: {at_path}", path.display()))
                })?;
                Ok(Box::pin(stream.compat()))
            }
        }
    }

    async fn graphics(&self, uuid: Uuid, index: usize) -> Result<UnixStream, HypervisorError> {
        let index = u32::try_from(index).unwrap_or(0);
        let descriptor = self
            .ask_domain("open a console of", uuid, move |_, domain| {
                domain.open_graphics_fd(index, VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
            })
            .await?;
        let refused = |cause: String| HypervisorError::Refused {
            what: "open a console of",
            domain: uuid.to_string(),
            cause,
        };
        let descriptor =
            ffi::adopt(descriptor).ok_or_else(|| refused("no descriptor came".to_owned()))?;
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(|error| refused(error.to_string()))
    }

    pub(super) async fn picture(&self, uuid: Uuid) -> Result<Vec<u8>, HypervisorError> {
        let shared = self.shared.clone();
        let bytes = self
            .ask_domain(
                "take a picture of",
                uuid,
                move |connection, domain| match shared.looker().power(
                    domain,
                    &domain.name()?,
                    uuid,
                )? {
                    PowerState::Running { .. } | PowerState::Paused(_) => {
                        take(connection, domain).map(Some)
                    }
                    PowerState::Off | PowerState::Crashed => Ok(None),
                },
            )
            .await?;
        let refused = |cause: String| HypervisorError::Refused {
            what: "take a picture of",
            domain: uuid.to_string(),
            cause,
        };
        let bytes = bytes.ok_or_else(|| refused("it is not running".to_owned()))?;
        to_png(bytes).map_err(|error| refused(error.to_string()))
    }

    /// A call that the guest can hold up, and that changes nothing.
    async fn ask_domain<T: Send + 'static>(
        &self,
        what: &'static str,
        uuid: Uuid,
        work: impl FnOnce(&Connect, &Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        self.through(
            Way::Ask,
            what,
            uuid,
            self.shared.limits.ask,
            move |shared| {
                let (connection, domain) = shared.link.domain(what, uuid)?;
                work(&connection, &domain).map_err(|error| shared.link.failed(what, uuid, &error))
            },
        )
        .await
    }
}

fn take(connection: &Connect, domain: &Domain) -> Result<Vec<u8>, Error> {
    let stream = Stream::new(connection, 0)?;
    domain.screenshot(&stream, 0, 0)?;
    let mut picture = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        let count = usize::try_from(stream.recv(&mut part)?).unwrap_or(0);
        if count == 0 || picture.len() > LARGEST {
            break;
        }
        picture.extend_from_slice(&part[..count]);
    }
    stream.finish()?;
    Ok(picture)
}
