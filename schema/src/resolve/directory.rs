use crate::desired::{Computers, Directory, DirectoryKind, Totp};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;

pub(super) fn directory(fields: &Fields, report: &Report) -> Option<Directory> {
    let kind = match fields.word("type")? {
        "ad" => DirectoryKind::Ad,
        "openldap" => DirectoryKind::OpenLdap,
        "freeipa" => DirectoryKind::FreeIpa,
        "ldap" => DirectoryKind::Ldap,
        "local" => DirectoryKind::Local,
        _ => DirectoryKind::Oidc,
    };
    let uri = fields.texts("uri")?;
    check_servers(fields, kind, &uri, report);
    for (one, other) in [
        ("bind_user", "bind_password"),
        ("bind_password", "bind_user"),
    ] {
        if fields.says(one) && !fields.says(other) {
            let problem = Problem::error(
                "V0204",
                fields.place(one),
                format!("`{one}` needs `{other}`"),
            );
            report.push(problem.help("set both, or neither for an anonymous bind"));
        }
    }
    let computers = fields.inner("computers").and_then(|inner| {
        Some(Computers {
            ou: inner.text("ou")?,
            bind_user: inner.text("bind_user")?,
            bind_password: inner.secret("bind_password")?,
        })
    });
    Some(Directory {
        kind,
        uri,
        domain: fields.text("domain"),
        ca: fields.text("ca_file"),
        start_tls: fields.flag("start_tls"),
        bind_user: fields.text("bind_user"),
        bind_password: fields.secret("bind_password"),
        base_dn: fields.text("base_dn"),
        user_filter: fields.text("user_filter"),
        user_attr: fields.text("user_attr"),
        id_attr: fields.text("id_attr"),
        group_base_dn: fields.text("group_base_dn"),
        group_filter: fields.text("group_filter"),
        member_attr: fields.text("member_attr"),
        nested_groups: fields.flag("nested_groups"),
        require_group: fields.text("require_group"),
        connect_timeout: fields.span("connect_timeout")?,
        timeout: fields.span("timeout")?,
        page_size: fields.count("page_size")?,
        cache_ttl: fields.span("cache_ttl")?,
        totp: match fields.word("totp")? {
            "required" => Totp::Required,
            "optional" => Totp::Optional,
            _ => Totp::Off,
        },
        computers,
    })
}

fn check_servers(fields: &Fields, kind: DirectoryKind, uri: &[String], report: &Report) {
    let at = fields.place("uri");
    if kind == DirectoryKind::Local {
        if fields.says("uri") || fields.says("domain") {
            let problem = Problem::error(
                "V0211",
                fields.place(if fields.says("uri") { "uri" } else { "domain" }),
                "a local directory has no servers",
            );
            report.push(problem.help("remove it: its users are in the grid's own state"));
        }
        return;
    }
    let found_by_domain = kind != DirectoryKind::Oidc && fields.says("domain");
    if uri.is_empty() && !found_by_domain && !fields.failed("uri") {
        let problem = Problem::error(
            "V0204",
            fields.at,
            "`directory` needs `uri`, or `domain` to find its servers",
        );
        report.push(problem);
    }
    for uri in uri {
        let shown: String = uri.chars().take(120).collect();
        let (secure, plain) = if kind == DirectoryKind::Oidc {
            ("https://", "http://")
        } else {
            ("ldaps://", "ldap://")
        };
        let rest = uri.strip_prefix(secure).or_else(|| uri.strip_prefix(plain));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
            let problem = Problem::error(
                "V0210",
                at,
                format!("{shown:?} is no address of such a directory"),
            );
            report.push(problem.help(format!("write {secure}HOST")));
        } else if uri.starts_with(plain)
            && (kind == DirectoryKind::Oidc || !fields.flag("start_tls"))
        {
            let problem = Problem::error(
                "V0406",
                at,
                format!("{shown:?} would send passwords without TLS"),
            );
            let help = if kind == DirectoryKind::Oidc {
                "write https://"
            } else {
                "write ldaps://, or add `start_tls = true`"
            };
            report.push(problem.help(help));
        }
    }
}
