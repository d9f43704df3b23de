//! From text to [`Config`], collecting everything that is wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use coppice_schema::desired::NetworkTarget;
use coppice_schema::ids::NetworkName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tracing::level_filters::LevelFilter;

use super::{Accelerate, Config, Problem};

const KEYS: &[&str] = &[
    "data",
    "name",
    "listen",
    "advertise",
    "witness",
    "names",
    "hypervisor",
    "accelerate",
    "labels",
    "networks",
    "log",
];
const NETWORK_KEYS: &[&str] = &["bridge", "libvirt", "user", "vlan"];

/// Reads `text`; relative paths in it are below `folder`.
pub(super) fn read(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        problems: Vec::new(),
    };
    for error in errors {
        reader.wrong(error.span().unwrap_or(0..0), error.message());
    }
    // A file that does not parse gives nothing to check: what follows would be noise.
    let config = if reader.problems.is_empty() {
        reader.config(document.get_ref(), folder)
    } else {
        None
    };
    reader.problems.sort_by_key(|p| (p.line, p.column));
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(reader.problems),
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn config(&mut self, table: &DeTable<'_>, folder: &Path) -> Option<Config> {
        self.known_keys(table, KEYS, "coppice.toml");
        let data = self.path(table, "data", folder);
        let name = self.parsed(table, "name");
        let listen = self.parsed(table, "listen");
        let names = self.texts(table, "names", |name| {
            let wrong = || format!("{name:?} is no host name and no address");
            coppice_grid::authority::can_be_named(name)
                .then_some(())
                .ok_or_else(wrong)
        });
        let advertise = self.advertise(table);
        let witness = self.flag(table, "witness");
        let hypervisor = self.string(table, "hypervisor").map(|(text, _)| text);
        if let (true, Some(value)) = (witness, table.get("hypervisor")) {
            self.wrong(
                value.span(),
                "a witness has no hypervisor: remove this line, or `witness`",
            );
        }
        let accelerate = self.accelerate(table);
        let labels = self.texts(table, "labels", |label| {
            let expected = "expected lower case letters, digits, '-' and '_'";
            let wrong = || format!("label {label:?}: {expected}");
            coppice_schema::ids::is_name(label)
                .then_some(())
                .ok_or_else(wrong)
        });
        let networks = self.networks(table);
        let log = self.log(table);
        for key in ["data", "name", "listen", "hypervisor"] {
            let spared = witness && key == "hypervisor";
            if !table.contains_key(key) && !spared {
                self.wrong(0..0, &format!("`{key}` is missing"));
            }
        }
        Some(Config {
            data: data?,
            name: name?,
            listen: listen?,
            names,
            advertise,
            witness,
            hypervisor: if witness { String::new() } else { hypervisor? },
            accelerate,
            labels,
            networks,
            log,
        })
    }

    fn wrong(&mut self, span: Range<usize>, message: &str) {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let begin = before.rfind('\n').map_or(0, |i| i + 1);
        let rest = self.text.get(begin..).unwrap_or_default();
        self.problems.push(Problem {
            line: before.matches('\n').count() + 1,
            column: before.get(begin..).map_or(0, |s| s.chars().count()) + 1,
            source: rest.lines().next().unwrap_or_default().to_owned(),
            message: message.to_owned(),
            suggestion: None,
        });
    }

    fn suggest(&mut self, word: &str, among: &[&str]) {
        let nearest = among
            .iter()
            .map(|k| (strsim::damerau_levenshtein(word, k), *k))
            .min()
            .filter(|(distance, key)| *distance <= key.len().max(word.len()) / 3 + 1);
        if let (Some((_, key)), Some(problem)) = (nearest, self.problems.last_mut()) {
            problem.suggestion = Some(key.to_owned());
        }
    }

    fn known_keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                self.wrong(key.span(), &format!("{place} has no key `{name}`"));
                self.suggest(name, known);
            }
        }
    }

    fn expected(&mut self, key: &str, what: &str, value: &Value<'_>) {
        let found = value.get_ref().type_str();
        self.wrong(
            value.span(),
            &format!("`{key}` must be {what}, and is {} {found}", article(found)),
        );
    }

    fn string(&mut self, table: &DeTable<'_>, key: &str) -> Option<(String, Range<usize>)> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some((text.to_string(), value.span())),
            DeValue::String(_) => {
                self.wrong(value.span(), &format!("`{key}` is empty"));
                None
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.expected(key, "a string", value);
                None
            }
        }
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
    ) -> Option<T> {
        let (text, span) = self.string(table, key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let example = if key == "listen" {
                    ", such as 127.0.0.1:7443 or 0.0.0.0:7443"
                } else {
                    ""
                };
                self.wrong(span, &format!("`{key}`: {error}{example}"));
                None
            }
        }
    }

    fn path(&mut self, table: &DeTable<'_>, key: &str, folder: &Path) -> Option<PathBuf> {
        self.string(table, key).map(|(text, _)| folder.join(text))
    }

    fn word<T: Copy>(&mut self, table: &DeTable<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.string(table, key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.wrong(
            span,
            &format!("`{key}` must be one of: {}", list.join(", ")),
        );
        self.suggest(&text, &list);
        None
    }

    fn advertise(&mut self, table: &DeTable<'_>) -> Option<String> {
        let (text, span) = self.string(table, "advertise")?;
        if crate::names::host_and_port(&text).is_none() {
            let expected = "expected a host and a port, such as host-1.example.org:7443";
            self.wrong(span, &format!("`advertise`: {expected}"));
            return None;
        }
        Some(text)
    }

    fn flag(&mut self, table: &DeTable<'_>, key: &str) -> bool {
        let Some(value) = table.get(key) else {
            return false;
        };
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.expected(key, "true or false", value);
        }
        flag.unwrap_or_default()
    }

    fn accelerate(&mut self, table: &DeTable<'_>) -> Accelerate {
        let words = [
            ("auto", Accelerate::Auto),
            ("kvm", Accelerate::Kvm),
            ("emulated", Accelerate::Emulated),
        ];
        self.word(table, "accelerate", &words).unwrap_or_default()
    }

    fn log(&mut self, table: &DeTable<'_>) -> LevelFilter {
        let words = [
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        self.word(table, "log", &words).unwrap_or(LevelFilter::INFO)
    }

    fn texts(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> BTreeSet<String> {
        let Some(value) = table.get(key) else {
            return BTreeSet::new();
        };
        let Some(list) = value.get_ref().as_array() else {
            self.expected(key, "a list of strings", value);
            return BTreeSet::new();
        };
        let mut texts = BTreeSet::new();
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => match check(text) {
                    Ok(()) => drop(texts.insert(text.to_owned())),
                    Err(why) => self.wrong(item.span(), &why),
                },
                None => self.expected(key, "a list of strings", item),
            }
        }
        texts
    }

    fn networks(&mut self, table: &DeTable<'_>) -> BTreeMap<NetworkName, NetworkTarget> {
        let Some(value) = table.get("networks") else {
            return BTreeMap::new();
        };
        let Some(networks) = value.get_ref().as_table() else {
            self.expected(
                "networks",
                "a table, such as networks.lab = { bridge = \"br0\" }",
                value,
            );
            return BTreeMap::new();
        };
        let mut mapped = BTreeMap::new();
        for (name, value) in networks.iter() {
            let parsed = match name.get_ref().parse::<NetworkName>() {
                Ok(parsed) => Some(parsed),
                Err(error) => {
                    self.wrong(name.span(), &error.to_string());
                    None
                }
            };
            if let (Some(name), Some(target)) = (parsed, self.target(name.get_ref(), value)) {
                mapped.insert(name, target);
            }
        }
        mapped
    }

    fn target(&mut self, name: &str, value: &Value<'_>) -> Option<NetworkTarget> {
        let place = format!("networks.{name}");
        let Some(table) = value.get_ref().as_table() else {
            self.expected(&place, "a table, such as { bridge = \"br0\" }", value);
            return None;
        };
        self.known_keys(table, NETWORK_KEYS, &place);
        let vlan = self.vlan(table);
        let bridge = self.string(table, "bridge").map(|(text, _)| text);
        let network = self.string(table, "libvirt").map(|(text, _)| text);
        let user = table
            .get("user")
            .is_some_and(|v| v.get_ref().as_bool() == Some(true));
        match (bridge, network, user) {
            (Some(bridge), None, false) => Some(NetworkTarget::Bridge { bridge, vlan }),
            (None, Some(network), false) => Some(NetworkTarget::Libvirt { network, vlan }),
            (None, None, true) if vlan.is_none() => Some(NetworkTarget::User),
            (None, None, true) => {
                self.wrong(
                    value.span(),
                    &format!("`{place}`: an emulated network has no vlan"),
                );
                None
            }
            _ => {
                self.wrong(
                    value.span(),
                    &format!(
                        "`{place}` must have exactly one of `bridge`, `libvirt` and `user = true`"
                    ),
                );
                None
            }
        }
    }

    fn vlan(&mut self, table: &DeTable<'_>) -> Option<u16> {
        let value = table.get("vlan")?;
        let tag = value
            .get_ref()
            .as_integer()
            .and_then(|n| u16::from_str_radix(n.as_str(), n.radix()).ok())
            .filter(|tag| (1..=4094).contains(tag));
        if tag.is_none() {
            self.wrong(value.span(), "`vlan` must be a number from 1 to 4094");
        }
        tag
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
data = "/srv/coppice"
name = "host-1"
listen = "[::1]:7443"
names = ["desk.example", "192.0.2.7"]
hypervisor = "sim://"
accelerate = "emulated"
labels = ["gpu", "room12"]
log = "debug"

[networks.lab]
bridge = "br0"
vlan = 12

[networks]
office = { user = true }
"#;

    fn wrong(text: &str) -> Vec<String> {
        let base =
            "data = \"d\"\nname = \"n\"\nlisten = \"127.0.0.1:1\"\nhypervisor = \"sim://\"\n";
        let problems = read(&format!("{base}{text}"), Path::new("/x")).unwrap_err();
        let line = |p: &Problem| {
            let meant = p
                .suggestion
                .as_ref()
                .map_or(String::new(), |s| format!(" [{s}]"));
            format!("{}:{} {}{meant}", p.line, p.column, p.message)
        };
        problems.iter().map(line).collect()
    }

    #[test]
    fn every_key_is_read() {
        // TOML wants a table's own keys before its sub-tables are opened; both forms are in use.
        let text = WHOLE
            .replace("\n[networks]\noffice", "\n[networks.office]\n#")
            .replace("#", "user = true #");
        let config = read(&text, Path::new("/x")).unwrap();
        assert_eq!(config.data, Path::new("/srv/coppice"));
        assert_eq!(config.listen.to_string(), "[::1]:7443");
        assert!(config.names.contains("192.0.2.7"));
        assert_eq!(config.accelerate, Accelerate::Emulated);
        assert_eq!(config.log, LevelFilter::DEBUG);
        assert!(config.labels.contains("room12"));
        let lab = &config.networks[&"lab".parse().unwrap()];
        assert_eq!(
            *lab,
            NetworkTarget::Bridge {
                bridge: "br0".to_owned(),
                vlan: Some(12)
            }
        );
        assert_eq!(
            config.networks[&"office".parse().unwrap()],
            NetworkTarget::User
        );
    }

    #[test]
    fn all_unknown_keys_are_told_with_place_and_suggestion() {
        assert_eq!(
            wrong("lables = []\n accelerat = \"auto\"\nzzz = 1\n"),
            [
                "5:1 coppice.toml has no key `lables` [labels]",
                "6:2 coppice.toml has no key `accelerat` [accelerate]",
                "7:1 coppice.toml has no key `zzz`",
            ]
        );
    }

    #[test]
    fn wrong_values_say_what_was_expected() {
        assert_eq!(
            wrong("accelerate = \"kwm\"\n"),
            ["5:14 `accelerate` must be one of: auto, kvm, emulated [kvm]"]
        );
        assert_eq!(
            wrong("labels = 5\n"),
            ["5:10 `labels` must be a list of strings, and is an integer"]
        );
        assert_eq!(wrong("labels = [\"A b\"]\n").len(), 1);
        assert_eq!(
            wrong("networks.lab = { vlan = 4095, bridge = \"b\" }\n"),
            ["5:25 `vlan` must be a number from 1 to 4094"]
        );
        assert!(
            wrong("networks.lab = { bridge = \"b\", user = true }\n")[0].contains("exactly one of")
        );
    }

    #[test]
    fn what_is_missing_is_told_all_at_once() {
        let problems = read("", Path::new("/x")).unwrap_err();
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn text_that_is_no_toml_is_refused_with_its_place() {
        let problems = read("name = \n", Path::new("/x")).unwrap_err();
        assert_eq!(problems[0].line, 1);
    }
}
