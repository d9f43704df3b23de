use super::{Attribute, Block, Default, Kind, Label, block, live, regrow};

pub(super) const POOL: Block = block("pool", Label::Name, "Desktops of a kind.", ATTRIBUTES)
    .with(&[BOOKING])
    .repeats();

/// Most desktops of one pool.
pub(crate) const DESKTOPS_MAX: u64 = 10_000;

const ATTRIBUTES: &[Attribute] = &[
    regrow("template", Kind::Ref("template"), "What its desktops are.").required(),
    live("desktops", Kind::Number(0, DESKTOPS_MAX), "How many there are.").required(),
    live("slots", Kind::Number(0, 2 * DESKTOPS_MAX), "How many places they have.")
        .default(Default::Depends("`desktops` and the most that one server carries")),
    regrow("hostname", Kind::Hostname, "Their host names, with `{pool}`, `{slot}` and `{slot:02}`; unique in the grid, and at most 15 characters for windows.")
        .default(Default::Text("{pool}-{slot:02}")),
    live("assignment", Kind::Choice(&["pooled", "personal", "client"]), "Who gets which: any, always the same, or by the client's place (known, not carried out by this version). What was personal once stays it until a person regrows it.")
        .default(Default::Text("pooled")),
    live("policies", Kind::Refs("policy"), "Its rules.").default(Default::Texts(&[])),
    live("entitled", Kind::Entitlements, "Who may have a desktop.").default(Default::Texts(&[])).later(),
    live("hours", Kind::Ref("window"), "When they may.").later(),
    live("servers", Kind::Texts, "Labels that a server must have to carry its desktops.").default(Default::Texts(&[])),
    live("copies", Kind::Number(0, 2), "Copies of personal desktops on other servers.").default(Default::Number(0)),
    live("max_copy_age", Kind::Duration(60_000, 31_622_400_000), "How old such a copy may become, with `copies`; it is made anew at half of that.")
        .default(Default::Depends("15 minutes")),
    live("protect", Kind::Flag, "No plan destroys it, or most of it, without approval; kept when the block goes.").default(Default::Flag(false)),
];

const BOOKING: Block = block(
    "booking",
    Label::Name,
    "A reservation of the pool.",
    &[
        live("from", Kind::Moment, "Begin, in the grid's time zone.").required(),
        live("to", Kind::Moment, "End, likewise.").required(),
        live(
            "template",
            Kind::Ref("template"),
            "What the desktops are then.",
        ),
        live("entitled", Kind::Entitlements, "Who may have one then.").default(Default::Texts(&[])),
    ],
)
.later();
