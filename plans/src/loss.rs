//! Whether the rest carries all pools when servers are lost: `tolerate_server_loss`.
//!
//! What is promised: with any so many servers lost, every pooled desktop that is wanted has a place on the others, with
//! memory, processors, disk and a copy of its image, beside what those carry already. Personal desktops come back with
//! their server; they count where their pool declares `copies`. A pool whose image is not in the grid yet counts once it is.
//!
//! **It does not say yes wrongly.** First what may be displaced is held against what is left of any other servers, for the
//! worst loss of each kind of desktop at once and with the largest desktop in place of every other: where that is enough, it
//! is so wherever each is put. It takes one look at each server, also for five hundred of which two may be lost. Where it is
//! not enough, the losses are played through as rounds would make up for each, those of alike servers once, and at most
//! `PLAYED` of them: one that leaves a desktop without a place is named.
//!
//! **It says no wrongly** only where (a) a cleverer packing than the rounds' would have room, which the grid would not
//! find either; or (b) there are more unlike losses than `PLAYED`, such as of two of more than 63 servers that all differ, the
//! first look is not enough, and each loss by itself would be carried.

mod model;
mod play;

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, PoolName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::copies::Awaited;
use crate::draft::Draft;
use crate::plan::{Action, Finding, FindingKind, Gate, GateKind, Severity, Verdict};
use model::Model;

/// Losses that are played through one by one: every two of 64 servers. They take milliseconds.
const PLAYED: usize = 2_016;

/// What keeps the rest from carrying a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub struct Shortfall {
    /// The servers lost, by name; none: it is not even carried by all of them.
    pub lost: BTreeSet<String>,
    /// The pool.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// How many of its desktops have no place then, at least.
    pub desktops: u32,
    /// What there is too little of.
    pub scarce: Scarce,
}

/// What there is too little of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scarce {
    /// Copies of its image.
    Copies,
    /// Servers with its labels that can do what it needs.
    Servers,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
    /// Processors.
    Processors,
    /// Slots of the pool.
    Slots,
    /// Not known: too many losses to play each through, and no packing serves all of them.
    Unproven,
}

/// How many servers may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tolerance {
    /// As many as were asked about.
    Held,
    /// So many only; `None`: not even all of the servers carry everything.
    Below(Option<u8>, Shortfall),
}

impl Tolerance {
    /// For comparing: one more than may be lost.
    fn rank(&self, asked: u8) -> u8 {
        match self {
            Self::Held => asked + 1,
            Self::Below(Some(carries), _) => carries + 1,
            Self::Below(None, _) => 0,
        }
    }
}

/// Whether the loss of any `asked` servers is carried once `actions` are done, and `coming` copies of images are there.
pub(crate) fn tolerance(
    desired: &Desired,
    known: &Known,
    actions: &[Action],
    coming: Option<&Awaited>,
    asked: u8,
) -> Tolerance {
    let model = match Model::new(desired, known, actions, coming) {
        Ok(model) => model,
        Err(short) => return Tolerance::Below(None, short),
    };
    let Some(short) = model.carries(asked) else {
        return Tolerance::Held;
    };
    let fewer = (1..asked)
        .rev()
        .find(|fewer| model.carries(*fewer).is_none());
    Tolerance::Below(Some(fewer.unwrap_or(0)), short)
}

/// Says where the promise is broken, and whether a person's plan makes that worse. Rounds are never stopped by it.
///
/// It is thought about only where something is promised, so a grid that promises nothing pays nothing.
pub(crate) fn survey(desired: &Desired, known: &Known, draft: &mut Draft<'_>) -> Option<Gate> {
    let asked = desired.grid.tolerate_server_loss;
    // Of what is not seen nothing can be promised, and what is said then would be gone the next moment.
    if asked == 0 || !draft.complete() {
        return None;
    }
    // A person's plan brings about the copies that it makes; what holds in a round is what is there.
    let edited = *desired != known.committed;
    let coming = Some(&draft.copies).filter(|_| edited);
    let after = tolerance(desired, known, &draft.actions, coming, asked);
    let Tolerance::Below(carries, short) = &after else {
        return None;
    };
    draft.finding(Finding {
        object: Address::Grid,
        kind: FindingKind::LossNotCarried {
            tolerate: asked,
            carries: *carries,
            short: short.clone(),
        },
        severity: Severity::Warning,
        remedy: remedy(short),
    });
    if !edited {
        return None;
    }
    let before = tolerance(&known.committed, known, &[], None, asked);
    (after.rank(asked) < before.rank(asked)).then(|| Gate {
        kind: GateKind::ServerLoss,
        verdict: Verdict::Denied,
        reason: format!(
            "tolerate_server_loss is {asked}, and {}; as it is committed, {}",
            words(*carries, short),
            match before {
                Tolerance::Held => format!("any {} may be lost", servers(asked)),
                Tolerance::Below(carries, _) => standing(carries),
            }
        ),
        objects: BTreeSet::from([Address::Pool(short.pool.clone())]),
    })
}

fn servers(count: u8) -> String {
    if count == 1 {
        "one server".to_owned()
    } else {
        format!("{count} servers")
    }
}

fn standing(carries: Option<u8>) -> String {
    match carries {
        None => "not even all servers carry every desktop".to_owned(),
        Some(0) => "none may be lost".to_owned(),
        Some(carries) => format!("any {} may be lost", servers(carries)),
    }
}

/// What would not be carried, as a sentence.
pub(crate) fn words(carries: Option<u8>, short: &Shortfall) -> String {
    let lost: Vec<&str> = short.lost.iter().map(String::as_str).collect();
    let (pool, desktops) = (&short.pool, short.desktops);
    let be = if desktops == 1 { " has" } else { "s have" };
    let scarce = match short.scarce {
        Scarce::Copies => "for want of a copy of the image",
        Scarce::Servers => "for want of a server that takes them",
        Scarce::Memory => "for want of memory",
        Scarce::Disk => "for want of disk",
        Scarce::Processors => "for want of processors",
        Scarce::Slots => "for want of slots",
        Scarce::Unproven => {
            return format!(
                "it could not be shown that every loss leaves room for all desktops of pool.{pool}; {}",
                standing(carries)
            );
        }
    };
    if lost.is_empty() {
        return format!("{desktops} desktop{be} no place in pool.{pool} as it is, {scarce}");
    }
    format!(
        "without {}, {desktops} desktop{be} no place in pool.{pool}, {scarce}",
        lost.join(" and ")
    )
}

fn remedy(short: &Shortfall) -> String {
    let first = match short.scarce {
        Scarce::Copies => "have its image on more servers (`copies`)",
        Scarce::Servers => "let more servers carry the pool",
        Scarce::Slots => "raise or leave out `slots` of the pool",
        Scarce::Memory | Scarce::Disk | Scarce::Processors | Scarce::Unproven => {
            "add a server, or what is lacking to those that are there"
        }
    };
    format!("{first}, want fewer desktops, or lower tolerate_server_loss")
}
