//! What would be lost, in words.

use std::fmt::Write;

use super::lines::{moment, plural};
use crate::document::Document;
use crate::lose::Lost;

/// That it is a what-if.
pub(crate) fn what_if(document: &Document) -> Option<String> {
    let servers = document.lost.as_ref()?.servers.iter();
    let servers: Vec<&str> = servers.map(String::as_str).collect();
    Some(format!(
        "What if {} were lost: nothing is done, and such a plan cannot be applied",
        servers.join(" and ")
    ))
}

/// What a loss would come to, a sentence each.
pub(crate) fn lost(lost: &Lost) -> Vec<String> {
    let mut all = Vec::new();
    all.push(match lost.users {
        0 => "nobody is cut off".to_owned(),
        1 => "1 person is cut off".to_owned(),
        users => format!("{users} people are cut off"),
    });
    let desktops = |count: u32| {
        format!(
            "{count} desktop{}",
            plural(usize::try_from(count).unwrap_or(usize::MAX))
        )
    };
    for (name, pool) in &lost.pools {
        let mut parts = Vec::new();
        if pool.pooled > 0 {
            let mut part = format!("loses {}", desktops(pool.pooled));
            let grown: u32 = pool.regrown.values().sum();
            if grown > 0 {
                let each = pool
                    .regrown
                    .iter()
                    .map(|(server, count)| format!("{count} on {server}"));
                let each = each.collect::<Vec<_>>().join(", ");
                let _ = write!(part, ", {grown} grown anew ({each})");
            }
            parts.push(part);
        }
        if let Some(oldest) = pool.oldest_copy {
            let go = if pool.from_copies == 1 { "goes" } else { "go" };
            let personal = desktops(pool.from_copies).replace("desktop", "personal desktop");
            let since = moment(oldest);
            parts.push(format!(
                "{personal} {go} on from copies of {since} or later"
            ));
        }
        let waiting = pool.personal.saturating_sub(pool.from_copies);
        if waiting > 0 {
            let be = if waiting == 1 { "waits" } else { "wait" };
            let personal = desktops(waiting).replace("desktop", "personal desktop");
            parts.push(format!("{personal} {be} for its server to come back"));
        }
        if pool.without_place > 0 {
            let waits: Vec<&str> = pool.waits.iter().map(String::as_str).collect();
            let waits = waits.join("; ");
            parts.push(format!(
                "{} without a place: {waits}",
                desktops(pool.without_place)
            ));
        }
        let users = match pool.users {
            0 => String::new(),
            1 => " (1 person)".to_owned(),
            users => format!(" ({users} people)"),
        };
        all.push(format!("pool.{name}{users}: {}", parts.join("; ")));
    }
    for image in &lost.images {
        all.push(format!("image {image}: no other server has a whole copy"));
    }
    all
}
