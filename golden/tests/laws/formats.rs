//! Every format that qemu-img can write goes in, and the disk comes out.

use std::path::Path;

use coppice_golden::Format;

use crate::scratch::{MIB, Scratch, noise, qemu_img, read, text};

fn content(scratch: &Scratch) -> std::path::PathBuf {
    scratch.file(
        "disk.raw",
        40 * MIB,
        &[
            (0, noise(1, 700_000)),
            (7 * MIB + 512, noise(2, 300_000)),
            (40 * MIB - 4096, noise(3, 4096)),
        ],
    )
}

/// Writes `raw` as `format`, imports that, and compares the disks.
fn round_trip(format: Format, options: &[&str]) {
    let scratch = Scratch::new();
    let raw = content(&scratch);
    let path = scratch.path("source.image");
    let mut arguments = vec!["convert", "-f", "raw", "-O", format.name()];
    arguments.extend(options);
    arguments.extend([text(&raw), text(&path)]);
    qemu_img(&arguments);
    let imported = scratch.import(&path).unwrap();
    assert_eq!(imported.format, format);
    assert_eq!(imported.source, coppice_schema::Digest::of(&read(&path)));
    same_disk(&raw, &scratch.store.image_path(imported.root));
    scratch.verify(imported.root).unwrap();
    if format != Format::Raw {
        assert!(
            imported.confinement.is_some_and(|c| c.limits),
            "{:?}",
            imported.confinement
        );
    }
}

/// The same bytes; a format may round the size up with zeros.
fn same_disk(raw: &Path, stored: &Path) {
    let (before, after) = (read(raw), read(stored));
    assert!(
        after.len() >= before.len() && after.len() - before.len() < 2 << 20,
        "{} bytes",
        after.len()
    );
    assert!(after[..before.len()] == before, "the disk changed");
    assert!(after[before.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn raw() {
    round_trip(Format::Raw, &[]);
}

#[test]
fn qcow() {
    round_trip(Format::Qcow, &[]);
}

#[test]
fn qcow2() {
    round_trip(Format::Qcow2, &[]);
}

#[test]
fn qcow2_version_2() {
    round_trip(Format::Qcow2, &["-o", "compat=0.10"]);
}

#[test]
fn qcow2_compressed() {
    round_trip(Format::Qcow2, &["-c"]);
}

#[test]
fn qcow2_compressed_by_zstd() {
    round_trip(Format::Qcow2, &["-c", "-o", "compression_type=zstd"]);
}

#[test]
fn qcow2_with_subclusters() {
    round_trip(Format::Qcow2, &["-o", "extended_l2=on,cluster_size=128k"]);
}

#[test]
fn qed() {
    round_trip(Format::Qed, &[]);
}

#[test]
fn vmdk() {
    round_trip(Format::Vmdk, &[]);
}

#[test]
fn vmdk_for_streaming() {
    round_trip(Format::Vmdk, &["-o", "subformat=streamOptimized"]);
}

#[test]
fn vdi() {
    round_trip(Format::Vdi, &[]);
}

#[test]
fn vdi_of_fixed_size() {
    round_trip(Format::Vdi, &["-o", "static=on"]);
}

#[test]
fn vhd() {
    round_trip(Format::Vpc, &[]);
}

#[test]
fn vhd_of_fixed_size() {
    round_trip(Format::Vpc, &["-o", "subformat=fixed,force_size=on"]);
}

#[test]
fn vhdx() {
    round_trip(Format::Vhdx, &[]);
}

#[test]
fn parallels() {
    round_trip(Format::Parallels, &[]);
}

#[test]
fn snapshots_do_not_matter() {
    let scratch = Scratch::new();
    let raw = content(&scratch);
    let path = scratch.path("source.qcow2");
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&path)]);
    qemu_img(&["snapshot", "-c", "before", text(&path)]);
    let imported = scratch.import(&path).unwrap();
    same_disk(&raw, &scratch.store.image_path(imported.root));
}

#[test]
fn names_of_files_mean_nothing() {
    let scratch = Scratch::new();
    let raw = content(&scratch);
    for name in [
        "nbd:localhost:10809",
        "json:{}",
        "-f",
        "a,b=c,file.filename=x",
        "white space.vmdk",
    ] {
        let path = scratch.path(name);
        qemu_img(&[
            "convert",
            "-O",
            "qcow2",
            text(&raw),
            &format!("file:{}", text(&path)),
        ]);
        let imported = scratch.import(&path).unwrap();
        assert_eq!(imported.format, Format::Qcow2);
        same_disk(&raw, &scratch.store.image_path(imported.root));
    }
}

/// A file that ends too early is refused, or nothing of the disk was lost: never taken with zeros for its end.
#[test]
fn a_file_cut_short_is_never_taken_for_whole() {
    let whole = Scratch::new();
    let raw = content(&whole);
    let plain: [(Format, &[&str]); 9] = [
        (Format::Qcow, &[]),
        (Format::Qcow2, &[]),
        (Format::Qcow2, &["-c"]),
        (Format::Qed, &[]),
        (Format::Vmdk, &[]),
        (Format::Vdi, &[]),
        (Format::Vpc, &[]),
        (Format::Vhdx, &[]),
        (Format::Parallels, &[]),
    ];
    let (mut refused, mut wrong) = (0, Vec::new());
    for (format, options) in plain {
        let path = whole.path("source.image");
        qemu_img(
            &[
                &["convert", "-f", "raw", "-O", format.name()],
                options,
                &[text(&raw), text(&path)],
            ]
            .concat(),
        );
        let bytes = read(&path);
        for cut in [
            1,
            511,
            512,
            4096,
            65_536,
            65_537,
            300_000,
            bytes.len() / 2,
            bytes.len() - 600,
            bytes.len() - 100,
        ] {
            let scratch = Scratch::new();
            let short = scratch.path("short.image");
            std::fs::write(&short, &bytes[..bytes.len() - cut]).unwrap();
            match scratch.import(&short) {
                Err(_) => {
                    refused += 1;
                    assert!(
                        scratch.names("images").is_empty() && scratch.names("incoming").is_empty()
                    );
                }
                Ok(imported) => {
                    let after = read(&scratch.store.image_path(imported.root));
                    let before = read(&raw);
                    if imported.format != format
                        || after.len() < before.len()
                        || after[..before.len()] != before
                    {
                        wrong.push(format!(
                            "{format} {options:?} without its last {cut} of {} bytes",
                            bytes.len()
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "taken for whole: {wrong:#?}");
    assert!(refused >= 60, "only {refused} were refused");
}
