//! Noticing that the other machine is gone.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Silence for so long, and it is asked whether the peer is there.
const IDLE: Duration = Duration::from_secs(60);
/// Asked again after that long.
const INTERVAL: Duration = Duration::from_secs(10);
/// So many questions without an answer, and the connection has failed.
const PROBES: u32 = 3;

/// Lets a TCP connection fail a minute and a half after its peer vanished without a word: a machine that lost its
/// power or its network says no goodbye, and a stream that only reads would wait for it for ever.
///
/// # Errors
/// When the system refuses.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    Ok(())
}
