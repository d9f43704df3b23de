//! Blocks to nouns: the last step, which also finds what only the whole can show.

mod channel;
mod directory;
mod grid;
mod hostname;
mod image;
mod moved;
mod policy;
mod pool;
mod site;
mod template;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::desired::Desired;
use crate::diagnostic::{Problem, Report};
use crate::evaluate::{Evaluator, Frame, Instances, Scope};
use crate::fields::{self, Fields};
use crate::ids::{Address, BadName, PolicyName, PoolName, TemplateName};
use crate::program::Declared;
use crate::source::At;
use crate::value::Value;

/// What resolving gathers.
pub(crate) struct Resolver<'r, 'a> {
    e: &'r Evaluator<'a>,
    report: &'r Report,
    pub(crate) desired: Desired,
    /// Where each address is declared.
    pub(crate) declared: BTreeMap<Address, At>,
    /// Where each name of each kind is declared, instances of `for_each` and `count` included.
    names: BTreeMap<&'static str, BTreeMap<String, At>>,
    templates: BTreeMap<TemplateName, Fields>,
    policies: BTreeMap<PolicyName, Fields>,
    pools: BTreeMap<PoolName, Fields>,
    moved: Vec<moved::Written>,
}

/// Resolves every block of the program.
pub(crate) fn resolve<'r, 'a>(e: &'r Evaluator<'a>) -> Resolver<'r, 'a> {
    let mut resolver = Resolver {
        e,
        report: e.report,
        desired: Desired::default(),
        declared: BTreeMap::new(),
        names: BTreeMap::new(),
        templates: BTreeMap::new(),
        policies: BTreeMap::new(),
        pools: BTreeMap::new(),
        moved: Vec::new(),
    };
    for declared in e.program.variables.values() {
        let scope = Scope {
            file: declared.file,
            frame: None,
        };
        fields::read(e, declared.row, declared.block, scope, &declared.name);
    }
    let mut by_kind: BTreeMap<&str, Vec<(usize, &Declared<'_>)>> = BTreeMap::new();
    for (index, declared) in e.program.blocks.iter().enumerate() {
        let kind = by_kind.entry(declared.row.name).or_default();
        kind.push((index, declared));
    }
    // What others refer to comes first, so that what is resolved can look at it.
    for kind in [
        "grid",
        "window",
        "network",
        "directory",
        "location",
        "image",
        "template",
        "policy",
        "pool",
        "server",
        "moved",
    ] {
        for (index, declared) in by_kind.get(kind).into_iter().flatten() {
            if !e.is_exhausted() {
                resolver.repeat(*index, declared);
            }
        }
    }
    resolver.check_moved();
    resolver.check_pools();
    resolver
}

impl Resolver<'_, '_> {
    /// Reads a block once for each of its instances.
    fn repeat(&mut self, index: usize, declared: &Declared<'_>) {
        let Ok(instances) = self.e.instances(index, declared.header) else {
            // Its attributes are still worth reading: everything wrong is said in one run.
            if declared.block.body.has_attribute("for_each")
                || declared.block.body.has_attribute("count")
            {
                return;
            }
            return self.one(declared, &declared.name, None);
        };
        let frame = |names| Frame {
            names,
            parent: None,
        };
        match instances {
            Instances::One => self.one(declared, &declared.name, None),
            Instances::Each(keys) => {
                for (key, value) in keys.iter() {
                    let each = [
                        ("key".to_owned(), Value::text(key)),
                        ("value".to_owned(), value.clone()),
                    ];
                    let names = vec![("each", Value::map(each.into_iter().collect()))];
                    self.instance(declared, &format!("{}-{key}", declared.name), &frame(names));
                }
            }
            Instances::Count(count) => {
                for i in 0..count {
                    let index = [("index".to_owned(), Value::Number(f64::from(i)))];
                    let names = vec![("count", Value::map(index.into_iter().collect()))];
                    self.instance(declared, &format!("{}-{i}", declared.name), &frame(names));
                }
            }
        }
    }

    fn instance(&mut self, declared: &Declared<'_>, name: &str, frame: &Frame<'_>) {
        if self.e.charge(50, declared.header).is_err() {
            return;
        }
        if !crate::ids::is_name(name) {
            let shown: String = name.chars().take(80).collect();
            let problem = Problem::error(
                "V0207",
                declared.header,
                format!("{shown:?} cannot name a `{}` block", declared.row.name),
            );
            let help = "an instance is named NAME-KEY: lower-case letters, digits, '-' and '_', at most 40 characters in all";
            return self.report.push(problem.help(help));
        }
        self.one(declared, name, Some(frame));
    }

    fn one(&mut self, declared: &Declared<'_>, name: &str, frame: Option<&Frame<'_>>) {
        let kind = declared.row.name;
        let fields = fields::read(
            self.e,
            declared.row,
            declared.block,
            Scope {
                file: declared.file,
                frame,
            },
            name,
        );
        if kind != "moved" {
            let known = self.names.entry(kind).or_default();
            let first = known.insert(name.to_owned(), declared.header);
            if let Some(first) = first.filter(|first| *first != declared.header) {
                let problem = Problem::error(
                    "V0208",
                    declared.header,
                    format!("a second block `{kind} \"{name}\"`"),
                );
                self.report.push(
                    problem
                        .also(first, "the first is here")
                        .help("instances are named NAME-KEY and NAME-INDEX"),
                );
            }
        }
        if let Err(bad) = self.keep(declared, fields) {
            self.report
                .push(Problem::error("V0207", declared.header, bad.to_string()));
        }
    }

    fn keep(&mut self, declared: &Declared<'_>, fields: Fields) -> Result<(), BadName> {
        let (at, report) = (declared.header, self.report);
        let name = fields.name.clone();
        match declared.row.name {
            "grid" => {
                self.declared.insert(Address::Grid, at);
                self.desired.grid = grid::grid(&fields, report);
            }
            "window" => {
                self.declared.insert(Address::Window(name.parse()?), at);
                if let Some(window) = site::window(&fields, report) {
                    self.desired.windows.insert(name.parse()?, window);
                }
            }
            "network" => {
                self.declared.insert(Address::Network(name.parse()?), at);
                if let Some(network) = site::network(&fields, report) {
                    self.desired.networks.insert(name.parse()?, network);
                }
            }
            "location" => {
                self.declared.insert(Address::Location(name.parse()?), at);
                if let Some(location) = site::location(&fields) {
                    self.desired.locations.insert(name.parse()?, location);
                }
            }
            "directory" => {
                self.declared.insert(Address::Directory(name.parse()?), at);
                if let Some(directory) = directory::directory(&fields, report) {
                    self.desired.directories.insert(name.parse()?, directory);
                }
            }
            "image" => {
                self.declared.insert(Address::Image(name.parse()?), at);
                if let Some(image) = image::image(&fields, self.e, declared.file) {
                    self.desired.images.insert(name.parse()?, image);
                }
            }
            "template" => {
                self.declared.insert(Address::Template(name.parse()?), at);
                if let Some(template) = template::template(&fields, &self.desired, report) {
                    self.desired.templates.insert(name.parse()?, template);
                }
                self.templates.insert(name.parse()?, fields);
            }
            "policy" => {
                self.declared.insert(Address::Policy(name.parse()?), at);
                let policy = policy::policy(&fields);
                policy::check(&fields, &policy, &self.desired, report);
                self.desired.policies.insert(name.parse()?, policy);
                self.policies.insert(name.parse()?, fields);
            }
            "pool" => {
                self.declared.insert(Address::Pool(name.parse()?), at);
                let policies = &self.policies;
                if let Some(pool) = pool::pool(&fields, policies, &self.desired, report) {
                    self.desired.pools.insert(name.parse()?, pool);
                }
                self.pools.insert(name.parse()?, fields);
            }
            "server" => {
                if let Ok(server) = name.parse() {
                    self.declared.insert(Address::Server(server), at);
                }
                self.desired.servers.insert(name, site::server(&fields));
            }
            _ => self.moved.extend(moved::written(declared, report)),
        }
        Ok(())
    }

    fn check_moved(&mut self) {
        for written in &self.moved {
            if let Some(moved) = moved::check(written, &self.declared, self.report) {
                self.desired.moved.insert(moved);
            }
        }
    }

    fn check_pools(&self) {
        for (name, pool) in &self.desired.pools {
            if let Some(fields) = self.pools.get(name) {
                channel::check(fields, pool, &self.desired, &self.templates, self.report);
            }
        }
        hostname::check(&self.desired, &self.pools, self.report);
    }
}

/// A name that the evaluator has found to be a block's.
fn known<T: std::str::FromStr>(name: &Rc<str>) -> Option<T> {
    name.parse().ok()
}
