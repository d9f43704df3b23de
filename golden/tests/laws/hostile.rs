//! Files that want to be opened by the wrong program, or to name files of the host.

use std::os::unix::fs::FileExt;
use std::path::Path;

use coppice_golden::format::Refusal;
use coppice_golden::{Cancel, ImportError, Options};
use coppice_schema::units::Size;

use crate::scratch::{MIB, Scratch, noise, options, qemu_img, run, text};

fn refusal(scratch: &Scratch, path: &Path) -> Refusal {
    let error = scratch.import(path).unwrap_err();
    assert!(scratch.names("images").is_empty(), "something was stored");
    assert!(scratch.names("incoming").is_empty(), "something was left");
    let ImportError::Refused {
        refusal,
        path: told,
    } = error
    else {
        panic!("refused otherwise: {error}")
    };
    assert_eq!(told, path);
    refusal
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

#[test]
fn a_backing_file() {
    let scratch = Scratch::new();
    let base = scratch.file("base.raw", MIB, &[(0, noise(1, 512))]);
    for format in ["qcow2", "qcow", "qed", "vmdk"] {
        let base = if format == "vmdk" {
            let path = scratch.path("base.vmdk");
            qemu_img(&["convert", "-O", "vmdk", text(&base), text(&path)]);
            path
        } else {
            base.clone()
        };
        let path = scratch.path("evil.image");
        let of = if format == "vmdk" { "vmdk" } else { "raw" };
        qemu_img(&[
            "create",
            "-f",
            format,
            "-b",
            text(&base),
            "-F",
            of,
            text(&path),
        ]);
        let refusal = refusal(&scratch, &path);
        assert!(
            matches!(refusal, Refusal::BackingFile(_)),
            "{format}: {refusal}"
        );
    }
}

#[test]
fn a_backing_file_of_the_host_behind_a_protocol() {
    let scratch = Scratch::new();
    let path = scratch.path("evil.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&path), "1M"]);
    qemu_img(&[
        "rebase",
        "-u",
        "-b",
        "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}",
        "-F",
        "raw",
        text(&path),
    ]);
    let Refusal::BackingFile(name) = refusal(&scratch, &path) else {
        panic!("refused otherwise")
    };
    assert!(name.contains("/etc/passwd"), "{name}");
}

#[test]
fn an_external_data_file() {
    let scratch = Scratch::new();
    let path = scratch.path("evil.qcow2");
    let option = format!("data_file={},data_file_raw=on", text(&scratch.path("data")));
    qemu_img(&["create", "-f", "qcow2", "-o", &option, text(&path), "1M"]);
    assert!(matches!(refusal(&scratch, &path), Refusal::OtherFiles(_)));
    // The bit cleared, the name left: still not for us.
    patch(&path, 72, &[0; 8]);
    assert!(matches!(refusal(&scratch, &path), Refusal::OtherFiles(_)));
}

#[test]
fn a_vmdk_descriptor_that_names_a_file_of_the_host() {
    let scratch = Scratch::new();
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n\
                      # Extent description\nRW 4 FLAT \"/etc/passwd\" 0\n";
    let path = scratch.path("evil.vmdk");
    std::fs::write(&path, format!("{descriptor:\n<1024}")).unwrap();
    assert!(matches!(refusal(&scratch, &path), Refusal::OtherFiles(_)));
    // QEMU takes it without the first comment, too.
    std::fs::write(
        &path,
        format!(
            "{:\n<1024}",
            descriptor.replace("# Disk DescriptorFile", "\n #\n")
        ),
    )
    .unwrap();
    assert!(matches!(refusal(&scratch, &path), Refusal::OtherFiles(_)));
}

#[test]
fn a_vmdk_that_hides_its_descriptor_behind_a_binary_header() {
    let scratch = Scratch::new();
    let path = scratch.path("evil.vmdk");
    qemu_img(&["create", "-f", "vmdk", text(&path), "1M"]);
    patch(&path, 12, &[0; 8]); // no capacity: the descriptor lists the extents
    assert!(matches!(refusal(&scratch, &path), Refusal::OtherFiles(_)));
}

#[test]
fn vmdk_extents_in_several_files() {
    let scratch = Scratch::new();
    for kind in ["monolithicFlat", "twoGbMaxExtentSparse"] {
        let path = scratch.path(&format!("{kind}.vmdk"));
        qemu_img(&[
            "create",
            "-f",
            "vmdk",
            "-o",
            &format!("subformat={kind}"),
            text(&path),
            "1M",
        ]);
        assert!(matches!(
            refusal(&scratch, &path),
            Refusal::OtherFiles(_) | Refusal::Damaged(_)
        ));
    }
}

#[test]
fn an_encrypted_disk() {
    let scratch = Scratch::new();
    let path = scratch.path("secret.qcow2");
    let secret = ["--object", "secret,id=key,data=abc123"];
    let option = "encrypt.format=aes,encrypt.key-secret=key";
    qemu_img(
        &[
            &["create"],
            &secret[..],
            &["-f", "qcow2", "-o", option, text(&path), "1M"],
        ]
        .concat(),
    );
    assert_eq!(refusal(&scratch, &path), Refusal::Encrypted);
    // The newer method, and its header extension alone.
    patch(&path, 32, &2u32.to_be_bytes());
    assert_eq!(refusal(&scratch, &path), Refusal::Encrypted);
    patch(&path, 32, &0u32.to_be_bytes());
    patch(&path, 112, &0x0537_be77u32.to_be_bytes());
    assert_eq!(refusal(&scratch, &path), Refusal::Encrypted);
    let path = scratch.file("secret.luks", MIB, &[(0, b"LUKS\xba\xbe\0\x01".to_vec())]);
    assert_eq!(refusal(&scratch, &path), Refusal::Encrypted);
}

#[test]
fn differencing_disks_of_other_makers() {
    let scratch = Scratch::new();
    let vdi = scratch.path("difference.vdi");
    qemu_img(&["create", "-f", "vdi", text(&vdi), "1M"]);
    patch(&vdi, 0x1b8, &[1; 16]);
    assert!(matches!(refusal(&scratch, &vdi), Refusal::BackingFile(_)));
    let vhd = scratch.path("difference.vhd");
    qemu_img(&["create", "-f", "vpc", text(&vhd), "10M"]);
    patch(&vhd, 60, &4u32.to_be_bytes());
    assert!(matches!(refusal(&scratch, &vhd), Refusal::BackingFile(_)));
}

#[test]
fn a_disk_larger_than_any() {
    let scratch = Scratch::new();
    for format in ["qcow2", "vmdk", "vdi", "vhdx", "qed", "parallels"] {
        let path = scratch.path("huge.image");
        qemu_img(&["create", "-f", format, text(&path), "3G"]);
        let options = Options {
            limit: Size::gib(2),
            ..options()
        };
        let error = scratch
            .store
            .import(&path, &options, &mut |_| {}, &Cancel::new())
            .unwrap_err();
        let ImportError::Refused {
            refusal: Refusal::TooLarge { found, limit },
            ..
        } = error
        else {
            panic!("{format}: {error}");
        };
        assert_eq!((found >> 20, limit), (3 << 10, 2 << 30), "{format}");
    }
    // By default, too, before another program has to cope with it.
    let path = scratch.path("absurd.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&path), "1M"]);
    patch(&path, 24, &(1u64 << 62).to_be_bytes());
    assert!(matches!(refusal(&scratch, &path), Refusal::TooLarge { .. }));
    patch(&path, 24, &0u64.to_be_bytes());
    assert!(matches!(refusal(&scratch, &path), Refusal::Damaged(_)));
}

#[test]
fn a_damaged_disk() {
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", 8 * MIB, &[(0, noise(1, 3_000_000))]);
    let path = scratch.path("damaged.qcow2");
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&path)]);
    // The first L2 table: clusters that are far outside of the file.
    patch(&path, 4 * 65_536, &[0x80, 0, 0x7f, 0xff, 0xff, 0, 0, 0]);
    assert!(matches!(refusal(&scratch, &path), Refusal::Damaged(_)));
    // Marked as corrupt by QEMU itself.
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&path)]);
    patch(&path, 72, &2u64.to_be_bytes());
    assert!(matches!(refusal(&scratch, &path), Refusal::Damaged(_)));
    // A feature that nobody knows yet.
    patch(&path, 72, &(1u64 << 40).to_be_bytes());
    assert!(matches!(refusal(&scratch, &path), Refusal::Unsupported(_)));
}

