use super::{Attribute, Block, Default, Kind, Label, block, live, regrow};

const DAY: u64 = 86_400_000;
const MINUTE: u64 = 60_000;

pub(super) const WINDOW: Block = block(
    "window",
    Label::Name,
    "A repeated time: `days`, `from` and `to`, or `cron` and `duration`.",
    &[
        live("days", Kind::Days, "On which days it begins."),
        live("from", Kind::Clock, "When it opens."),
        live(
            "to",
            Kind::Clock,
            "When it closes; not later than `from` means on the next day.",
        ),
        live(
            "cron",
            Kind::Cron,
            "When it opens, as minute, hour, day, month and weekday.",
        ),
        live(
            "duration",
            Kind::Duration(MINUTE, 7 * DAY),
            "How long it stays open.",
        ),
        live(
            "deny",
            Kind::Flag,
            "Within it disruptive work is refused (a freeze).",
        )
        .default(Default::Flag(false)),
    ],
);

pub(super) const NETWORK: Block = block(
    "network",
    Label::Name,
    "What a virtual network card is plugged into: one of `bridge`, `libvirt` and `user`. A server whose own file maps the name otherwise wins.",
    NETWORK_ATTRIBUTES,
)
.repeats();

const NETWORK_ATTRIBUTES: &[Attribute] = &[
    regrow(
        "bridge",
        Kind::Text,
        "A bridge of the server, by its interface name.",
    ),
    regrow(
        "libvirt",
        Kind::Text,
        "A network of libvirt, by its name there.",
    ),
    regrow(
        "user",
        Kind::Flag,
        "Emulated in user space: needs no privileges, and is not reachable from outside.",
    ),
    regrow(
        "vlan",
        Kind::Number(1, 4094),
        "VLAN tag, for `bridge` and `libvirt`.",
    ),
];

pub(super) const LOCATION: Block = block(
    "location",
    Label::Name,
    "A place from which people come: handed to guests, and usable in `entitled` and for `assignment = \"client\"`.",
    &[
        live("clients", Kind::Networks, "Networks of the clients there.").required(),
        live("printers", Kind::Texts, "Printers there.").default(Default::Texts(&[])),
    ],
)
.later();

pub(super) const SERVER: Block = block(
    "server",
    Label::Pattern,
    "Limits for the servers whose name matches; never a list of servers that must exist.",
    &[
        live(
            "labels",
            Kind::Texts,
            "Labels they have, beside those in their own files.",
        )
        .default(Default::Texts(&[])),
        live(
            "keep_free_memory",
            Kind::Size(0, 1 << 50),
            "Memory that desktops leave free.",
        )
        .default(Default::Text("0B")),
        live(
            "keep_free_disk",
            Kind::Size(0, 1 << 60),
            "Disk that desktops leave free. A desktop is placed where images, this, and what each desktop may grow to fit \
             into the disk: `disk_limit`, without it an eighth of the desktop's disk, and what it takes if that is more.",
        )
        .default(Default::Text("0B")),
        live("cordon", Kind::Flag, "They get no new desktops.").default(Default::Flag(false)),
    ],
);
