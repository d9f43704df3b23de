//! An uploaded file becomes an image version.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use coppice_schema::known::ImageVersion;
use coppice_state::entry::Entry;
use coppice_world::disks::{DiskError, Imported};
use futures::StreamExt;
use futures::stream;
use tokio::sync::{mpsc, watch};

use crate::api::{Code, ImportLine, ImportProgress, Problem, Upload, UploadRequest};
use crate::auth::Who;
use crate::images;
use crate::params::Named;
use crate::portal::{Held, Portal};
use crate::uploads::{self, UploadId};

/// Imports a whole upload. The answer's lines say how far it is; the last one says how it ended. The import goes on
/// when the client leaves.
#[utoipa::path(post, path = "/api/v1/images/uploads/{id}/import", params(("id" = String, Path)), responses(
    (status = 200, content_type = "application/jsonl", body = ImportLine), (status = 404, body = Problem),
    (status = 409, body = Problem)))]
pub(crate) async fn import(
    portal: Portal,
    who: Who,
    Named(id): Named<UploadId>,
) -> Result<Response, Box<Problem>> {
    let held = uploads::hold(&portal, &id)?;
    let upload = uploads::found(&portal, &id).await?;
    if upload.offset != upload.request.size.0 {
        return Err(Box::new(Problem {
            offset: Some(upload.offset),
            ..*Problem::new(
                Code::Offset,
                format!(
                    "only {} of {} bytes are here",
                    upload.offset, upload.request.size.0
                ),
                "send the rest first",
            )
        }));
    }
    let (tell, progress) = watch::channel(None);
    let (finish, finished) = mpsc::channel(1);
    tokio::spawn(async move {
        let line = carry_out(portal, who, id, upload, held, tell).await;
        // Nobody may be listening any more; the catalogue and the log say how it ended.
        let _ = finish.send(line).await;
    });
    let lines = stream::unfold(
        (progress, finished),
        async |(mut progress, mut finished)| {
            let line = tokio::select! {
                biased;
                line = finished.recv() => line?,
                Ok(()) = progress.changed() => {
                    let latest: Option<ImportProgress> = progress.borrow_and_update().clone();
                    ImportLine::Progress(latest?)
                }
            };
            Some((line, (progress, finished)))
        },
    );
    let bytes = lines.map(|line| {
        let mut text = serde_json::to_vec(&line).map_err(std::io::Error::other)?;
        text.push(b'\n');
        Ok::<_, std::io::Error>(Bytes::from(text))
    });
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((kind, Body::from_stream(bytes)).into_response())
}

async fn carry_out(
    portal: Portal,
    who: Who,
    id: UploadId,
    upload: Upload,
    held: Held,
    tell: watch::Sender<Option<ImportProgress>>,
) -> ImportLine {
    let ended = into_catalogue(&portal, &who, &id, &upload.request, tell).await;
    let UploadRequest { name, version, .. } = &upload.request;
    let line = match ended {
        Ok(image) => {
            uploads::forget(&portal.app.uploads, &id).await;
            tracing::info!(author = %who.author(), image = %name, %version, "an image was imported");
            ImportLine::Imported(Box::new(image))
        }
        Err(problem) => {
            tracing::warn!(image = %name, %version, problem = problem.detail, "an import failed");
            // Bytes that can never become this image are of no use; after anything else it can be tried again.
            if problem.code == Code::Image {
                uploads::forget(&portal.app.uploads, &id).await;
            }
            ImportLine::Error(problem)
        }
    };
    drop(held);
    line
}

async fn into_catalogue(
    portal: &Portal,
    who: &Who,
    id: &UploadId,
    request: &UploadRequest,
    tell: watch::Sender<Option<ImportProgress>>,
) -> Result<crate::api::Image, Box<Problem>> {
    let UploadRequest {
        name,
        version,
        digest,
        ..
    } = request;
    let source = uploads::part_path(&portal.app.uploads, id);
    let progress = Arc::new(move |progress: coppice_world::disks::Progress| {
        let latest = ImportProgress {
            step: progress.step.to_owned(),
            done: progress.done,
            total: progress.total,
        };
        tell.send_replace(Some(latest));
    });
    let imported = portal.app.disks.import_image(source, progress).await;
    let imported = imported.map_err(|error| named(error, request))?;
    if let Some(expected) = digest.filter(|expected| *expected != imported.source) {
        drop_unused(portal, &imported).await;
        return Err(Problem::new(
            Code::Image,
            format!(
                "the bytes of {name}@{version} have the BLAKE3 {}, and {expected} was said",
                imported.source
            ),
            "the file was changed, or damaged on its way: look at it, and send it again",
        ));
    }
    let record = ImageVersion {
        source: imported.source,
        root: imported.root,
        size: imported.size,
        data: imported.data,
        imported: portal.now(),
    };
    let entry = Entry::ImageImported {
        image: name.clone(),
        version: version.clone(),
        record,
        server: portal.app.server,
        author: who.author(),
    };
    if let Err(problem) = portal.propose(entry).await {
        // Without a majority it may still be agreed on, and then the bytes must be here.
        if problem.code != Code::Quorum {
            drop_unused(portal, &imported).await;
        }
        return Err(problem);
    }
    let seen = portal.look_surely().await?;
    let record = images::find(&seen, name, version).ok_or_else(|| {
        Problem::absent(
            format!("image {name}@{version} any more"),
            "somebody removed it meanwhile",
        )
    })?;
    Ok(images::show(&seen, name, version, record))
}

/// The name of our copy says nothing to whoever sent the file.
fn named(error: DiskError, request: &UploadRequest) -> DiskError {
    match error {
        DiskError::BadSource { why, .. } => DiskError::BadSource {
            source_file: format!("the file for {}@{}", request.name, request.version),
            why,
        },
        other @ (DiskError::Full { .. }
        | DiskError::Absent(_)
        | DiskError::InUse { .. }
        | DiskError::NotOurs(_)
        | DiskError::Io { .. }) => other,
    }
}

/// Removes stored bytes that no version of the catalogue names.
async fn drop_unused(portal: &Portal, imported: &Imported) {
    let state = portal.look().await.state;
    let mut versions = state.images.values().flat_map(|versions| versions.values());
    let used = versions.any(|version| version.root == imported.root)
        || state
            .desktops
            .values()
            .any(|desktop| desktop.spec.image == imported.root);
    if used {
        return;
    }
    if let Err(error) = portal.app.disks.drop_image(imported.root).await {
        tracing::warn!(%error, root = %imported.root, "an image that nothing names stays on the disk");
    }
}
