//! Findings as sentences.

use coppice_schema::known::Skew;
use coppice_schema::units::Timestamp;

use super::lines::moment;
use crate::plan::FindingKind;

/// A finding as a sentence.
#[must_use]
pub fn finding(kind: &FindingKind) -> String {
    match kind {
        FindingKind::ImageAbsent {
            version: Some(version),
        } => format!("version {version} is not in the grid"),
        FindingKind::ImageAbsent { version: None } => "no version of it is in the grid".to_owned(),
        FindingKind::ImageDigest { wanted, held } => {
            format!(
                "the grid holds other bytes ({}) than the configuration names ({})",
                held.short(),
                wanted.short()
            )
        }
        FindingKind::SourceNotHere { path } => format!("source not here: {path}"),
        FindingKind::DiskTooSmall { disk, image } => {
            format!("disk is {disk}, smaller than the image's {image}")
        }
        FindingKind::NoRoom { desktops, lacking } => {
            format!("no room for {}: {lacking}", count(*desktops))
        }
        FindingKind::HypervisorAway { error } => format!("its hypervisor does not answer: {error}"),
        FindingKind::NotSeen => "it was not seen whole".to_owned(),
        FindingKind::DiskFilling { percent } => format!("its disk is more than {percent} % full"),
        FindingKind::NameTaken { server, domain } => {
            format!("a domain that is not ours is called {domain} on {server}")
        }
        FindingKind::Stray { member } => {
            format!("{member} carries our mark, and the grid does not know it")
        }
        FindingKind::NoMajority => {
            "no majority of the voters answers: desktops run on, and nothing can be changed".to_owned()
        }
        FindingKind::AuthorityEnds { at } => format!(
            "the grid's certificate authority is valid until {}: after that no server and no client trusts another",
            moment(*at)
        ),
        FindingKind::AuthorityChanges { waits_for } if waits_for.is_empty() => {
            "a new certificate authority takes over".to_owned()
        }
        FindingKind::AuthorityChanges { waits_for } => format!(
            "a new certificate authority takes over, and waits for {}",
            waits_for.join(", ")
        ),
        FindingKind::FormerLife { epoch } => {
            format!("is of life {epoch} of the grid, which goes on without it until it joins again")
        }
        FindingKind::LeftBehind { epoch } => {
            format!("is of life {epoch} of the grid, which goes on without this server until it joins again")
        }
        FindingKind::Split { epoch } => {
            format!("went on alone, as this side did: its life {epoch} of the grid began apart from this one's")
        }
        FindingKind::Foreign { count } => {
            format!(
                "{count} domain{} not ours",
                if *count == 1 { " is" } else { "s are" }
            )
        }
        FindingKind::ImageWithoutBlock { versions: 1 } => {
            "its block goes; the version of it stays in the grid".to_owned()
        }
        FindingKind::ImageWithoutBlock { versions } => {
            format!("its block goes; the {versions} versions of it stay in the grid")
        }
        FindingKind::ImageLost { version } => {
            let version = version
                .as_ref()
                .map(|version| format!(" of {version}"))
                .unwrap_or_default();
            format!("no sound copy{version} is left")
        }
        FindingKind::OrderFailing {
            what,
            error,
            attempts,
        } => {
            format!("{what} failed {attempts} times; last: {error}")
        }
        FindingKind::Contended { path } => format!("{path} keeps being changed back"),
        FindingKind::RolloutStopped { failures } => {
            format!("its roll-out stopped: {failures} failed")
        }
        FindingKind::RolledBack { from, to, failures } => {
            format!(
                "its roll-out of {from} stopped: {failures} did not become ready, and went back to {to}"
            )
        }
        FindingKind::SecretAbsent { name } => format!("secret {name} is not in the grid"),
        FindingKind::NotCarriedOut { path } => {
            format!("{path}: known, not carried out by this version")
        }
        FindingKind::Unreviewed { actions } => format!(
            "{actions} action{} {} not in the plan that was applied, and wait{} for approval",
            if *actions == 1 { "" } else { "s" },
            if *actions == 1 { "was" } else { "were" },
            if *actions == 1 { "s" } else { "" },
        ),
        FindingKind::KeptUntended => {
            "is protected, and therefore kept, but not looked after: no revision that is remembered wants its desktops"
                .to_owned()
        }
        FindingKind::TemplateAbsent { template } => {
            format!("is left alone, for template.{template} is not in the configuration")
        }
        FindingKind::KeptProtected => "is protected, and therefore kept".to_owned(),
        FindingKind::Outdated { paths } => format!(
            "differs from its template until a person regrows it: {}",
            paths.join(", ")
        ),
        FindingKind::KeptPersonal => {
            "was grown as somebody's own, and is kept as that until a person regrows it".to_owned()
        }
        FindingKind::OverLimit { limit } => {
            let limit = limit.map(|size| format!(" of {size}")).unwrap_or_default();
            format!("its disk is beyond its limit{limit}, and holds somebody's data")
        }
        FindingKind::PendingBoot => {
            "runs with older hardware than it is defined with, until it is restarted".to_owned()
        }
        FindingKind::Uneven { from, to } => {
            format!("desktops of {from} would be better off on {to}")
        }
        FindingKind::Broken { why } => why.clone(),
        FindingKind::Quarantined {
            member,
            server,
            epoch,
            runs,
        } => {
            let is = match runs {
                Some(true) => "it runs",
                Some(false) => "it is off",
                None => "its disk alone is there",
            };
            format!(
                "{member} on {server} is from life {epoch} of the grid, which goes on without it; {is}"
            )
        }
        FindingKind::NoRoomForImage {
            image,
            needed,
            left,
        } => format!(
            "no room for image {image}: it takes {}, and {} are left for images",
            needed.rounded(),
            left.rounded()
        ),
        FindingKind::TooFewServers { copies, servers } => {
            format!("{copies} copies are wanted, and {servers} servers can hold one")
        }
        FindingKind::LossNotCarried {
            tolerate,
            carries,
            short,
        } => format!(
            "tolerate_server_loss = {tolerate} does not hold: {}",
            crate::loss::words(*carries, short)
        ),
        FindingKind::ServerLost {
            since,
            pooled,
            personal,
            copied,
            used,
        } => lost(*since, *pooled, (*personal, *copied), *used),
        FindingKind::ServerBack {
            since,
            desktops,
            used,
        } => format!(
            "it is back since {}, and what is too much there is being put away: it has {}, people are in {used}",
            moment(*since),
            count(*desktops)
        ),
        FindingKind::Draining {
            pooled,
            used,
            personal,
            stuck,
        } => draining(*pooled, *used, *personal, stuck.as_deref()),
        FindingKind::Drained => "it is empty: no desktop is left there".to_owned(),
        FindingKind::ClockWrong { skew } => {
            let place = match skew {
                Skew::Ahead => "ahead of",
                Skew::Behind => "behind",
            };
            format!("its clock is more than a few seconds {place} the others': the grid goes by theirs")
        }
        FindingKind::AwaitsServer {
            server,
            since,
            copy: None,
        } => format!(
            "its disk is on server {server}, which is lost since {}: it comes back with it",
            moment(*since)
        ),
        FindingKind::AwaitsServer {
            server,
            since,
            copy: Some(taken),
        } => format!(
            "its disk is on server {server}, which is lost since {}; there is a copy of {}",
            moment(*since),
            moment(*taken)
        ),
        FindingKind::Superseded { member, server } => format!(
            "its former life {member} is still on {server}, with what was written there after the present one began or its copy was made"
        ),
        FindingKind::TooFewHolders { copies, servers } => {
            format!("{copies} copies of it are wanted, and {servers} servers can hold one")
        }
        FindingKind::Unguarded { desktops: 1 } => {
            "a personal desktop with copies runs there without the watchdog".to_owned()
        }
        FindingKind::Unguarded { desktops } => {
            format!("{desktops} personal desktops with copies run there without the watchdog")
        }
        FindingKind::CopyOld { taken, max_age } => match taken {
            Some(taken) => format!(
                "its last copy is of {}, and may be {max_age} old at most",
                moment(*taken)
            ),
            None => format!("there is no copy of it yet, and one may be {max_age} old at most"),
        },
        FindingKind::Halfway { from, to } => format!(
            "it was on its way from {from} to {to} when the grid went on without {to}, and may go on there: on {from} it is left as it is"
        ),
        FindingKind::Stays {
            server,
            to: Some(to),
            why,
            attempts,
        } => {
            let often = match attempts {
                1 => String::new(),
                more => format!(" ({more} times)"),
            };
            format!("it did not get to {to}{often}, and runs on {server} as before: {why}")
        }
        FindingKind::Stays {
            server,
            to: None,
            why,
            ..
        } => format!("it cannot leave {server} while it runs, for no server takes it: {why}"),
    }
}

