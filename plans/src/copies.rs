//! Which servers are to hold which image, and from whom each gets it.
//!
//! Servers that are to get the same image stand in a line: each asks the one before it, which passes on what arrives,
//! and when that one fails any of those that hold it. Where there are several holders there are as many lines.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{Copies, Desired, Display, DriftRule, Firmware};
use coppice_schema::ids::{Address, ImageName, ServerId, VersionName};
use coppice_schema::known::{
    CopyState, DiskLevel, Feature, ImageVersion, KnownServer, ServerState, Task,
};
use coppice_schema::units::Size;
use coppice_schema::{Digest, Known};

use crate::draft::Draft;
use crate::images::{Published, beyond_keep, published, rule};
use crate::place;
use crate::plan::{
    Action, Drift, DriftKind, Estimate, Finding, FindingKind, Impact, Kind, Memory, Reason,
    Response, Risk, Severity, Step, Wait,
};

/// Sources that an order names. Whoever carries it out knows the others, too.
const SOURCES: usize = 8;

/// Copies that are still to come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Awaited(BTreeMap<(Digest, ServerId), Wait>);

impl Awaited {
    /// What a desktop on `server` waits for that is to become a clone of the image `root`.
    pub(crate) fn wait(&self, root: Digest, server: ServerId) -> Option<Wait> {
        self.0.get(&(root, server)).cloned()
    }
}

/// One image as it stands on the servers.
struct Stock<'a> {
    desired: &'a Desired,
    known: &'a Known,
    name: &'a ImageName,
    version: &'a VersionName,
    root: Digest,
    record: &'a ImageVersion,
}

/// Copies that are wanted and not there, those that are bad, and what is in the way.
pub(crate) fn plan(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    let mut done = BTreeSet::new();
    for (name, image) in &desired.images {
        let Ok(Published { version, record }) = published(known, name, image) else {
            continue;
        };
        let stock = Stock {
            desired,
            known,
            name,
            version,
            root: record.root,
            record,
        };
        if done.insert(record.root) {
            stock.keep_share(image.copies, true, draft);
        }
    }
    // A personal desktop stays a clone of what it was made of, and moves or goes on from its copy only where that is.
    let personal = known.desktops.values().filter(|desktop| desktop.personal);
    let kept: BTreeSet<Digest> = personal.map(|desktop| desktop.spec.image).collect();
    let beyond = beyond_keep(desired, known);
    for (name, versions) in &known.images {
        for (version, record) in versions {
            let stock = Stock {
                desired,
                known,
                name,
                version,
                root: record.root,
                record,
            };
            let block = desired.images.get(name);
            if let Some(image) = block.filter(|_| kept.contains(&record.root)) {
                if done.insert(record.root) {
                    stock.keep_share(image.copies, false, draft);
                }
                continue;
            }
            // Those that are published were looked at, and those that nobody keeps are on their way out.
            if !beyond.contains(&(name, record.root)) && done.insert(record.root) {
                stock.mend(stock.bad(), draft);
            }
        }
    }
}

