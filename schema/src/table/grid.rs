use super::{Attribute, Block, Default, Kind, Label, block, live};

pub(super) const GRID: Block = block(
    "grid",
    Label::Name,
    "What holds for the whole grid; at most one.",
    ATTRIBUTES,
)
.with(&[CERTIFICATE]);

const ATTRIBUTES: &[Attribute] = &[
    live(
        "timezone",
        Kind::Timezone,
        "IANA time zone in which clock times and days are meant.",
    )
    .default(Default::Text("UTC")),
    live(
        "tolerate_server_loss",
        Kind::Number(0, 2),
        "How many servers may be lost with all pools still carried: a plan that makes that worse is refused.",
    )
    .unit("servers")
    .default(Default::Number(0)),
    live(
        "lost_after",
        Kind::Duration(1_000, 3_600_000),
        "Silence after which a server counts as lost; longer where longer pauses were measured.",
    )
    .default(Default::Text("5s")),
    live(
        "fence_after",
        Kind::Duration(10_000, 3_600_000),
        "How long a server runs personal desktops with `copies` without word from the grid. Then it ends them, and a little later they go on elsewhere from a copy.",
    )
    .default(Default::Text("30s")),
    live(
        "image_bandwidth",
        Kind::Size(1 << 10, 1 << 40),
        "How fast a server receives images from others, and how fast it sends them; as fast as it goes without.",
    )
    .unit("per second"),
    live(
        "image_window",
        Kind::Ref("window"),
        "Images are copied only within that window, but for what repairs a bad copy. At any time without.",
    ),
    live(
        "address",
        Kind::Address,
        "One address for the whole grid, held by one server that can be reached: whoever leads. In the servers' own \
         network, and no machine's own address; it answers at the port of that server's `listen`.",
    ),
    live(
        "keep_revisions",
        Kind::Number(1, 10_000),
        "How many committed configurations are kept to go back to.",
    )
    .unit("revisions")
    .default(Default::Number(50)),
];

const CERTIFICATE: Block = block(
    "certificate",
    Label::None,
    "Where the portal's certificate comes from: one of the two. The grid's own CA without.",
    &[],
)
.with(&[FILES, ACME])
.later();

const FILES: Block = block(
    "files",
    Label::None,
    "A certificate that was issued elsewhere.",
    &[
        live(
            "certificate_file",
            Kind::File,
            "PEM file with the chain, leaf first.",
        )
        .required(),
        live("key", Kind::Secret, "The private key.").required(),
    ],
);

const ACME: Block = block(
    "acme",
    Label::None,
    "A certificate that an ACME server issues.",
    &[
        live("directory", Kind::Text, "Its directory URL, `https://`.").default(Default::Text(
            "https://acme-v02.api.letsencrypt.org/directory",
        )),
        live("email", Kind::Text, "Contact address of the account.").required(),
        live("domains", Kind::Texts, "Names that the certificate is for.").required(),
    ],
);
