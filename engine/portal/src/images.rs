//! Images: looked at, removed.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use coppice_schema::Digest;
use coppice_schema::desired::Origin;
use coppice_schema::ids::{ImageName, ServerId, ServerName, VersionName};
use coppice_schema::known::{CopyState, ImageVersion, ServerState, Task};
use coppice_state::entry::Entry;
use coppice_state::state::Server;
use coppice_world::disks::Transfer;
use futures::future::{FutureExt, join_all};

use crate::api::{Code, CopyProgress, Image, ImageCopy, Problem};
use crate::auth::Who;
use crate::params::NamedTwo;
use crate::portal::{Portal, Seen};

/// All versions of all images.
#[utoipa::path(get, path = "/api/v1/images", responses((status = 200, body = Vec<Image>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<Image>> {
    let seen = portal.look().await;
    let mut all = Vec::new();
    for (name, versions) in &seen.state.images {
        all.extend(
            versions
                .iter()
                .map(|(version, record)| show(&seen, name, version, record)),
        );
    }
    tell_progress(&portal, &seen, &mut all).await;
    axum::Json(all)
}

/// Asks the servers to which images are on their way how far these are. One that does not answer in time is shown without.
async fn tell_progress(portal: &Portal, seen: &Seen, images: &mut [Image]) {
    let on_its_way = |copy: &&ImageCopy| match copy.state {
        CopyState::Copying | CopyState::Partial => true,
        CopyState::Verified | CopyState::Bad => false,
    };
    let copies = images.iter().flat_map(|image| image.copies.iter());
    let names: BTreeSet<ServerName> = copies
        .filter(on_its_way)
        .map(|copy| copy.server.clone())
        .collect();
    let asked = names.into_iter().filter_map(|name| {
        let (id, _) = seen.state.server_named(&name)?;
        let other = (id != portal.app.server).then_some(id);
        let asked = portal.app.disks.transfers(other);
        Some(asked.map(|answer| (name, answer.unwrap_or_default())))
    });
    let told: BTreeMap<ServerName, Vec<Transfer>> = join_all(asked).await.into_iter().collect();
    for image in images {
        let root = image.root;
        for copy in &mut image.copies {
            let transfers = told.get(&copy.server).into_iter().flatten();
            let mut mine = transfers.filter(|transfer| transfer.root == root);
            copy.progress = mine.next().map(|transfer| CopyProgress {
                here: transfer.here.0,
                total: transfer.data.0,
                rate: transfer.rate.0,
            });
        }
    }
}

/// Removes a version that is neither published nor used.
#[utoipa::path(delete, path = "/api/v1/images/{name}/versions/{version}",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn remove(
    portal: Portal,
    who: Who,
    NamedTwo(image, version): NamedTwo<ImageName, VersionName>,
) -> Result<StatusCode, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let record = find(&seen, &image, &version).ok_or_else(|| {
        Problem::absent(
            format!("image {image}@{version}"),
            "`coppice image list` shows all of them",
        )
    })?;
    let shown = show(&seen, &image, &version, record);
    let by = if shown.published {
        Some("the committed configuration asks for it".to_owned())
    } else if shown.used_by > 0 {
        Some(format!("{} desktops are clones of it", shown.used_by))
    } else {
        None
    };
    if let Some(by) = by {
        return Err(Problem::new(
            Code::InUse,
            format!("image {image}@{version} stays: {by}"),
            "publish another version, and wait until its desktops have been regrown",
        ));
    }
    let entry = Entry::ImageRemoved {
        image,
        version,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn find<'a>(
    seen: &'a Seen,
    image: &ImageName,
    version: &VersionName,
) -> Option<&'a ImageVersion> {
    seen.state.images.get(image)?.get(version)
}

/// Whether that server's copy of the image is whole.
pub(crate) fn is_whole(seen: &Seen, server: ServerId, root: Digest) -> bool {
    let server = seen.state.servers.get(&server);
    let look = server.and_then(|server| server.look.as_ref());
    look.is_some_and(|look| look.images.get(&root) == Some(&CopyState::Verified))
}

pub(crate) fn show(
    seen: &Seen,
    name: &ImageName,
    version: &VersionName,
    record: &ImageVersion,
) -> Image {
    let block = seen.state.committed.images.get(name);
    let published = block.is_some_and(|block| match &block.origin {
        Origin::Version(published) => published == version,
        Origin::Source { digest, .. } => *digest == Some(record.source),
    });
    let clones = seen.state.desktops.values();
    let used_by = clones
        .filter(|desktop| desktop.spec.image == record.root)
        .count();
    // A server looks seldom while nothing happens to it: what it was told to fetch is on its way before it says so.
    let orders = seen.state.orders.values();
    let fetch: BTreeSet<ServerId> = orders
        .filter(|order| matches!(order.task, Task::CopyImage { root, .. } if root == record.root))
        .map(|order| order.server)
        .collect();
    let state_on = |id: &ServerId, server: &Server| {
        let looked = server.look.as_ref();
        let held = looked.and_then(|look| look.images.get(&record.root).copied());
        held.or_else(|| fetch.contains(id).then_some(CopyState::Copying))
    };
    let servers = || seen.state.servers.iter();
    let copies = servers().filter_map(|(id, server)| {
        Some(ImageCopy {
            server: server.name.clone(),
            state: state_on(id, server)?,
            progress: None,
        })
    });
    let absent = servers().filter(|(id, server)| {
        server.state != ServerState::Removed && state_on(id, server).is_none()
    });
    let absent = absent.map(|(_, server)| server.name.clone()).collect();
    Image {
        name: name.clone(),
        version: version.clone(),
        digest: record.source,
        root: record.root,
        size: record.size,
        data: record.data,
        imported: record.imported,
        published,
        used_by: u32::try_from(used_by).unwrap_or(u32::MAX),
        copies: copies.collect(),
        absent,
    }
}