impl Stock<'_> {
    fn state(&self, server: &KnownServer) -> Option<CopyState> {
        server.look.as_ref()?.images.get(&self.root).copied()
    }

    /// Servers that were seen, and where the copy stands so.
    fn standing(&self, wanted: CopyState) -> Vec<ServerId> {
        let seen = self.known.servers.iter().filter(|(_, s)| s.current);
        seen.filter(|(_, server)| self.state(server) == Some(wanted))
            .map(|(id, _)| *id)
            .collect()
    }

    fn bad(&self) -> BTreeSet<ServerId> {
        self.standing(CopyState::Bad).into_iter().collect()
    }

    /// Servers that were told to get it, in the order in which they were.
    fn under_way(&self) -> Vec<ServerId> {
        let gets = |task: &Task| matches!(task, Task::CopyImage { root, .. } if *root == self.root);
        let orders = self.known.orders.values().filter(|order| gets(&order.task));
        orders.map(|order| order.server).collect()
    }

    /// Whether another order about it is open there.
    fn is_busy(&self, server: ServerId) -> bool {
        let about = |task: &Task| {
            task.image() == Some(self.root) && !matches!(task, Task::CopyImage { .. })
        };
        let mut orders = self.known.orders.values();
        orders.any(|order| order.server == server && about(&order.task))
    }

    /// Copies as many as there are to be. What is in the way is told of the version that is `published`: the others have
    /// the same servers.
    fn keep_share(&self, copies: Copies, published: bool, draft: &mut Draft<'_>) {
        let under_way = self.under_way();
        let (mut rich, mut poor) = (Vec::new(), Vec::new());
        for (id, server) in &self.known.servers {
            if !could_run(self.desired, server, self.name) {
                continue;
            }
            // Those that are nearest to a copy come first.
            let rank = match self.state(server) {
                Some(CopyState::Verified) => 0,
                Some(CopyState::Copying) => 1,
                _ if under_way.contains(id) => 1,
                Some(CopyState::Bad) => 2,
                Some(CopyState::Partial) => 3,
                None => 4,
            };
            match self.lacks_room(server).filter(|_| rank > 2) {
                Some(left) => poor.push((server, left)),
                None => rich.push((rank, *id)),
            }
        }
        rich.sort_unstable();
        let all = u32::try_from(rich.len() + poor.len()).unwrap_or(u32::MAX);
        let (wanted, short) = match copies {
            Copies::All => (rich.len(), !poor.is_empty()),
            Copies::Count(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                (count.min(rich.len()), count > rich.len())
            }
        };
        if short && published {
            for (server, left) in poor {
                self.tell_room(server, left, draft);
            }
        }
        if let Copies::Count(count) = copies
            && count > all
            && published
        {
            draft.finding(Finding {
                object: Address::Image(self.name.clone()),
                kind: FindingKind::TooFewServers {
                    copies: count,
                    servers: all,
                },
                severity: Severity::Warning,
                remedy: "add a server, or want fewer copies".to_owned(),
            });
        }
        let share: BTreeSet<ServerId> = rich.into_iter().take(wanted).map(|(_, id)| id).collect();
        let mut lacking = BTreeSet::new();
        for id in &share {
            let Some(server) = self.known.servers.get(id) else {
                continue;
            };
            let come = match self.state(server) {
                Some(CopyState::Verified) => continue,
                Some(CopyState::Bad) => false,
                Some(CopyState::Copying | CopyState::Partial) | None => server.current,
            };
            if come {
                lacking.insert(*id);
            }
            let holders = self.standing(CopyState::Verified);
            let mends = come || rule(self.desired, self.name) == DriftRule::Enforce;
            if !holders.is_empty() && server.current && mends {
                draft.copies.0.insert(
                    (self.root, *id),
                    Wait::Copy {
                        image: self.name.clone(),
                        version: self.version.clone(),
                        servers: BTreeSet::from([server.name.to_string()]),
                    },
                );
            }
        }
        let mending = self.mend(self.bad(), draft);
        self.fetch(&lacking, &mending, draft);
    }

    /// Bad copies: repaired from others, where somebody has what is wrong of them.
    fn mend(&self, bad: BTreeSet<ServerId>, draft: &mut Draft<'_>) -> Vec<ServerId> {
        let rule = rule(self.desired, self.name);
        if rule == DriftRule::Ignore {
            return Vec::new();
        }
        let mut mended = Vec::new();
        for server in &bad {
            let sources = self.sources(*server, &[], 0);
            let response = match (rule, sources.is_empty()) {
                (DriftRule::Enforce, false) => Response::Repaired,
                (DriftRule::Warn, false) => Response::Told,
                _ => Response::NeedsAdmin,
            };
            let object = Address::Image(self.name.clone());
            draft.drift(Drift {
                server: Some(*server),
                kind: DriftKind::ImageBad,
                edits: Vec::new(),
                since: draft.since(&object, DriftKind::ImageBad),
                object,
                response,
                waits: Vec::new(),
            });
            if response == Response::Repaired {
                let reason = Reason::Drift {
                    what: DriftKind::ImageBad,
                };
                self.order(*server, sources, reason, None, draft);
                mended.push(*server);
            }
        }
        mended
    }

    fn fetch(&self, lacking: &BTreeSet<ServerId>, mending: &[ServerId], draft: &mut Draft<'_>) {
        let under_way = self.under_way();
        let holders = self.standing(CopyState::Verified);
        let mut line = holders.clone();
        line.extend(under_way.iter().filter(|id| !mending.contains(id)));
        let name = self.desired.grid.image_window.as_ref();
        let window = name.and_then(|name| self.desired.windows.get(name));
        for server in lacking {
            let sources = self.sources(*server, &line, holders.len());
            if !under_way.contains(server) && sources.is_empty() {
                let object = Address::Image(self.name.clone());
                draft.drift(Drift {
                    server: Some(*server),
                    kind: DriftKind::ImageMissing,
                    edits: Vec::new(),
                    since: draft.since(&object, DriftKind::ImageMissing),
                    object,
                    response: Response::NeedsAdmin,
                    waits: Vec::new(),
                });
                continue;
            }
            let wait = draft.window(name.map_or("", |name| name.as_str()), window);
            self.order(*server, sources, Reason::NotPresent, wait, draft);
            if !under_way.contains(server) {
                line.push(*server);
            }
        }
    }

    /// Whom `server` asks: the one before it in its line, then those that hold it, then those of which a part is right.
    /// Nobody asks one behind it, so that none waits for itself.
    fn sources(&self, server: ServerId, line: &[ServerId], lines: usize) -> Vec<ServerId> {
        let before = line.len().checked_sub(lines.max(1));
        let nearest = before.and_then(|place| line.get(place)).copied();
        let mut holders = self.standing(CopyState::Verified);
        let turn = line.len().checked_rem(holders.len()).unwrap_or(0);
        holders.rotate_left(turn);
        let mut sources = Vec::new();
        let bad = self.standing(CopyState::Bad);
        for source in nearest.into_iter().chain(holders).chain(bad) {
            if source != server && !sources.contains(&source) && sources.len() < SOURCES {
                sources.push(source);
            }
        }
        sources
    }

    fn order(
        &self,
        server: ServerId,
        from: Vec<ServerId>,
        reason: Reason,
        wait: Option<Wait>,
        draft: &mut Draft<'_>,
    ) {
        if self.under_way().contains(&server) || self.is_busy(server) || from.is_empty() {
            return;
        }
        let object = Address::Image(self.name.clone());
        let mut waits: Vec<Wait> = draft
            .pause(std::slice::from_ref(&object))
            .into_iter()
            .collect();
        waits.extend(wait);
        draft.actions.push(Action {
            object,
            kind: Kind::CopyImage,
            server: Some(server),
            needs: Vec::new(),
            wave: 0,
            reason,
            risk: Risk::Safe,
            reversible: true,
            impact: Impact {
                bytes_copied: Estimate {
                    value: self.record.data,
                    ..Estimate::default()
                },
                ..Impact::default()
            },
            waits,
            edits: Vec::new(),
            step: Some(Step {
                task: Task::CopyImage {
                    root: self.root,
                    from,
                },
                memory: Memory::Unchanged,
            }),
        });
    }

    /// What a server has left for images, where that is not enough for this one.
    fn lacks_room(&self, server: &KnownServer) -> Option<Size> {
        let look = server.look.as_ref()?;
        let all = server.capacity.disk.0;
        let kept = place::rule(self.desired, server).keep_free_disk.0;
        let stored = place::stored(self.known, server).0;
        let left = Size(all.saturating_sub(kept).saturating_sub(stored));
        let full = look.disk == DiskLevel::Critical;
        if full || (all > 0 && self.record.data > left) {
            Some(if full { Size(0) } else { left })
        } else {
            None
        }
    }

    fn tell_room(&self, server: &KnownServer, left: Size, draft: &mut Draft<'_>) {
        draft.finding(Finding {
            object: Address::Server(server.name.clone()),
            kind: FindingKind::NoRoomForImage {
                image: self.name.clone(),
                needed: self.record.data,
                left,
            },
            severity: Severity::Error,
            remedy: format!(
                "free space there or add a disk, lower `keep` of image.{0}, or set its `copies` to fewer servers; no \
                 desktop of it is put there meanwhile",
                self.name
            ),
        });
    }
}

/// Whether desktops of the image may be put on a server; where no pool is of it, whether any may.
pub(crate) fn could_run(desired: &Desired, server: &KnownServer, name: &ImageName) -> bool {
    let rule = place::rule(desired, server);
    if server.state != ServerState::Ready || rule.cordon {
        return false;
    }
    let lacks = |feature| server.capacity.missing.contains(&feature);
    let mut used = false;
    for pool in desired.pools.values() {
        let template = desired.templates.get(&pool.template);
        let Some(template) = template.filter(|template| template.image == *name) else {
            continue;
        };
        used = true;
        let mut labels = pool.servers.iter();
        let labelled =
            labels.all(|label| server.labels.contains(label) || rule.labels.contains(label));
        let firmware = match template.firmware {
            Firmware::Bios => true,
            Firmware::Uefi => !lacks(Feature::Uefi),
            Firmware::UefiSecure => !lacks(Feature::SecureBoot),
        };
        let spice = template.displays.contains(&Display::Spice);
        if labelled && firmware && !(spice && lacks(Feature::Spice)) {
            return true;
        }
    }
    !used
}