/// Four million entries that name one table would be terabytes to read, before any size is compared.
#[test]
fn a_table_that_is_named_again_and_again() {
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", 8 * MIB, &[(0, noise(1, 3_000_000))]);
    let path = scratch.path("endless.qcow2");
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&path)]);
    let entry = {
        let mut entry = [0; 8];
        let file = std::fs::File::open(&path).unwrap();
        file.read_exact_at(&mut entry, 3 * 65_536).unwrap();
        entry
    };
    let entries = 4_000_000u32;
    patch(&path, 36, &entries.to_be_bytes());
    let end = std::fs::metadata(&path).unwrap().len();
    patch(&path, 40, &end.to_be_bytes());
    patch(&path, end, &entry.repeat(4_000_000));
    let Refusal::Damaged(why) = refusal(&scratch, &path) else {
        panic!("refused as something else");
    };
    assert!(why.contains("overlap"), "{why}");
}

#[test]
fn headers_without_anything_behind() {
    let scratch = Scratch::new();
    let beginnings: [&[u8]; 9] = [
        b"QFI\xfb",
        b"QFI\xfb\0\0\0\x03",
        b"QED\0",
        b"KDMV",
        b"COWD",
        b"conectix",
        b"vhdxfile",
        b"WithoutFreeSpace",
        b"# Disk DescriptorFile",
    ];
    for beginning in beginnings {
        for len in [beginning.len(), 512, 4096] {
            let path = scratch.path("beginning.image");
            let mut bytes = beginning.to_vec();
            bytes.resize(len.max(beginning.len()), 0);
            std::fs::write(&path, &bytes).unwrap();
            refusal(&scratch, &path);
        }
    }
}

