//! `coppice pause` and `coppice resume`: hands off, and on again.

use coppice_portal::api::{Pause, PauseRequest};
use coppice_schema::ids::Address;
use coppice_schema::units::Span;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::Table;
use crate::times;

/// Leave something alone until told otherwise: nothing is created, changed, repaired or removed there
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice pause                            what is paused now
  coppice pause pool.lab                   until `coppice resume pool.lab`
  coppice pause desktop.lab-007 --for 2h   while you look at it")]
pub(crate) struct PauseArgs {
    /// What: pool.lab, desktop.lab-007, server.host-1 or grid; nothing: show what is paused
    address: Option<Address>,
    /// For how long: 30m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = times::parse_length, requires = "address")]
    length: Option<Span>,
}

/// Act on something again
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  coppice resume pool.lab")]
pub(crate) struct ResumeArgs {
    /// What was paused
    address: Address,
}

pub(crate) async fn pause(args: PauseArgs, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let Some(address) = args.address else {
        let pauses: Vec<Pause> = client.get("/pauses").await?;
        screen.value(&pauses)?;
        let mut table = Table::new(&["paused", "until"]);
        for pause in &pauses {
            let until = pause.until.map_or("resumed".to_owned(), times::absolute);
            table.row([pause.address.to_string().into(), until.into()]);
        }
        screen.text(&table.render(screen.colours));
        return Ok(Exit::Done);
    };
    let request = PauseRequest {
        address,
        until: args.length.map(|length| times::now().after(length)),
    };
    let pause: Pause = client.post("/pauses", &request).await?;
    screen.value(&pause)?;
    let until = match pause.until {
        None => "until it is resumed".to_owned(),
        Some(at) => format!("until {}", times::absolute(at)),
    };
    screen.note(&format!("{} is left alone {until}", pause.address));
    Ok(Exit::Done)
}

pub(crate) async fn resume(args: ResumeArgs, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let path = format!("/pauses/{}", segment(&args.address.to_string()));
    client.act(Method::DELETE, &path).await?;
    screen.done(&args.address, "resumed")?;
    screen.note(&format!("{} is acted on again", args.address));
    Ok(Exit::Done)
}
