//! An image's way into the grid: sent, taken up where it broke off, and imported there.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use coppice_portal::api::{Image, ImportLine, Problem, Upload, UploadRequest};
use coppice_schema::Digest;
use coppice_schema::ids::{ImageName, VersionName};
use coppice_schema::units::Size;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::client::{Body, Client, ClientError, segment};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::screen::Screen;
use crate::sources;

/// How often a broken upload is taken up again without a byte of headway.
const TRIES: u32 = 8;

/// A server looks at its disk whenever something is agreed, so it reports within a moment.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of one part. Each is acknowledged, so a broken connection costs at most so many.
const PART: u64 = 64 << 20;

/// An image file and what it is to be called.
pub(crate) struct Sending<'a> {
    /// The image.
    pub(crate) name: &'a ImageName,
    /// The version it becomes.
    pub(crate) version: &'a VersionName,
    /// The file.
    pub(crate) file: &'a Path,
}

/// Brings an image into the grid. One that is there already, of the same bytes and whole, is left as it is.
pub(crate) async fn send(
    sending: &Sending<'_>,
    client: &Client,
    screen: &Screen,
) -> Result<Image, Failure> {
    let digest = sources::digest(sending.file, screen)?.ok_or_else(|| {
        Failure::new(format!("there is no file {}", sending.file.display()))
            .hint("check the path of the image")
    })?;
    if let Some(image) = held(sending, digest, client).await? {
        screen.note(&format!(
            "image {} version {} is in the grid already",
            image.name, image.version
        ));
        return Ok(image);
    }
    let size = std::fs::metadata(sending.file)
        .map_err(|e| Failure::new(format!("cannot read {}", sending.file.display())).because(&e))?
        .len();
    let request = UploadRequest {
        name: sending.name.clone(),
        version: sending.version.clone(),
        size: Size(size),
        digest: Some(digest),
    };
    let upload: Upload = client.post("/images/uploads", &request).await?;
    bytes(sending, &upload, client, screen).await?;
    let image = import(&upload, sending, client, screen).await?;
    seen(image, client).await
}

/// The image once a server has reported its copy: only then can desktops be made of it, and a plan that is made
/// right after this command counts with it. A server that is slow to report is no failure of the import.
async fn seen(image: Image, client: &Client) -> Result<Image, Failure> {
    let patience = tokio::time::Instant::now() + REPORTED_WITHIN;
    let mut newest = image;
    while !newest.is_held() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let images: Vec<Image> = client.get("/images").await?;
        let same = |i: &Image| i.name == newest.name && i.version == newest.version;
        match images.into_iter().find(same) {
            Some(image) => newest = image,
            None => break,
        }
    }
    Ok(newest)
}

/// The version of that name, if the grid holds it with these bytes and some copy of it is whole.
async fn held(
    sending: &Sending<'_>,
    digest: Digest,
    client: &Client,
) -> Result<Option<Image>, Failure> {
    let images: Vec<Image> = client.get("/images").await?;
    let same = |i: &Image| i.name == *sending.name && i.version == *sending.version;
    match images.into_iter().find(same) {
        None => Ok(None),
        Some(image) if image.digest == digest => Ok(image.is_held().then_some(image)),
        Some(image) => Err(Failure::new(format!(
            "image {} version {} is in the grid already, with other bytes",
            image.name, image.version
        ))
        .cause(format!(
            "the grid holds {}, the file is {}",
            image.digest.short(),
            digest.short()
        ))
        .hint("a version never changes: choose another --version")),
    }
}

