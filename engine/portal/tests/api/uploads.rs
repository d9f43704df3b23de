//! Image files on their way into the catalogue.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use coppice_portal::api::{Code, Image, ImportLine, Upload};
use coppice_schema::Digest;
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Timestamp};
use coppice_state::token::Scope;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::world::{Answer, World, root_of};

const FILE: &[u8] = b"QFI an image of thirty-two bytes";

fn request(bytes: &[u8]) -> Value {
    json!({"name": "tiny", "version": "1", "size": bytes.len(), "digest": Digest::of(bytes)})
}

async fn begin(world: &World, request: &Value) -> Upload {
    world
        .post(Scope::Operator, "/images/uploads", request)
        .await
        .json(StatusCode::CREATED)
}

async fn put(world: &World, id: &str, offset: usize, body: impl Into<Body>) -> Answer {
    let path = format!("/images/uploads/{id}?offset={offset}");
    world.send(Scope::Operator, Method::PUT, &path, body).await
}

async fn import(world: &World, id: &str) -> Vec<ImportLine> {
    let path = format!("/images/uploads/{id}/import");
    let answer = world.send(Scope::Operator, Method::POST, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn last_problem(lines: &[ImportLine]) -> (Code, String) {
    match lines.last() {
        Some(ImportLine::Error(problem)) => (problem.code, problem.detail.clone()),
        other => panic!("{other:?}"),
    }
}

fn files(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(&world.app.uploads).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_comes_in_by_parts_and_becomes_a_version() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    let first: Upload = put(&world, &upload.id, 0, &FILE[..10])
        .await
        .json(StatusCode::OK);
    assert_eq!(first.offset, 10);
    let rest: Upload = put(&world, &upload.id, 10, &FILE[10..])
        .await
        .json(StatusCode::OK);
    assert_eq!(rest.offset, 32);

    let lines = import(&world, &upload.id).await;
    let Some(ImportLine::Imported(image)) = lines.last() else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (image.digest, image.root),
        (Digest::of(FILE), root_of(FILE))
    );
    assert_eq!(world.grid.now().images.len(), 1);
    assert!(
        files(&world).is_empty(),
        "what was imported needs no upload any more"
    );

    world
        .grid
        .report([(root_of(FILE), Some(CopyState::Verified))].into());
    let listed: Vec<Image> = world.get(Scope::Viewer, "/images").await;
    assert_eq!(listed[0].copies[0].state, CopyState::Verified);
    assert_eq!((listed[0].used_by, listed[0].published), (0, false));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    let broken = futures::stream::iter([
        Ok(axum::body::Bytes::from_static(&FILE[..20])),
        Err(std::io::Error::other("the line went dead")),
    ]);
    put(&world, &upload.id, 0, Body::from_stream(broken))
        .await
        .problem(Code::Request);
    let again = begin(&world, &request(FILE)).await;
    assert_eq!((again.id.as_str(), again.offset), (upload.id.as_str(), 20));
    let looked: Upload = world
        .get(Scope::Operator, &format!("/images/uploads/{}", upload.id))
        .await;
    assert_eq!(looked, again);

    for wrong in [0, 19, 21, 32] {
        let problem = put(&world, &upload.id, wrong, &FILE[..1])
            .await
            .problem(Code::Offset);
        assert_eq!(problem.offset, Some(20));
    }
    let problem = world
        .send(
            Scope::Operator,
            Method::POST,
            &format!("/images/uploads/{}/import", upload.id),
            "",
        )
        .await
        .problem(Code::Offset);
    assert_eq!(problem.offset, Some(20));
    put(&world, &upload.id, 20, &FILE[20..])
        .await
        .json::<Upload>(StatusCode::OK);
    assert!(matches!(
        import(&world, &upload.id).await.last(),
        Some(ImportLine::Imported(_))
    ));
}

#[tokio::test]
async fn uploads_without_a_digest_are_never_mixed() {
    let world = World::new();
    let request = json!({"name": "tiny", "version": "1", "size": 32});
    let (one, two) = (begin(&world, &request).await, begin(&world, &request).await);
    assert_ne!(one.id, two.id);
}

#[tokio::test]
async fn more_bytes_than_were_said_are_refused() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    let long = [FILE, b"!"].concat();
    put(&world, &upload.id, 0, long)
        .await
        .problem(Code::TooLarge);
    assert!(
        std::fs::metadata(world.app.uploads.join(format!("{}.part", upload.id)))
            .unwrap()
            .len()
            <= 32
    );
}

