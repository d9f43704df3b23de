//! A template's `libvirt_xml`: a fragment that is merged into the domain.

use super::tree::{Element, Node};

/// Why a fragment cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFragment {
    /// It does not read.
    #[error("libvirt_xml is not XML: {0}")]
    NotXml(#[from] super::tree::NotXml),
    /// Its root is another element.
    #[error("libvirt_xml must be a <domain> element, and is <{0}>")]
    NotDomain(String),
    /// It sets what the template sets by its own attributes.
    #[error("libvirt_xml may not hold {path}: {instead}")]
    Owned {
        /// The element or attribute.
        path: String,
        /// What to use.
        instead: &'static str,
    },
}

/// Merges `fragment` into `domain`: an element that the domain has, outside `<devices>`, takes its attributes and
/// children; every other one, and each device, is added at the end. What the template's own attributes say stays
/// theirs, or what is read back would never be what was asked for.
pub(super) fn merge(domain: &mut Element, fragment: &str) -> Result<(), BadFragment> {
    let fragment = Element::parse(fragment)?;
    if fragment.name != "domain" || fragment.namespace.is_some() {
        return Err(BadFragment::NotDomain(fragment.name));
    }
    refuse_owned(&fragment)?;
    for node in fragment.children {
        if let Node::Element(child) = node {
            merge_child(domain, child);
        }
    }
    Ok(())
}

fn merge_child(target: &mut Element, child: Element) {
    let adds = target.name == "devices" || child.name == "sysinfo";
    let known = target.children.iter_mut().find_map(|node| match node {
        Node::Element(element)
            if !adds && element.name == child.name && element.namespace == child.namespace =>
        {
            Some(element)
        }
        Node::Element(_) | Node::Text(_) => None,
    });
    let Some(known) = known else {
        target.push(child);
        return;
    };
    for (name, value) in child.attributes {
        known.set(&name, value);
    }
    for node in child.children {
        match node {
            Node::Element(element) => merge_child(known, element),
            Node::Text(text) if text.trim().is_empty() => {}
            Node::Text(text) => {
                known
                    .children
                    .retain(|node| matches!(node, Node::Element(_)));
                known.children.push(Node::Text(text));
            }
        }
    }
}

fn refuse_owned(fragment: &Element) -> Result<(), BadFragment> {
    let owned = |path: &str, instead| {
        Err(BadFragment::Owned {
            path: path.to_owned(),
            instead,
        })
    };
    if !fragment.attributes.is_empty() {
        return owned(
            "attributes of <domain>",
            "the server chooses the domain's type",
        );
    }
    for child in fragment
        .elements()
        .filter(|child| child.namespace.is_none())
    {
        match child.name.as_str() {
            "name" | "uuid" | "metadata" => {
                return owned(&format!("<{}>", child.name), "the grid sets it");
            }
            "memory" | "currentMemory" | "maxMemory" => {
                return owned(&format!("<{}>", child.name), "use the template's memory");
            }
            "vcpu" | "vcpus" => {
                return owned(&format!("<{}>", child.name), "use the template's cpus");
            }
            "os" if child.attribute("firmware").is_some() || child.find(&["loader"]).is_some() => {
                return owned("firmware in <os>", "use the template's firmware");
            }
            _ => {}
        }
    }
    let devices = fragment.all("devices").flat_map(Element::elements);
    for device in devices {
        let kind = device.attribute("type").unwrap_or_default();
        match device.name.as_str() {
            "graphics" if kind == "vnc" || kind == "spice" => {
                return owned(
                    &format!("<graphics type='{kind}'>"),
                    "use the template's displays",
                );
            }
            "channel" if is_agent(device) => {
                return owned("the guest agent's channel", "use the template's agent");
            }
            "disk"
                if matches!(
                    device.find(&["target"]).and_then(|t| t.attribute("dev")),
                    Some("vda" | "vdb")
                ) =>
            {
                return owned("a disk at vda or vdb", "these are the desktop's own disks");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a channel is the guest agent's.
pub(super) fn is_agent(channel: &Element) -> bool {
    channel
        .find(&["target"])
        .and_then(|target| target.attribute("name"))
        == Some("org.qemu.guest_agent.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(domain: &str, fragment: &str) -> String {
        let mut domain = Element::parse(domain).unwrap();
        merge(&mut domain, fragment).unwrap();
        domain.to_text().unwrap()
    }

    #[test]
    fn known_elements_take_what_is_given_and_devices_are_added() {
        let domain = "<domain><features><acpi/></features><clock offset='utc'/><devices><rng model='a'/></devices></domain>";
        let fragment =
            "<domain>\n <features><hyperv mode='custom'/></features><clock offset='localtime'/>
            <devices><rng model='b'/></devices><title>t</title></domain>";
        assert_eq!(
            merged(domain, fragment),
            "<domain><features><acpi/><hyperv mode='custom'/></features><clock offset='localtime'/>\
             <devices><rng model='a'/><rng model='b'/></devices><title>t</title></domain>"
        );
    }

    #[test]
    fn other_namespaces_stay_what_they_are() {
        let fragment = "<domain xmlns:qemu='urn:q'><qemu:commandline><qemu:arg value='-d'/></qemu:commandline></domain>";
        assert_eq!(
            merged("<domain/>", fragment),
            "<domain><commandline xmlns='urn:q'><arg value='-d'/></commandline></domain>"
        );
    }

    #[test]
    fn what_the_template_says_itself_is_refused_with_the_way_to_say_it() {
        for (fragment, part) in [
            (
                "<domain><memory>1</memory></domain>",
                "use the template's memory",
            ),
            ("<domain><vcpu>1</vcpu></domain>", "use the template's cpus"),
            ("<domain><uuid/></domain>", "the grid sets it"),
            ("<domain type='kvm'/>", "chooses the domain's type"),
            (
                "<domain><os firmware='efi'/></domain>",
                "use the template's firmware",
            ),
            (
                "<domain><devices><graphics type='vnc'/></devices></domain>",
                "use the template's displays",
            ),
            (
                "<domain><devices><disk><target dev='vda'/></disk></devices></domain>",
                "own disks",
            ),
            ("<devices/>", "must be a <domain>"),
            ("<domain>", "is not XML"),
        ] {
            let error = merge(&mut Element::new("domain"), fragment).unwrap_err();
            assert!(error.to_string().contains(part), "{fragment}: {error}");
        }
    }
}
