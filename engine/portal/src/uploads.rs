//! Image files on their way in: begun, continued where they broke off, given up.
//!
//! Each upload is two files, `ID.json` (what it is to become) and `ID.part` (its bytes so far). The id is ours,
//! so no path is ever made of what a client says.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::StatusCode;
use coppice_schema::Digest;
use coppice_schema::known::ImageVersion;
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_world::disks::Space;
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use crate::api::{Code, Problem, Upload, UploadOffset, UploadRequest};
use crate::bodies::{self, Json};
use crate::images;
use crate::params::{Asked, Named};
use crate::portal::{Held, Portal};

/// Room that uploads leave free on the disk, as imports do: running desktops write, too.
const KEEP_FREE: Size = Size::gib(1);
/// Per cent of the disk at which desktops are regrown for lack of room; no upload brings it there.
const CRITICAL: u64 = 90;
/// Uploads under way at once.
const UPLOADS_MAX: usize = 64;
/// An upload that nobody touched for so long is given up.
const GIVEN_UP_AFTER: Span = Span::hours(7 * 24);

/// An upload's id: 128 bits as 32 hexadecimal digits, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UploadId(String);

impl FromStr for UploadId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if text.len() == 32 && text.chars().all(fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err("an upload's id has 32 hexadecimal digits".to_owned())
        }
    }
}

/// What `ID.json` holds.
#[derive(Serialize, Deserialize)]
struct Record {
    request: UploadRequest,
    begun: Timestamp,
}

/// Begins an upload, or finds the one that the same request with a digest began before.
#[utoipa::path(post, path = "/api/v1/images/uploads", request_body = UploadRequest, responses(
    (status = 201, body = Upload), (status = 409, body = Problem), (status = 507, body = Problem)))]
pub(crate) async fn begin(
    portal: Portal,
    Json(request): Json<UploadRequest>,
) -> Result<(StatusCode, axum::Json<Upload>), Box<Problem>> {
    let UploadRequest {
        name,
        version,
        size,
        digest,
    } = &request;
    if size.0 == 0 {
        return Err(Problem::new(
            Code::Request,
            format!("the file for {name}@{version} is empty"),
            "name the image file itself",
        ));
    }
    let seen = portal.look_surely().await?;
    let held = images::find(&seen, name, version);
    // The same bytes again are how a copy that is lost or bad is mended.
    let mends = |held: &ImageVersion| {
        *digest == Some(held.source) && !images::is_whole(&seen, portal.app.server, held.root)
    };
    if let Some(held) = held.filter(|held| !mends(held)) {
        let same = if *digest == Some(held.source) {
            "of the same bytes"
        } else {
            "perhaps of other bytes"
        };
        return Err(Problem::new(
            Code::Exists,
            format!(
                "the grid has {name}@{version} already, {same} (BLAKE3 {})",
                held.source
            ),
            "a version never changes: import other bytes under another version's name",
        ));
    }
    let directory = &portal.app.uploads;
    make_private(directory)
        .await
        .map_err(|e| Problem::internal("make the directory for uploads", &e))?;
    sweep(&portal).await;
    let id = id_for(&request)?;
    let begun = find(&portal, &id).await?;
    let expected = expected(&portal, &id).await;
    let offset = begun.as_ref().map_or(0, |upload| upload.offset);
    room(&portal, &request, offset, expected).await?;
    if let Some(upload) = begun {
        return Ok((StatusCode::CREATED, axum::Json(upload)));
    }
    let record = Record {
        request,
        begun: portal.now(),
    };
    write_record(directory, &id, &record)
        .await
        .map_err(|e| Problem::internal("begin an upload", &e))?;
    let upload = Upload {
        id: id.0,
        request: record.request,
        offset: 0,
    };
    Ok((StatusCode::CREATED, axum::Json(upload)))
}

/// How far an upload is.
#[utoipa::path(get, path = "/api/v1/images/uploads/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Upload), (status = 404, body = Problem)))]
pub(crate) async fn look(
    portal: Portal,
    Named(id): Named<UploadId>,
) -> Result<axum::Json<Upload>, Box<Problem>> {
    Ok(axum::Json(found(&portal, &id).await?))
}

/// Appends the body at `offset`. What arrived before a connection broke stays; it goes on from there.
#[utoipa::path(put, path = "/api/v1/images/uploads/{id}",
    params(("id" = String, Path), ("offset" = u64, Query)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, body = Upload), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 413, body = Problem), (status = 507, body = Problem)))]