#[tokio::test]
async fn bytes_that_are_no_image_are_refused_and_forgotten() {
    let world = World::new();
    let file = b"not an image";
    let upload = begin(&world, &request(file)).await;
    put(&world, &upload.id, 0, &file[..]).await;
    let (code, detail) = last_problem(&import(&world, &upload.id).await);
    assert_eq!(code, Code::Image);
    assert_eq!(
        detail,
        "the file for tiny@1 cannot be imported: no format that qemu-img reads"
    );
    assert!(world.grid.now().images.is_empty());
    assert!(files(&world).is_empty());
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused_and_dropped() {
    let world = World::new();
    let mut request = request(FILE);
    request["digest"] = json!(Digest([1; 32]));
    let upload = begin(&world, &request).await;
    put(&world, &upload.id, 0, FILE).await;
    let (code, detail) = last_problem(&import(&world, &upload.id).await);
    assert_eq!(code, Code::Image);
    assert!(detail.contains(&Digest::of(FILE).to_string()), "{detail}");
    assert!(world.disks.0.lock().unwrap().images.is_empty());
    assert!(world.grid.now().images.is_empty());
}

#[tokio::test]
async fn an_import_that_cannot_be_agreed_on_can_be_tried_again() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, FILE).await;
    world
        .grid
        .alone
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        last_problem(&import(&world, &upload.id).await).0,
        Code::Quorum
    );
    assert_eq!(world.disks.0.lock().unwrap().images, [root_of(FILE)]);
    world
        .grid
        .alone
        .store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(
        import(&world, &upload.id).await.last(),
        Some(ImportLine::Imported(_))
    ));
}

#[tokio::test]
async fn a_version_never_becomes_other_bytes() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, FILE).await;
    import(&world, &upload.id).await;
    let other = b"QFI another image";
    let answer = world
        .post(Scope::Operator, "/images/uploads", &request(other))
        .await;
    answer.problem(Code::Exists);
}

/// Leaves so many bytes beside the tenth of the disk that belongs to desktops.
fn free_for_uploads(world: &World, bytes: u64) {
    world.disks.0.lock().unwrap().free = Size(Size::gib(20).0 / 100 * 10 + bytes);
}

#[tokio::test]
async fn a_copy_that_is_lost_or_bad_is_mended_by_the_same_bytes() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, FILE).await;
    import(&world, &upload.id).await;
    for lost in [None, Some(CopyState::Bad)] {
        world
            .post(Scope::Operator, "/images/uploads", &request(FILE))
            .await
            .problem(Code::Exists);
        world.grid.report([(root_of(FILE), lost)].into());
        let upload = begin(&world, &request(FILE)).await;
        put(&world, &upload.id, 0, FILE).await;
        let lines = import(&world, &upload.id).await;
        let Some(ImportLine::Imported(image)) = lines.last() else {
            panic!("{lines:?}")
        };
        assert!(image.is_held(), "{image:?}");
    }
    world
        .grid
        .report([(root_of(FILE), Some(CopyState::Bad))].into());
    let images: Vec<Image> = world.get(Scope::Viewer, "/images").await;
    assert!(!images[0].is_held());
    world
        .post(
            Scope::Operator,
            "/images/uploads",
            &request(b"QFI another image"),
        )
        .await
        .problem(Code::Exists);
}