/// Sends what the server lacks.
async fn bytes(
    sending: &Sending<'_>,
    upload: &Upload,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let total = upload.request.size.0;
    let progress = Progress::bytes(screen, &format!("sending {}", sending.name), total);
    let place = format!("/images/uploads/{}", segment(&upload.id));
    let mut offset = upload.offset;
    let mut tries = 0;
    while offset < total {
        progress.set(offset, total);
        let part = PART.min(total - offset);
        let body = part_of(sending.file, offset, part, &progress)
            .await
            .map_err(|e| {
                Failure::new(format!("cannot read {}", sending.file.display())).because(&e)
            })?;
        let sent: Result<Upload, ClientError> = client
            .upload(&format!("{place}?offset={offset}"), body)
            .await;
        let reached = match sent {
            Ok(upload) => upload.offset,
            Err(error) => match resume_at(&error, &place, client).await {
                Some(reached) => {
                    tracing::debug!(%error, reached, "the upload broke and is taken up again");
                    reached
                }
                None if tries >= TRIES || !error.passes() => {
                    return Err(Failure::from(error)
                        .hint("the same command again goes on where this one ended"));
                }
                None => offset,
            },
        };
        if reached > offset {
            tries = 0;
        } else {
            tries += 1;
            if tries > TRIES {
                return Err(Failure::new(format!(
                    "sending {} makes no headway",
                    sending.file.display()
                ))
                .cause(format!(
                    "the server holds {} of {}",
                    Size(offset).rounded(),
                    Size(total).rounded()
                ))
                .hint("the same command again goes on where this one ended"));
            }
            tokio::time::sleep(Duration::from_millis(250 << tries.min(5))).await;
        }
        offset = reached;
    }
    progress.set(total, total);
    progress.finish();
    Ok(())
}

/// Where a broken upload goes on, as the server has it; `None` when it cannot be asked now.
async fn resume_at(error: &ClientError, place: &str, client: &Client) -> Option<u64> {
    if let Some(offset) = error.problem().and_then(|p| p.offset) {
        return Some(offset);
    }
    if !error.passes() {
        return None;
    }
    client
        .get::<Upload>(place)
        .await
        .ok()
        .map(|upload| upload.offset)
}

/// A part of a file as a request's body, read while it is sent.
async fn part_of(path: &Path, offset: u64, length: u64, progress: &Progress) -> io::Result<Body> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let progress = progress.clone();
    let chunks = futures::stream::try_unfold((file, length), move |(mut file, left)| {
        let progress = progress.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let mut buffer = vec![0; usize::try_from(left.min(1 << 18)).unwrap_or(1 << 18)];
            let n = file.read(&mut buffer).await?;
            if n == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was sent",
                ));
            }
            buffer.truncate(n);
            let n = u64::try_from(n).unwrap_or(u64::MAX);
            progress.add(n);
            Ok(Some((
                Frame::data(Bytes::from(buffer)),
                (file, left.saturating_sub(n)),
            )))
        }
    });
    Ok(StreamBody::new(chunks).boxed_unsync())
}

/// Has the server convert, index and verify what it was sent.
async fn import(
    upload: &Upload,
    sending: &Sending<'_>,
    client: &Client,
    screen: &Screen,
) -> Result<Image, Failure> {
    let place = format!("/images/uploads/{}/import", segment(&upload.id));
    let mut lines = client.lines(Method::POST, &place).await?;
    let mut shown: Option<(String, Progress)> = None;
    loop {
        match lines.next_json::<ImportLine>().await {
            Ok(Some(ImportLine::Progress(now))) => {
                if shown.as_ref().is_none_or(|(step, _)| *step != now.step) {
                    if let Some((_, progress)) = &shown {
                        progress.finish();
                    }
                    let progress = Progress::bytes(
                        screen,
                        &format!("{} {}", now.step, sending.name),
                        now.total,
                    );
                    shown = Some((now.step.clone(), progress));
                }
                if let Some((_, progress)) = &shown {
                    progress.set(now.done, now.total);
                }
            }
            Ok(Some(ImportLine::Imported(image))) => return Ok(*image),
            Ok(Some(ImportLine::Error(problem))) => return Err(refused(*problem, sending)),
            Ok(None) => {
                return gone(
                    sending,
                    upload,
                    client,
                    "the answer ended before the import did",
                )
                .await;
            }
            Err(error) if error.passes() => {
                return gone(sending, upload, client, &error.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The connection was lost while the server worked: it may have come to its end nevertheless.
async fn gone(
    sending: &Sending<'_>,
    upload: &Upload,
    client: &Client,
    cause: &str,
) -> Result<Image, Failure> {
    if let Some(digest) = upload.request.digest
        && let Ok(Some(image)) = held(sending, digest, client).await
    {
        return Ok(image);
    }
    Err(Failure::new(format!(
        "whether image {} version {} was imported is not known",
        sending.name, sending.version
    ))
    .cause(cause)
    .hint("coppice image list tells; the same command again goes on where this one ended"))
}

fn refused(problem: Problem, sending: &Sending<'_>) -> Failure {
    Failure::from(ClientError::Problem(Box::new(problem))).during(format!(
        "{} was not imported as image {} version {}",
        sending.file.display(),
        sending.name,
        sending.version
    ))
}
