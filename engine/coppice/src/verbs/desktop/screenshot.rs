//! `coppice desktop screenshot`: a picture of a desktop's screen.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use hyper::Method;

use crate::client::{self, Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::terminal;

/// A picture to be taken.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Its id, such as lab-001, or its host name
    name: String,
    /// Where the PNG goes; `-` is standard output; without it, DESKTOP.png
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, client: &Client, screen: &Screen) -> Ended {
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(
            Failure::usage("a picture would garble this terminal").hint("name a file: -o FILE")
        );
    }
    let id = super::find(client, &args.name).await?.id;
    let path = format!("/desktops/{}/screenshot", segment(&id.to_string()));
    let taken = client.bytes(Method::GET, &path, client::empty()).await;
    let picture =
        taken.map_err(|e| Failure::from(e).during(format!("cannot see the screen of {id}")))?;
    if to_stdout {
        let mut out = terminal::stdout();
        out.write_all(&picture)
            .and_then(|()| out.flush())
            .map_err(|e| Failure::new("cannot write the picture").because(&e))?;
        return Ok(Exit::Done);
    }
    let file = args
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{id}.png")));
    std::fs::write(&file, &picture).map_err(|e| {
        Failure::new(format!("cannot write the picture to {}", file.display()))
            .because(&e)
            .hint("name another file: -o FILE")
    })?;
    screen.value(&serde_json::json!({ "desktop": id, "file": file, "bytes": picture.len() }))?;
    screen.note(&format!("the screen of {id} is in {}", file.display()));
    Ok(Exit::Done)
}