#[tokio::test]
async fn uploads_under_way_count_with_what_they_still_bring() {
    let world = World::new();
    free_for_uploads(&world, 40);
    let first = begin(&world, &request(FILE)).await;
    let second = json!({"name": "tiny", "version": "2", "size": 32});
    let problem = world
        .post(Scope::Operator, "/images/uploads", &second)
        .await
        .problem(Code::Space);
    assert!(
        problem.detail.contains("other uploads still bring 32"),
        "{problem:?}"
    );
    // The disk of this world does not shrink by what is written: only what is still to come counts.
    put(&world, &first.id, 0, &FILE[..30]).await;
    begin(&world, &second).await;
}

#[tokio::test]
async fn a_part_that_would_fill_the_disk_is_refused_until_there_is_room() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, &FILE[..10]).await;
    free_for_uploads(&world, 21);
    put(&world, &upload.id, 10, &FILE[10..])
        .await
        .problem(Code::Space);
    free_for_uploads(&world, 22);
    let whole: Upload = put(&world, &upload.id, 10, &FILE[10..])
        .await
        .json(StatusCode::OK);
    assert_eq!(whole.offset, 32);
}

#[tokio::test]
async fn what_does_not_fit_is_not_begun() {
    let world = World::new();
    free_for_uploads(&world, 31);
    let answer = world
        .post(Scope::Operator, "/images/uploads", &request(FILE))
        .await;
    answer.problem(Code::Space);
    let nothing = json!({"name": "tiny", "version": "1", "size": 0});
    world
        .post(Scope::Operator, "/images/uploads", &nothing)
        .await
        .problem(Code::Request);
    for bad in ["../up", "", "a b"] {
        let request = json!({"name": bad, "version": "1", "size": 1});
        world
            .post(Scope::Operator, "/images/uploads", &request)
            .await
            .problem(Code::Request);
    }
}

#[tokio::test]
async fn an_upload_being_imported_is_left_alone() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, FILE).await;
    world.disks.0.lock().unwrap().open.send_replace(false);
    let path = format!("/images/uploads/{}", upload.id);
    let importing = import(&world, &upload.id);
    let meanwhile = async {
        loop {
            let answer = world
                .send(Scope::Operator, Method::POST, &format!("{path}/import"), "")
                .await;
            if answer.status == StatusCode::CONFLICT {
                break;
            }
        }
        world
            .send(Scope::Operator, Method::DELETE, &path, "")
            .await
            .problem(Code::Conflict);
        world.disks.0.lock().unwrap().open.send_replace(true);
    };
    let (lines, ()) = futures::join!(importing, meanwhile);
    assert!(
        matches!(lines.last(), Some(ImportLine::Imported(_))),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_upload_is_given_up() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, &FILE[..3]).await;
    let path = format!("/images/uploads/{}", upload.id);
    let answer = world.send(Scope::Operator, Method::DELETE, &path, "").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(files(&world).is_empty());
    world
        .send(Scope::Operator, Method::GET, &path, "")
        .await
        .problem(Code::Absent);
}

#[tokio::test]
async fn a_version_in_use_stays() {
    let world = World::new();
    let upload = begin(&world, &request(FILE)).await;
    put(&world, &upload.id, 0, FILE).await;
    import(&world, &upload.id).await;
    let id = world.grow(1, false);
    world.grid.edit(|state| {
        let desktop = Arc::make_mut(&mut state.desktops).get_mut(&id).unwrap();
        desktop.spec.image = root_of(FILE);
        desktop.grown = Timestamp(1);
    });
    let remove = || {
        world.send(
            Scope::Operator,
            Method::DELETE,
            "/images/tiny/versions/1",
            "",
        )
    };
    let problem = remove().await.problem(Code::InUse);
    assert!(problem.detail.contains("1 desktops"), "{problem:?}");
    world
        .grid
        .edit(|state| Arc::make_mut(&mut state.desktops).clear());
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
    assert!(world.grid.now().images.is_empty());
    remove().await.problem(Code::Absent);
}
