//! Who else is spoken to on the API's port.

use std::sync::Arc;

use coppice_world::hypervisor::ByteStream;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

/// Takes the connections that are not for the API: whoever connects says in the TLS handshake what it speaks. One port
/// is enough for everything, and clients of the API are asked for nothing that they do not have.
pub trait Beside: Send + Sync {
    /// What it speaks, as it is called in the handshake (ALPN).
    fn protocol(&self) -> &'static str;

    /// What the handshake is made with.
    fn tls(&self) -> Arc<ServerConfig>;

    /// Serves one connection to its end. `shown` are the certificates that were accepted in the handshake.
    fn serve(
        &self,
        shown: Vec<CertificateDer<'static>>,
        stream: ByteStream,
    ) -> BoxFuture<'static, ()>;
}
