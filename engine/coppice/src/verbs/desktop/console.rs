//! `coppice desktop console`: a port on this machine that is the desktop's display.

use std::net::Ipv4Addr;

use coppice_portal::api::DisplayChoice;
use tokio::net::{TcpListener, TcpStream};

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;

/// A display to be opened.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Its id, such as lab-001, or its host name
    name: String,
    /// Which display
    #[arg(long, value_enum, default_value_t)]
    display: Choice,
    /// The port on this machine; without it, the first free one from 5900
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Choice {
    /// For any VNC viewer
    #[default]
    Vnc,
    /// For remote-viewer and its like
    Spice,
}

pub(crate) async fn run(args: Args, client: &Client, screen: &Screen) -> Ended {
    let desktop = super::find(client, &args.name).await?.id.to_string();
    let (display, viewer, scheme) = match args.display {
        Choice::Vnc => (DisplayChoice::Vnc, "VNC", ""),
        Choice::Spice => (DisplayChoice::Spice, "SPICE", "spice://"),
    };
    // Whatever stands in the way is told now, not when a viewer fails to show anything.
    let tried = client.console(&desktop, display).await;
    drop(
        tried.map_err(|e| {
            Failure::from(e).during(format!("cannot open the display of {desktop}"))
        })?,
    );
    let listener = listen(args.port).await?;
    let address = listener
        .local_addr()
        .map_err(|e| Failure::new("cannot listen on this machine").because(&e))?;
    screen.value(&serde_json::json!({ "desktop": desktop, "listen": address.to_string() }))?;
    screen.text(&format!(
        "{desktop}: point any {viewer} viewer to {scheme}{address}; Ctrl-C ends this\n"
    ));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (viewer, from) = accepted.map_err(|e| Failure::new(format!("cannot accept a viewer on {address}")).because(&e))?;
                tokio::spawn(serve(client.clone(), desktop.clone(), display, viewer, from.port()));
            }
            _ = tokio::signal::ctrl_c() => {
                screen.note("closed; the desktop runs on");
                return Ok(Exit::Interrupted);
            }
        }
    }
}

async fn listen(port: Option<u16>) -> Result<TcpListener, Failure> {
    let failed = |port: u16, e: std::io::Error| {
        Failure::new(format!("cannot listen on 127.0.0.1:{port}"))
            .because(&e)
            .hint("another port: --port 0 takes any free one")
    };
    if let Some(port) = port {
        return TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .map_err(|e| failed(port, e));
    }
    for port in 5900..6000 {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(failed(port, e)),
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|e| failed(0, e))
}

/// One viewer, from its first byte to its last.
async fn serve(
    client: Client,
    desktop: String,
    display: DisplayChoice,
    viewer: TcpStream,
    port: u16,
) {
    let _ = viewer.set_nodelay(true);
    let ended = match client.console(&desktop, display).await {
        Ok(console) => console.bridge(viewer).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(cause) = ended {
        let text = format!("the viewer at port {port} lost {desktop}: {cause}\n");
        let _ = std::io::Write::write_all(&mut crate::terminal::stderr(), text.as_bytes());
    }
}
