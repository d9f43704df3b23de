//! `coppice ca`: the grid's certificate authority, and how another takes over from it.

use std::fmt::Write;

use coppice_portal::api::AuthorityInfo;
use coppice_schema::ids::ServerName;
use coppice_schema::units::Timestamp;
use coppice_state::authority::Step;

use crate::begin;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::terminal::Colours;
use crate::times;
use crate::watch::{PATIENCE, Watch};

/// What can be asked of the authority.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show until when the authority is valid, and how far a change of it is
    #[command(after_long_help = "Examples:\n  coppice ca show\n  coppice ca show --json")]
    Show,
    /// Make a new authority, which takes over while everything goes on
    #[command(
        after_long_help = "First every server comes to trust the new authority beside the old one, then every server gets a \
certificate of the new one, and then the old one is dropped. It needs nobody, and goes on by itself whoever leads or restarts \
meanwhile. A server that is away holds up only the last step; --finish does not wait for it, and it joins again when it is back: \
coppice server rejoin.

Commands with the old ca.pem go on working: servers show them that the old authority vouches for the new one, as long as \
the old one is valid. `coppice ca update` puts the new one into your file; browsers need it at once. Join tokens that were \
made before are good until the old authority is dropped.

Do it well before the authority ends (status and doctor say so), and when its key may be known to somebody: after a server \
that voted was stolen, for one. After that, copy ca.pem from a server by hand, and do not fetch it: whoever has the old key can \
pretend to be the grid to everybody who knows the old authority.

Examples:
  coppice ca rotate
  coppice ca rotate --watch       and show how far it is, until it is done
  coppice ca rotate --finish      do not wait for servers that are away"
    )]
    Rotate {
        /// Drop the old authority without waiting for servers that are away
        #[arg(long)]
        finish: bool,
        /// Show how far it is, until it is done
        #[arg(short, long)]
        watch: bool,
    },
    /// Put the grid's present authority into the file by which you know the grid
    #[command(
        after_long_help = "The file is that of --ca-file, or COPPICE_CA_FILE. The grid is asked as always, so it is known by \
what the file holds now.

Examples:
  coppice ca update"
    )]
    Update,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::Show => {
            let info: AuthorityInfo = client.get("/authority").await?;
            screen.value(&info)?;
            screen.text(&text(&info, settings, times::now(), screen.colours));
        }
        Verb::Rotate { finish, watch } => {
            // Whoever looks on must not miss what happens first.
            let watch = if watch {
                Some(Watch::begin(&client, PATIENCE).await?)
            } else {
                None
            };
            let path = if finish {
                "/authority/finish"
            } else {
                "/authority/rotate"
            };
            let info: AuthorityInfo = client.post(path, &()).await?;
            let Some(mut watch) = watch else {
                screen.value(&info)?;
                screen.text(&text(&info, settings, times::now(), screen.colours));
                return Ok(Exit::Done);
            };
            let mut last = String::new();
            loop {
                let info: AuthorityInfo = watch.get("/authority", screen).await?;
                let told = text(&info, settings, times::now(), screen.colours);
                if told != last {
                    screen.line(&info)?;
                    screen.text(&told);
                    last = told;
                }
                if info.rotation.is_none() {
                    return Ok(Exit::Done);
                }
                watch.wait().await;
            }
        }
        Verb::Update => {
            let info: AuthorityInfo = client.get("/authority").await?;
            let file = settings.ca_file()?;
            let told = coppice_grid::authority::fingerprints(info.certificates.as_bytes());
            if !told.contains(&info.fingerprint) {
                return Err(
                    Failure::new("the grid's answer does not hold its authority")
                        .hint("ask another server: coppice ca update --server HOST"),
                );
            }
            let kept = std::fs::read(file).unwrap_or_default();
            let (done, what) = if kept == info.certificates.as_bytes() {
                ("unchanged", "holds the grid's present authority already")
            } else {
                begin::replace(file, &info.certificates, 0o644)?;
                ("updated", "holds the grid's present authority now")
            };
            screen.done(file.display(), done)?;
            screen.note(&format!("{} {what}", file.display()));
        }
    }
    Ok(Exit::Done)
}

fn text(info: &AuthorityInfo, settings: &Settings, now: Timestamp, colours: Colours) -> String {
    let mut out = format!(
        "authority {} is valid until {} ({})\n",
        info.fingerprint.short(),
        times::absolute(info.expires),
        times::relative(info.expires, now)
    );
    if let Some(rotation) = &info.rotation {
        let step = match rotation.step {
            Step::Trust => "step 1 of 2: every server comes to trust it",
            Step::Show => "step 2 of 2: every server gets a certificate of it",
        };
        let _ = writeln!(
            out,
            "{} takes over, as {} wanted {}\n{step}",
            rotation.new.short(),
            rotation.author,
            times::relative(rotation.begun, now)
        );
        let there: Vec<&ServerName> = rotation
            .waits_for
            .iter()
            .filter(|name| !rotation.away.contains(name))
            .collect();
        if !there.is_empty() {
            let _ = writeln!(out, "waits for {}", list(&there));
        }
        let away: Vec<&ServerName> = rotation.away.iter().collect();
        if !away.is_empty() {
            let told = format!(
                "waits for {}, away: start it, or do not wait: coppice ca rotate --finish",
                list(&away)
            );
            let _ = writeln!(out, "{}", colours.warn(&told));
        }
    }
    if let Some(told) = outdated(info, settings) {
        let _ = writeln!(out, "{}", colours.warn(&told));
    }
    out
}

fn list(names: &[&ServerName]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    names.join(", ")
}

/// That the file by which this machine knows the grid does not hold the authority that signs.
fn outdated(info: &AuthorityInfo, settings: &Settings) -> Option<String> {
    let file = settings.ca_file().ok()?;
    let kept = std::fs::read(file).ok()?;
    let known = coppice_grid::authority::fingerprints(&kept).contains(&info.fingerprint);
    (!known).then(|| {
        format!(
            "{} holds another authority, by which the grid is trusted only for a while: coppice ca update",
            file.display()
        )
    })
}