fn count(desktops: u32) -> String {
    match desktops {
        1 => "1 desktop".to_owned(),
        some => format!("{some} desktops"),
    }
}

fn lost(since: Timestamp, pooled: u32, (personal, copied): (u32, u32), used: u32) -> String {
    let mut parts = vec![format!("it is lost since {}", moment(since))];
    match pooled {
        0 => {}
        1 => parts.push("another is grown in place of its pooled desktop".to_owned()),
        some => parts.push(format!(
            "others are grown in place of its {some} pooled desktops"
        )),
    }
    match personal {
        0 => {}
        1 => parts.push("a personal one waits for it".to_owned()),
        some => parts.push(format!("{some} personal ones wait for it")),
    }
    match copied {
        0 => {}
        1 => parts.push("a personal one goes on from a copy".to_owned()),
        some => parts.push(format!("{some} personal ones go on from copies")),
    }
    if used > 0 {
        parts.push(format!("people were in {used} of them"));
    }
    if pooled + personal + copied == 0 {
        parts.push("no desktop was there".to_owned());
    }
    parts.join("; ")
}

fn draining(pooled: u32, used: u32, personal: u32, stuck: Option<&str>) -> String {
    let mut text = "it is being emptied: ".to_owned();
    text.push_str(&match (pooled, used) {
        (pooled, 0) => format!("{pooled} pooled"),
        (pooled, used) => format!("{pooled} pooled ({used} in use)"),
    });
    text.push_str(&format!(" and {personal} personal are left"));
    if let Some(why) = stuck {
        text.push_str(&format!("; it does not go on: {why}"));
    }
    text
}
