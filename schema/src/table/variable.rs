use super::{Block, Kind, Label, block, live};

pub(super) const VARIABLE: Block = block(
    "variable",
    Label::Word,
    "A value that is given from outside: `--var NAME=VALUE`, a file of variables, or `COPPICE_VAR_NAME`; read as `var.NAME`.",
    &[
        live("type", Kind::Type, "`string`, `number`, `bool`, `any`, or `list()`, `set()` and `map()` of one of them."),
        live("default", Kind::Any, "Its value when none is given; without, one must be."),
        live("description", Kind::Text, "What it is for."),
    ],
)
.with(&[block(
    "validation",
    Label::None,
    "What its value must satisfy.",
    &[
        live("condition", Kind::Condition, "An expression over `var.NAME` that is true for a good value.").required(),
        live("error_message", Kind::Text, "What is said otherwise.").required(),
    ],
)]);

pub(super) const LOCALS: Block = block(
    "locals",
    Label::None,
    "Names for expressions: `a = 1` is read as `local.a`.",
    &[],
);

pub(super) const MOVED: Block = block(
    "moved",
    Label::None,
    "A block got another name: an image keeps its versions. A pool's desktops are grown anew, and the plan says so.",
    &[
        live(
            "from",
            Kind::BlockAddress,
            "The former address, such as `pool.lab`.",
        )
        .required(),
        live("to", Kind::BlockAddress, "The present one.").required(),
    ],
);
