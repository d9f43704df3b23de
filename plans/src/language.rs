//! What a configuration says and only the grid can judge.

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::{Certificate, Desired};
use coppice_schema::ids::{Address, SecretName};

use crate::draft::Draft;
use crate::plan::{Finding, FindingKind, Severity};

/// Secrets that the grid does not hold, and moves that this version does not carry out.
pub(crate) fn survey(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    for (address, name) in secrets(desired) {
        if !known.secrets.contains_key(&name) {
            draft.finding(Finding {
                object: address,
                remedy: format!("coppice secret set {name}"),
                kind: FindingKind::SecretAbsent { name },
                severity: Severity::Error,
            });
        }
    }
    for moved in &desired.moved {
        let remedy = if let Address::Pool(_) = &moved.from {
            // Desktops carry their pool's name in their marks, so a pool cannot be called otherwise while it has any.
            "its desktops are regrown under the new name; keep the old one to keep them".to_owned()
        } else if let Address::Image(from) = &moved.from
            && known.images.contains_key(from)
        {
            // Versions go over where there are none yet.
            let (from, to) = (&moved.from, &moved.to);
            format!(
                "{to} has versions of its own: import there what it lacks, and remove those of {from}"
            )
        } else {
            // Nothing but the name is remembered of the others.
            continue;
        };
        draft.finding(Finding {
            object: moved.from.clone(),
            kind: FindingKind::NotCarriedOut {
                path: format!("moved to {}", moved.to),
            },
            severity: Severity::Warning,
            remedy,
        });
    }
}

fn secrets(desired: &Desired) -> BTreeSet<(Address, SecretName)> {
    let mut all = BTreeSet::new();
    if let Some(Certificate::Files { key, .. }) = &desired.grid.certificate {
        all.insert((Address::Grid, key.clone()));
    }
    for (name, directory) in &desired.directories {
        let computers = directory
            .computers
            .as_ref()
            .map(|computers| &computers.bind_password);
        for secret in directory.bind_password.iter().chain(computers) {
            all.insert((Address::Directory(name.clone()), secret.clone()));
        }
    }
    all
}