pub(crate) async fn append(
    portal: Portal,
    Named(id): Named<UploadId>,
    Asked(UploadOffset { offset }): Asked<UploadOffset>,
    body: Body,
) -> Result<axum::Json<Upload>, Box<Problem>> {
    let _held = hold(&portal, &id)?;
    let upload = found(&portal, &id).await?;
    if offset != upload.offset {
        return Err(Box::new(Problem {
            offset: Some(upload.offset),
            ..*Problem::new(
                Code::Offset,
                format!(
                    "the part begins at {offset}, and {} bytes are here",
                    upload.offset
                ),
                "go on from the offset given here",
            )
        }));
    }
    // Others were promised room when they began; what is left is shared with desktops, which grow meanwhile.
    room(&portal, &upload.request, offset, Size(0)).await?;
    let path = part_path(&portal.app.uploads, &id);
    let length = write_parts(&portal, &path, &upload, body).await?;
    Ok(axum::Json(Upload {
        offset: length,
        ..upload
    }))
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/api/v1/images/uploads/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn give_up(
    portal: Portal,
    Named(id): Named<UploadId>,
) -> Result<StatusCode, Box<Problem>> {
    let _held = hold(&portal, &id)?;
    found(&portal, &id).await?;
    forget(&portal.app.uploads, &id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a body behind what is there; whatever happens, what was written is synced. Returns the file's length.
async fn write_parts(
    portal: &Portal,
    path: &Path,
    upload: &Upload,
    body: Body,
) -> Result<u64, Box<Problem>> {
    let failed = |error: std::io::Error| disk_problem(upload, &error);
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    let mut file = options.open(path).await.map_err(failed)?;
    file.seek(SeekFrom::Start(upload.offset))
        .await
        .map_err(failed)?;
    let mut parts = bodies::Parts::of(portal, body);
    let mut length = upload.offset;
    let mut outcome = Ok(());
    while let Some(part) = parts.next().await {
        let written = match part {
            Ok(part) => {
                let after = length + u64::try_from(part.len()).unwrap_or(u64::MAX);
                if after > upload.request.size.0 {
                    Err(beyond(upload))
                } else {
                    file.write_all(&part)
                        .await
                        .map_err(failed)
                        .map(|()| length = after)
                }
            }
            Err(problem) => Err(problem),
        };
        if written.is_err() {
            outcome = written;
            break;
        }
    }
    file.flush().await.map_err(failed)?;
    file.sync_data().await.map_err(failed)?;
    outcome.map(|()| length)
}

fn beyond(upload: &Upload) -> Box<Problem> {
    Problem::new(
        Code::TooLarge,
        format!(
            "the file was said to have {} bytes, and more came",
            upload.request.size.0
        ),
        "look whether the file is being written to; give this upload up and begin again",
    )
}

fn disk_problem(upload: &Upload, error: &std::io::Error) -> Box<Problem> {
    if error.kind() == std::io::ErrorKind::StorageFull {
        let UploadRequest { name, version, .. } = &upload.request;
        return Problem::new(
            Code::Space,
            format!("the disk became full while {name}@{version} was coming in"),
            "free some space on that server's disk; the upload goes on where it stopped",
        );
    }
    Problem::internal("write a part of an upload", error)
}

pub(crate) fn hold(portal: &Portal, id: &UploadId) -> Result<Held, Box<Problem>> {
    portal.hold(&id.0).ok_or_else(|| {
        Problem::new(
            Code::Conflict,
            "another request is working on this upload",
            "wait until it is done; `coppice image list` shows whether it was imported",
        )
    })
}

pub(crate) async fn found(portal: &Portal, id: &UploadId) -> Result<Upload, Box<Problem>> {
    let help = "begin again: it was imported, given up, or untouched for a week";
    let upload = find(portal, id).await?;
    upload.ok_or_else(|| Problem::absent("such upload", help))
}

async fn find(portal: &Portal, id: &UploadId) -> Result<Option<Upload>, Box<Problem>> {
    let broken = |error: &dyn std::fmt::Display| {
        Problem::internal("read what an upload is to become", error)
    };
    let bytes = match fs::read(record_path(&portal.app.uploads, id)).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(&error)),
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
    let offset = match fs::metadata(part_path(&portal.app.uploads, id)).await {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(broken(&error)),
    };
    Ok(Some(Upload {
        id: id.0.clone(),
        request: record.request,
        offset,
    }))
}

/// Whether the rest of an upload fits on the disk beside what `others` still bring, and what desktops need.
async fn room(
    portal: &Portal,
    request: &UploadRequest,
    offset: u64,
    others: Size,
) -> Result<(), Box<Problem>> {
    let Space { total, free } = portal.app.disks.space().await?;
    let keep = KEEP_FREE.max(Size(total.0 / 100 * (100 - CRITICAL)));
    let left = free.0.saturating_sub(keep.0).saturating_sub(others.0);
    let rest = request.size.0.saturating_sub(offset);
    if rest <= left {
        return Ok(());
    }
    let UploadRequest { name, version, .. } = request;
    let others = match others {
        Size(0) => String::new(),
        others => format!(", and other uploads still bring {}", others.rounded()),
    };
    Err(Problem::new(
        Code::Space,
        format!(
            "{} of {name}@{version} are to come; {} are free, of which desktops keep {}{others}",
            Size(rest).rounded(),
            free.rounded(),
            keep.rounded(),
        ),
        "free some space on that server's disk, and give the same command again",
    ))
}

/// What all uploads but `id` may still bring.
async fn expected(portal: &Portal, id: &UploadId) -> Size {
    let mut bytes = 0u64;
    for (_, other) in begun(portal).await {
        // One that cannot be read cannot go on either.
        if let (true, Ok(Some(upload))) = (other != *id, find(portal, &other).await) {
            let rest = upload.request.size.0.saturating_sub(upload.offset);
            bytes = bytes.saturating_add(rest);
        }
    }
    Size(bytes)
}

/// With a digest, the same file has the same upload, so that a broken one is resumed. Without, two files could be
/// mixed, so each has its own.
fn id_for(request: &UploadRequest) -> Result<UploadId, Box<Problem>> {
    let mut bytes = [0; 32];
    match request.digest {
        Some(digest) => {
            let UploadRequest {
                name,
                version,
                size: Size(size),
                ..
            } = request;
            bytes = Digest::of(format!("{name}@{version} {size} {digest}").as_bytes()).0;
        }
        None => getrandom::fill(&mut bytes)
            .map_err(|error| Problem::internal("draw random bits", &error))?,
    }
    Ok(UploadId(
        Digest(bytes).to_string().chars().take(32).collect(),
    ))
}

async fn make_private(directory: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .await
}

async fn write_record(directory: &Path, id: &UploadId, record: &Record) -> std::io::Result<()> {
    let temporary = directory.join(format!("{}.new", id.0));
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).await?;
    file.write_all(&serde_json::to_vec(record)?).await?;
    file.flush().await?;
    file.sync_all().await?;
    fs::rename(&temporary, record_path(directory, id)).await?;
    fs::File::open(directory).await?.sync_all().await
}

/// The uploads under way, and when each was last touched. What cannot be looked at is none.
async fn begun(portal: &Portal) -> Vec<(SystemTime, UploadId)> {
    let mut known = Vec::new();
    let Ok(mut entries) = fs::read_dir(&portal.app.uploads).await else {
        return known;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_suffix(".json"))
            .map(str::parse::<UploadId>);
        let Some(Ok(id)) = id else { continue };
        let part = fs::metadata(part_path(&portal.app.uploads, &id)).await;
        let data = match part {
            Ok(data) => Ok(data),
            Err(_) => entry.metadata().await,
        };
        if let Ok(touched) = data.and_then(|data| data.modified()) {
            known.push((touched, id));
        }
    }
    known
}

