use super::{Block, Default, Kind, Label, block, live, next_boot};

pub(super) const POLICY: Block = block(
    "policy",
    Label::Name,
    "Rules for the desktops of pools. A pool may list several; two that set the same attribute are an error.",
    &[],
)
.with(&[REFRESH, ROLLOUT, POWER, SESSION, CHANNELS, DRIFT]);

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const YEAR: u64 = 366 * 24 * HOUR;

const REFRESH: Block = block(
    "refresh",
    Label::None,
    "When desktops are regrown; any trigger fires.",
    &[
        live(
            "on",
            Kind::Choice(&["logoff", "disconnect", "never"]),
            "The end of a session: with `logoff`, a pooled desktop that was used is regrown when the last of its people \
             has left. Who is signed in is known from the guest agent. `disconnect` is not carried out by this version, \
             which sees no displays.",
        ),
        live(
            "every",
            Kind::Duration(MINUTE, YEAR),
            "That long after a desktop was grown.",
        ),
        live(
            "max_age",
            Kind::Duration(MINUTE, YEAR),
            "No desktop becomes older than that.",
        ),
        live(
            "deadline",
            Kind::Duration(MINUTE, YEAR),
            "A used desktop is regrown anyway, that long after the trigger, or after its people came if that was later. \
             Without, they are always waited for.",
        ),
        live(
            "warn",
            Kind::Duration(0, YEAR),
            "Its user is warned that long before. Not carried out by this version, which has no way to tell a guest.",
        )
        .later(),
    ],
)
.with(&[AT]);

const AT: Block = block(
    "at",
    Label::None,
    "At repeated moments: `days` and `from`, or `cron`.",
    &[
        live("days", Kind::Days, "On which days."),
        live("from", Kind::Clock, "At what time."),
        live(
            "cron",
            Kind::Cron,
            "When, as minute, hour, day, month and weekday.",
        ),
    ],
);

const ROLLOUT: Block = block(
    "rollout",
    Label::None,
    "How a change reaches the desktops of a pool.",
    &[
        live(
            "max_unavailable",
            Kind::Share,
            "At most so many are taken away at once.",
        )
        .unit("of the pool's desktops")
        .default(Default::Text("10%")),
        live(
            "max_surge",
            Kind::Share,
            "So many may be made beyond the pool's size.",
        )
        .unit("of the pool's desktops")
        .default(Default::Number(0)),
        live(
            "canary",
            Kind::Number(0, 10_000),
            "So many first, and the rest only when they are well.",
        )
        .unit("desktops")
        .default(Default::Number(0)),
        live(
            "healthy_after",
            Kind::Duration(0, 24 * HOUR),
            "How long a changed desktop must be well before the next.",
        )
        .default(Default::Text("0s")),
        live(
            "pause_after_failures",
            Kind::Number(1, 10_000),
            "After so many failures the roll-out stops.",
        )
        .unit("desktops")
        .default(Default::Number(1)),
        live(
            "rollback",
            Kind::Flag,
            "When a roll-out stops because clones of the published version did not become ready, those are regrown with \
             the version before, as long as a server holds it. What is well stays. The roll-out stays stopped until \
             another version is published, the template changes, or a person resumes the pool.",
        )
        .default(Default::Flag(true)),
        live("window", Kind::Ref("window"), "Only within that window."),
    ],
);

const POWER: Block = block(
    "power",
    Label::None,
    "How many desktops are running; all, where no policy of a pool has this block.",
    &[
        live(
            "spare",
            Kind::Number(0, 10_000),
            "Booted and not assigned; refilled.",
        )
        .unit("desktops")
        .default(Default::Number(0)),
        live(
            "powered_on_max",
            Kind::Number(0, 10_000),
            "At most so many run.",
        )
        .unit("desktops"),
    ],
)
.with(&[SCHEDULE]);

const SCHEDULE: Block = block(
    "schedule",
    Label::Name,
    "Other figures at some hours; schedules never overlap.",
    &[
        live("days", Kind::Days, "On which days it begins.").required(),
        live("from", Kind::Clock, "When it begins.").required(),
        live(
            "to",
            Kind::Clock,
            "When it ends; not later than `from` means on the next day.",
        )
        .required(),
        live("spare", Kind::Number(0, 10_000), "Then `spare` is this.")
            .unit("desktops")
            .required(),
        live(
            "powered_on_max",
            Kind::Number(0, 10_000),
            "Then `powered_on_max` is this.",
        )
        .unit("desktops"),
    ],
);

const SESSION: Block = block(
    "session",
    Label::None,
    "Limits of sessions.",
    &[
        live(
            "idle_disconnect",
            Kind::Duration(MINUTE, YEAR),
            "Disconnect after that long without input.",
        ),
        live(
            "disconnected_logoff",
            Kind::Duration(0, YEAR),
            "Log off after that long disconnected.",
        ),
        live(
            "max_duration",
            Kind::Duration(MINUTE, YEAR),
            "Log off after that long.",
        ),
        live("warn", Kind::Duration(0, YEAR), "Warn that long before."),
        live(
            "per_user",
            Kind::Number(1, 100),
            "Desktops of the pool that one person may have.",
        )
        .unit("desktops")
        .default(Default::Number(1)),
    ],
)
.later();

const CHANNELS: Block = block(
    "channels",
    Label::None,
    "What passes between client and desktop; nothing, where it is not said.",
    &[
        next_boot(
            "clipboard",
            Kind::Choice(&["none", "in", "out", "both"]),
            "Directions of the clipboard, seen from the desktop.",
        )
        .default(Default::Text("none")),
        next_boot(
            "usb",
            Kind::Texts,
            "USB devices, as `VENDOR:PRODUCT` in hexadecimal digits; `*` for any.",
        )
        .default(Default::Texts(&[])),
        next_boot("printers", Kind::Flag, "Printers of the client.").default(Default::Flag(false)),
        next_boot("drives", Kind::Flag, "Drives of the client.").default(Default::Flag(false)),
        next_boot("audio", Kind::Flag, "Sound from the desktop.").default(Default::Flag(false)),
        next_boot("microphone", Kind::Flag, "Sound to the desktop.").default(Default::Flag(false)),
        next_boot("smartcards", Kind::Flag, "Smart cards.").default(Default::Flag(false)),
    ],
)
.later();

const RULES: Kind = Kind::Choice(&["enforce", "warn", "ignore"]);

const DRIFT: Block = block(
    "drift",
    Label::None,
    "What is done about changes that others made.",
    &[
        live("domain", RULES, "The hypervisor's object.").default(Default::Depends(
            "identity, disks and networks are enforced, the rest warns",
        )),
        live("disk", RULES, "Overlays.").default(Default::Text("enforce")),
        live("image", RULES, "Images.").default(Default::Text("enforce")),
        live(
            "server",
            RULES,
            "Servers. Not carried out by this version: what it writes on a server are domains, overlays and images, which \
             have rules of their own; of the server itself it writes nothing that others could change.",
        )
            .default(Default::Text("warn"))
            .later(),
    ],
);
