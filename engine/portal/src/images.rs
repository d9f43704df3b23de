//! Images: looked at, removed.

use axum::http::StatusCode;
use coppice_schema::Digest;
use coppice_schema::desired::Origin;
use coppice_schema::ids::{ImageName, ServerId, VersionName};
use coppice_schema::known::{CopyState, ImageVersion};
use coppice_state::entry::Entry;

use crate::api::{Code, Image, ImageCopy, Problem};
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
    axum::Json(all)
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
    let copies = seen.state.servers.values().filter_map(|server| {
        let state = *server.look.as_ref()?.images.get(&record.root)?;
        Some(ImageCopy {
            server: server.name.clone(),
            state,
        })
    });
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
    }
}