/// Gives up what nobody touched for long, and the oldest when there are too many. What cannot be looked at stays.
async fn sweep(portal: &Portal) {
    let mut known = begun(portal).await;
    known.sort_by_key(|(touched, _)| *touched);
    let crowd = (known.len() + 1).saturating_sub(UPLOADS_MAX);
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(portal.now().0);
    let limit = std::time::Duration::from_millis(GIVEN_UP_AFTER.0);
    for (n, (touched, id)) in known.into_iter().enumerate() {
        let old = now.duration_since(touched).is_ok_and(|age| age > limit);
        if !old && n >= crowd {
            continue;
        }
        // Held until its files are gone: nobody goes on with it meanwhile.
        let Some(_held) = portal.hold(&id.0) else {
            continue;
        };
        tracing::info!(
            upload = id.0,
            "an upload that nobody goes on with is given up"
        );
        forget(&portal.app.uploads, &id).await;
    }
}

/// Removes an upload's files. One that cannot be removed is swept later.
pub(crate) async fn forget(directory: &Path, id: &UploadId) {
    for path in [part_path(directory, id), record_path(directory, id)] {
        match fs::remove_file(&path).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "an upload's file stays"),
        }
    }
}

pub(crate) fn part_path(directory: &Path, id: &UploadId) -> PathBuf {
    directory.join(format!("{}.part", id.0))
}

fn record_path(directory: &Path, id: &UploadId) -> PathBuf {
    directory.join(format!("{}.json", id.0))
}
