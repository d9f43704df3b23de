use super::{Attribute, Block, Default, Kind, Label, block, live, next_boot, regrow};

pub(super) const TEMPLATE: Block = block(
    "template",
    Label::Name,
    "The hardware that desktops of a kind have.",
    ATTRIBUTES,
)
.with(&[GUEST])
.repeats();

const DISK: Kind = Kind::Size(1 << 20, 1 << 50);

const ATTRIBUTES: &[Attribute] = &[
    regrow(
        "image",
        Kind::Ref("image"),
        "The image that its desktops are clones of.",
    )
    .required(),
    next_boot("cpus", Kind::Number(1, 512), "Virtual processors.").default(Default::Number(1)),
    next_boot("memory", Kind::Size(16 << 20, 1 << 46), "Memory.").required(),
    regrow(
        "disk",
        DISK,
        "Virtual size of the disk, at least the image's; the image's without.",
    ),
    live(
        "disk_limit",
        DISK,
        "Size to which an overlay may grow: a pooled desktop that is beyond it is regrown. So much of a server's disk is \
         counted for it; without, an eighth of its disk.",
    ),
    regrow(
        "firmware",
        Kind::Choice(&["bios", "uefi", "uefi-secure"]),
        "How a desktop boots.",
    )
    .default(Default::Depends(
        "by the image's `os`: uefi-secure for windows, bios otherwise",
    )),
    regrow("tpm", Kind::Flag, "A virtual TPM.")
        .default(Default::Flag(false))
        .later(),
    regrow(
        "network",
        Kind::Refs("network"),
        "Network cards in order; none without.",
    )
    .default(Default::Texts(&[])),
    next_boot(
        "display",
        Kind::Choices(&["vnc", "spice", "rdp"]),
        "How the screen is reached: by the hypervisor (vnc, spice) or by the guest (rdp).",
    )
    .default(Default::Texts(&["vnc"])),
    next_boot(
        "video",
        Kind::Choice(&["vga", "virtio", "qxl"]),
        "Video hardware.",
    )
    .default(Default::Depends("by `display`")),
    next_boot(
        "cache",
        Kind::Choice(&["writeback", "none"]),
        "Host caching of the disk.",
    )
    .default(Default::Depends(
        "by the pool's `assignment`: none for personal, writeback otherwise",
    )),
    next_boot(
        "libvirt_xml",
        Kind::Text,
        "XML that is merged into the libvirt domain, at own risk. It can reach every file of a server: only a token \
         with the scope admin commits it, or a change of it.",
    ),
];

const GUEST: Block = block(
    "guest",
    Label::None,
    "What is done inside the guest.",
    &[
        regrow("hostname", Kind::Flag, "The guest's host name is set.")
            .default(Default::Flag(true)),
        regrow(
            "script",
            Kind::Text,
            "Script that is run at the first start.",
        ),
        regrow(
            "join",
            Kind::Ref("directory"),
            "Directory whose domain it joins.",
        ),
        regrow(
            "profile_path",
            Kind::Text,
            "Path of profiles, with `{user}`.",
        ),
        regrow("specialize", Kind::Text, "Windows answer file."),
    ],
)
.later();
