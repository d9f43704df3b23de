use super::{Attribute, Block, Default, Kind, Label, block, live, regrow};

pub(super) const DIRECTORY: Block = block(
    "directory",
    Label::Name,
    "A directory of people.",
    ATTRIBUTES,
)
.with(&[COMPUTERS])
.later();

const LIMIT: Kind = Kind::Duration(100, 300_000);

const ATTRIBUTES: &[Attribute] = &[
    live("type", Kind::Choice(&["ad", "openldap", "freeipa", "ldap", "local", "oidc"]), "What it is.").required(),
    live("uri", Kind::Texts, "Its servers in the order in which they are tried, `ldaps://` or `ldap://` with `start_tls`; `https://` for oidc.")
        .default(Default::Texts(&[])),
    live("domain", Kind::Text, "DNS domain in which servers are found where `uri` names none."),
    live("ca_file", Kind::File, "PEM file with the CA that its certificates must chain to; the system's without."),
    live("start_tls", Kind::Flag, "Begin TLS on a plain connection.").default(Default::Flag(false)),
    live("bind_user", Kind::Text, "Who looks people up."),
    live("bind_password", Kind::Secret, "That user's password."),
    live("base_dn", Kind::Text, "Where people are."),
    live("user_filter", Kind::Text, "Which entries are people."),
    live("user_attr", Kind::Text, "The attribute that holds the login."),
    live("id_attr", Kind::Text, "The attribute that never changes."),
    live("group_base_dn", Kind::Text, "Where groups are."),
    live("group_filter", Kind::Text, "Which entries are groups."),
    live("member_attr", Kind::Text, "The attribute that holds members."),
    live("nested_groups", Kind::Flag, "Groups within groups count.").default(Default::Flag(true)),
    live("require_group", Kind::Text, "Group without which nobody signs in."),
    live("connect_timeout", LIMIT, "Limit for a connection.").default(Default::Text("3s")),
    live("timeout", LIMIT, "Limit for an answer.").default(Default::Text("5s")),
    live("page_size", Kind::Number(1, 10_000), "Entries asked for at once.").unit("entries").default(Default::Number(500)),
    live("cache_ttl", Kind::Duration(0, 86_400_000), "How long an answer is believed.").default(Default::Text("60s")),
    live("totp", Kind::Choice(&["off", "optional", "required"]), "Whether one-time codes are asked for.")
        .default(Default::Text("off")),
];

const COMPUTERS: Block = block(
    "computers",
    Label::None,
    "Where and as whom computer accounts are made.",
    &[
        regrow("ou", Kind::Text, "Organisational unit of the accounts.").required(),
        live("bind_user", Kind::Text, "Who makes them.").required(),
        live("bind_password", Kind::Secret, "That user's password.").required(),
    ],
);
