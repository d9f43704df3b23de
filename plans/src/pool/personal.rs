//! What a personal desktop does not get by itself, because its disk is somebody's: said, so that a person can decide.

use coppice_schema::ids::DesktopId;
use coppice_schema::known::{DesktopSpec, KnownDesktop};

use super::Yard;
use super::fate::seen;
use super::power;
use crate::draft::Draft;
use crate::images::Published;
use crate::plan::{Applies, Finding, FindingKind, Severity};
use crate::specs;

/// `wanted`, as far as the desktop can take it on without being regrown.
pub(crate) fn living(desktop: &KnownDesktop, wanted: DesktopSpec) -> DesktopSpec {
    let present = desktop.spec.clone();
    let mut hardware = wanted.hardware;
    hardware.disk = present.hardware.disk;
    hardware.firmware = present.hardware.firmware;
    hardware.networks = present.hardware.networks;
    hardware.os = present.hardware.os;
    hardware.agent = present.hardware.agent;
    DesktopSpec {
        hostname: present.hostname,
        image: present.image,
        hardware,
        ..wanted
    }
}

/// Says what is left as it is until a person regrows or restarts the desktop.
pub(crate) fn survey(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) {
    if !desktop.personal {
        return;
    }
    let regrow = format!("what is on its disk goes with it: coppice desktop regrow {id}");
    let mut tell = |kind, severity, remedy| {
        draft.finding(Finding {
            object: power::address(id),
            kind,
            severity,
            remedy,
        });
    };
    let wanted = image.map(|image| yard.wanted(image, desktop));
    let edits = wanted.map_or_else(Vec::new, |wanted| specs::edits(&desktop.spec, &wanted));
    let paths: Vec<String> = edits
        .into_iter()
        .filter(|edit| edit.applies == Applies::Regrow)
        .map(|edit| edit.path)
        .collect();
    if !paths.is_empty() {
        let kind = FindingKind::Outdated { paths };
        tell(kind, Severity::Warning, regrow.clone());
    }
    if !yard.personal() {
        tell(FindingKind::KeptPersonal, Severity::Note, regrow.clone());
    }
    let overlay = yard.known.overlay(desktop);
    if overlay.is_some_and(|overlay| overlay.over_limit) {
        let limit = desktop.spec.hardware.disk_limit;
        let remedy = format!("raise disk_limit, or regrow it; {regrow}");
        tell(FindingKind::OverLimit { limit }, Severity::Warning, remedy);
    }
    if seen(yard, desktop).is_some_and(|domain| domain.stale_until_reboot) {
        let remedy = format!("when its person agrees: coppice desktop restart {id}");
        tell(FindingKind::PendingBoot, Severity::Note, remedy);
    }
}
