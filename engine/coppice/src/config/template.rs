//! The file that `coppice init` writes: every key, explained.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use coppice_schema::ids::ServerName;

/// What was chosen when a server began.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'a> {
    /// Where its files are.
    pub(crate) data: &'a Path,
    /// Its name.
    pub(crate) name: &'a ServerName,
    /// Where the API answers.
    pub(crate) listen: SocketAddr,
    /// Where other servers reach it, if that is elsewhere.
    pub(crate) advertise: Option<&'a str>,
    /// Under which names it is reached, beside those that it knows itself.
    pub(crate) names: &'a BTreeSet<String>,
    /// What runs the desktops; `None`: it is a witness.
    pub(crate) hypervisor: Option<&'a str>,
}

/// A server's file with what was chosen, and everything else as a comment.
pub(crate) fn text(chosen: &Chosen<'_>) -> String {
    let Chosen {
        name,
        listen,
        names,
        ..
    } = chosen;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let data = quoted(&chosen.data.display().to_string());
    let advertise = match chosen.advertise {
        Some(address) => format!("advertise = {}", quoted(address)),
        None => "# advertise = \"host-1.example.org:7443\"".to_owned(),
    };
    let hypervisor = match chosen.hypervisor {
        Some(uri) => format!("hypervisor = {}", quoted(uri)),
        None => "witness = true".to_owned(),
    };
    let names = if names.is_empty() {
        "# names = [\"desk.example.org\"]".to_owned()
    } else {
        let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        format!("names = [{}]", list.join(", "))
    };
    format!(
        r#"# What only this server knows. What the whole grid agrees on is in HCL: see `coppice plan`.
# Relative paths are below the directory of this file. After a change, restart `coppice serve`.

# Where the grid's log, keys, images and the disks of desktops are on this server.
data = {data}

# This server's name in the grid. It does not change while the server is a member.
name = "{name}"

# Where the API answers. 0.0.0.0:7443 is every address of this machine.
listen = "{listen}"

# Where the other servers of the grid reach this one, if that is not the address above.
# Without it and with 0.0.0.0 above, it is the first address of this machine.
{advertise}

# Under which other names and addresses clients reach it: they refuse a server whose certificate does not have the
# one that they use. It has the address above, or all of this machine's for 0.0.0.0, and this server's name.
{names}

# What runs the desktops: a libvirt URI, or sim:// to try things out without any.
#   qemu:///embed?root=DIR  QEMU without a daemon; desktops run on while Coppice restarts
#   qemu:///system          the libvirt daemon of this machine
#                           (the user that it runs QEMU as may pass through `data`; directories above it are yours to
#                           open to that user, with chmod o+x)
# A server with `witness = true` instead of it only votes, beside two others.
{hypervisor}

# On the processor (kvm), or emulated and slower (emulated). auto: by what the processor can.
# accelerate = "auto"

# What pools may ask for with `servers = ["gpu"]`.
# labels = ["gpu"]

# What is written to standard error: off, error, warn, info, debug or trace.
# log = "info"

# Networks that are something else on this server than the configuration says: one of `bridge`, `libvirt`
# and `user = true`, and perhaps a `vlan`.
# [networks.lab]
# bridge = "br0"
# vlan   = 12
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read;

    #[test]
    fn what_init_writes_is_read_back_also_when_every_comment_is_lifted() {
        let data = Path::new("/srv/a \"b\"\\c");
        let name = "host-1".parse().unwrap();
        let names = BTreeSet::new();
        let chosen = Chosen {
            data,
            name: &name,
            listen: "127.0.0.1:7443".parse().unwrap(),
            advertise: None,
            names: &names,
            hypervisor: Some("sim://"),
        };
        let witness = text(&Chosen {
            hypervisor: None,
            ..chosen
        });
        let text = text(&chosen);
        assert!(read::read(&witness, Path::new("/x")).unwrap().witness);
        let config = read::read(&text, Path::new("/x")).unwrap();
        assert_eq!(config.data, data);
        assert_eq!(config.hypervisor, "sim://");
        // A key or a table stands alone before what it is given; prose does not.
        let is_key = |rest: &str| {
            let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
            rest.starts_with('[') || !value.is_empty() && !name.trim_end().contains(' ')
        };
        let lifted: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if is_key(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for key in [
            "\nadvertise =",
            "\nnames =",
            "\naccelerate =",
            "\nlabels =",
            "\nlog =",
            "\n[networks.lab]",
        ] {
            assert!(lifted.contains(key), "{key} is not explained");
        }
        assert_eq!(
            read::read(&lifted, Path::new("/x")).unwrap().networks.len(),
            1
        );
    }
}
