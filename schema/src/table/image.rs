use super::{Attribute, Block, Default, Kind, Label, block, live, regrow};

pub(super) const IMAGE: Block = block(
    "image",
    Label::Name,
    "A golden image: `version` or `source` says which bytes.",
    ATTRIBUTES,
)
.with(&[UPDATE]);

const MINUTE: u64 = 60_000;

const ATTRIBUTES: &[Attribute] = &[
    regrow(
        "version",
        Kind::Version,
        "A version that was, or will be, imported under that name.",
    ),
    regrow("source", Kind::Source, "A file beside the configuration."),
    regrow(
        "digest",
        Kind::Digest,
        "What the BLAKE3 of the source's bytes must be.",
    ),
    regrow(
        "os",
        Kind::Choice(&["linux", "windows", "other"]),
        "What runs in it: decides defaults and the rules for host names.",
    )
    .required(),
    live(
        "copies",
        Kind::Copies,
        "How many servers hold a verified copy: all that could run a desktop of it, or a number. More than that are dropped \
         where no desktop needs them.",
    )
    .default(Default::Text("all")),
    live(
        "keep",
        Kind::Number(0, 1_000),
        "Earlier versions kept for going back; older ones that no desktop is a clone of are deleted, but for those of a \
         protected image.",
    )
    .unit("versions")
    .default(Default::Number(2)),
    regrow(
        "agent",
        Kind::Flag,
        "The guest answers as qemu-guest-agent, which tells that a desktop is ready.",
    )
    .default(Default::Flag(true)),
    live(
        "ready_after",
        Kind::Duration(0, 60 * MINUTE),
        "For guests without the agent: how long after its start a desktop counts as ready.",
    ),
    live(
        "protect",
        Kind::Flag,
        "No plan destroys it without approval; kept when the block goes.",
    )
    .default(Default::Flag(false)),
];

const UPDATE: Block = block(
    "update",
    Label::None,
    "How the image keeps itself patched: at `days` and `from`, or at `cron`.",
    &[
        live("days", Kind::Days, "On which days."),
        live("from", Kind::Clock, "At what time."),
        live(
            "cron",
            Kind::Cron,
            "When, as minute, hour, day, month and weekday.",
        ),
        live("script", Kind::Text, "Script that is run in the guest.").required(),
        live(
            "test",
            Kind::Text,
            "Script that must succeed before the result is published.",
        ),
        live(
            "timeout",
            Kind::Duration(MINUTE, 24 * 60 * MINUTE),
            "Limit for both.",
        )
        .default(Default::Text("2h")),
    ],
)
.later();