#[test]
fn archives_are_named_as_what_they_are() {
    let scratch = Scratch::new();
    let path = scratch.path("image.qcow2.gz");
    std::fs::write(&path, [&b"\x1f\x8b"[..], &[0; 510]].concat()).unwrap();
    assert_eq!(refusal(&scratch, &path), Refusal::Packed("a gzip archive"));
    let path = scratch.file("machine.ova", 1024, &[(257, b"ustar".to_vec())]);
    assert_eq!(
        refusal(&scratch, &path),
        Refusal::Packed("a tar archive (an .ova is one)")
    );
    let path = scratch.path("letter.txt");
    std::fs::write(&path, b"dear admin").unwrap();
    assert!(matches!(refusal(&scratch, &path), Refusal::Damaged(_)));
}

#[test]
fn what_is_no_file() {
    let scratch = Scratch::new();
    let found = |path: &Path| {
        let error = scratch.import(path).unwrap_err();
        let ImportError::NotAFile { found, .. } = error else {
            panic!("refused otherwise: {error}")
        };
        found
    };
    assert_eq!(found(scratch.dir.path()), "a directory");
    let fifo = scratch.path("fifo");
    assert!(run("mkfifo", &[text(&fifo)]).status.success());
    assert_eq!(found(&fifo), "a pipe, socket or device");
    let socket = scratch.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(
        scratch.import(&socket).unwrap_err(),
        ImportError::Source { .. }
    ));
    assert_eq!(found(Path::new("/dev/zero")), "a pipe, socket or device");
    let empty = scratch.file("empty", 0, &[]);
    assert_eq!(found(&empty), "an empty file");
    let link = scratch.path("link");
    std::os::unix::fs::symlink(scratch.file("disk.raw", MIB, &[]), &link).unwrap();
    assert_eq!(found(&link), "a symbolic link");
    let nothing = scratch.path("nothing");
    assert!(
        matches!(scratch.import(&nothing).unwrap_err(), ImportError::Source { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound)
    );
}

/// A guest that writes a header into its own first sector must not make the host read anything else: what was
/// imported as raw stays raw, and what is based on it says so.
#[test]
fn what_a_guest_writes_into_its_disk_is_never_a_header() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let overlay = scratch
        .store
        .write_overlays(&[scratch.spec("lab-001@1", image.root, MIB)])
        .unwrap()
        .remove(0)
        .unwrap();
    let info = qemu_img(&["info", "--output=json", text(&overlay.path)]);
    assert!(
        info.contains("\"backing-filename-format\": \"raw\""),
        "{info}"
    );
}
