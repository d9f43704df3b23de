//! A desktop's display as a stream of bytes.

use bytes::Bytes;
use coppice_portal::api::{DisplayChoice, PREFIX};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Client, ClientError, connect, error, segment};

/// An open display.
pub(crate) struct Console(WebSocketStream<TlsStream<TcpStream>>);

impl Client {
    /// Opens a desktop's display.
    pub(crate) async fn console(
        &self,
        desktop: &str,
        display: DisplayChoice,
    ) -> Result<Console, ClientError> {
        let word = match display {
            DisplayChoice::Vnc => "vnc",
            DisplayChoice::Spice => "spice",
        };
        let url = format!(
            "wss://{}{PREFIX}/desktops/{}/console?display={word}",
            self.target.authority(),
            segment(desktop)
        );
        let unreadable = |e: &dyn std::error::Error| ClientError::Answer {
            what: format!("open the display of {desktop}"),
            cause: error::chain(e),
        };
        let mut request = url.into_client_request().map_err(|e| unreadable(&e))?;
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}")
                .parse()
                .map_err(|e| unreadable(&e))?;
            request
                .headers_mut()
                .insert(hyper::header::AUTHORIZATION, value);
        }
        let stream = connect::connect(&self.target, self.tls.clone(), self.timeout).await?;
        let shaking = tokio_tungstenite::client_async(request, stream);
        match self.in_time(async { Ok(shaking.await) }).await? {
            Ok((socket, _)) => Ok(Console(socket)),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(match serde_json::from_slice(body) {
                    Ok(problem) => ClientError::Problem(Box::new(problem)),
                    Err(_) => ClientError::Answer {
                        what: format!("open the display of {desktop}"),
                        cause: format!("status {}", response.status()),
                    },
                })
            }
            Err(e) => Err(unreadable(&e)),
        }
    }
}

impl Console {
    /// Passes bytes both ways until one side has enough. The reason is given where it is not a plain end.
    pub(crate) async fn bridge(self, viewer: impl AsyncRead + AsyncWrite) -> Result<(), String> {
        let (mut from_viewer, mut to_viewer) = tokio::io::split(viewer);
        let (mut to_desktop, mut from_desktop) = self.0.split();
        let up = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let n = from_viewer
                    .read(&mut buffer)
                    .await
                    .map_err(|e| e.to_string())?;
                if n == 0 {
                    let _ = to_desktop.close().await;
                    return Ok(());
                }
                let bytes = Bytes::copy_from_slice(&buffer[..n]);
                to_desktop
                    .send(Message::Binary(bytes))
                    .await
                    .map_err(|e| e.to_string())?;
            }
        };
        let down = async {
            while let Some(message) = from_desktop.next().await {
                match message.map_err(|e| e.to_string())? {
                    Message::Binary(bytes) => to_viewer
                        .write_all(&bytes)
                        .await
                        .map_err(|e| e.to_string())?,
                    Message::Close(Some(frame)) if !frame.reason.is_empty() => {
                        return Err(frame.reason.to_string());
                    }
                    Message::Close(_) => break,
                    Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            }
            let _ = to_viewer.shutdown().await;
            Ok(())
        };
        tokio::select! {
            ended = up => ended,
            ended = down => ended,
        }
    }
}
