//! What a configuration says, by name, before anything is evaluated.

use std::collections::{BTreeMap, BTreeSet};

use hcl::edit::Span;
use hcl::edit::expr::Expression;
use hcl::edit::structure::{Block, BlockLabel};

use crate::diagnostic::{Problem, Report};
use crate::parse::Tree;
use crate::source::{At, Bundle};
use crate::table;

/// One top-level block.
pub(crate) struct Declared<'a> {
    pub(crate) row: &'static table::Block,
    pub(crate) name: String,
    pub(crate) file: usize,
    pub(crate) block: &'a Block,
    /// Its header: kind and labels.
    pub(crate) header: At,
}

/// A whole configuration, by name.
pub(crate) struct Program<'a> {
    pub(crate) bundle: &'a Bundle,
    /// The paths of the texts, by file index.
    pub(crate) paths: Vec<&'a str>,
    /// Every block with its row in the table, in the order of files and places; without variables and locals.
    pub(crate) blocks: Vec<Declared<'a>>,
    pub(crate) variables: BTreeMap<&'a str, Declared<'a>>,
    pub(crate) locals: BTreeMap<&'a str, (usize, &'a Expression, At)>,
    /// Kind and name to the index of its first block.
    by_name: BTreeMap<&'static str, BTreeMap<&'a str, usize>>,
    unread: BTreeSet<(String, String)>,
}

/// The span of a block's kind and labels.
pub(crate) fn header(file: usize, block: &Block) -> At {
    let start = block.ident.span().map_or(0, |s| s.start);
    let ident = block.ident.span().map_or(start, |s| s.end);
    let end = block
        .labels
        .last()
        .and_then(Span::span)
        .map_or(ident, |s| s.end);
    At { file, start, end }
}

impl<'a> Program<'a> {
    pub(crate) fn new(
        bundle: &'a Bundle,
        paths: Vec<&'a str>,
        trees: &'a [Tree],
        report: &Report,
    ) -> Self {
        let unread = trees
            .iter()
            .flat_map(|tree| tree.unread.iter().cloned())
            .collect();
        let (blocks, variables, locals, by_name) = Default::default();
        let mut program = Self {
            bundle,
            paths,
            blocks,
            variables,
            locals,
            by_name,
            unread,
        };
        for (file, tree) in trees.iter().enumerate() {
            for structure in tree.body.iter() {
                if let Some(attribute) = structure.as_attribute() {
                    let at = At::new(file, attribute.key.span());
                    let problem = Problem::error("V0202", at, "an attribute outside of any block");
                    report
                        .push(problem.help(
                            "attributes stand in a block, such as `grid \"school\" { ... }`",
                        ));
                } else if let Some(block) = structure.as_block() {
                    program.declare(file, block, report);
                }
            }
        }
        program
    }

    fn declare(&mut self, file: usize, block: &'a Block, report: &Report) {
        let header = header(file, block);
        let at = At::new(file, block.ident.span());
        let kind = block.ident.as_str();
        let Some(row) = table::BLOCKS.iter().find(|row| row.name == kind) else {
            let known = table::BLOCKS.iter().map(|row| row.name);
            let problem = Problem::error("V0201", at, format!("there is no block `{kind}`"));
            let all = known.clone().collect::<Vec<_>>().join(", ");
            report.push(problem.nearest_or(kind, known, format!("top-level blocks are {all}")));
            return;
        };
        if row.name == "locals" {
            for attribute in block.body.attributes() {
                let at = At::new(file, attribute.key.span());
                if let Some((_, _, first)) = self.locals.get(attribute.key.as_str()) {
                    let message = format!("`local.{}` is set twice", attribute.key.as_str());
                    report
                        .push(Problem::error("V0208", at, message).also(*first, "first set here"));
                } else {
                    self.locals
                        .insert(attribute.key.as_str(), (file, &attribute.value, at));
                }
            }
            for inner in block.body.blocks() {
                let at = At::new(file, inner.ident.span());
                report.push(Problem::error(
                    "V0201",
                    at,
                    "`locals` holds attributes only",
                ));
            }
            return;
        }
        let labels: Vec<&str> = block.labels.iter().map(BlockLabel::as_str).collect();
        let name = labels.first().copied().unwrap_or_default().to_owned();
        let declared = Declared {
            row,
            name,
            file,
            block,
            header,
        };
        if !label_fits(row, block, file, report) {
            self.unread.insert((kind.to_owned(), declared.name));
            return;
        }
        if row.name == "variable" {
            let key = labels.first().copied().unwrap_or_default();
            if let Some(first) = self.variables.get(key) {
                twice(&declared, first.header, report);
            } else {
                self.variables.insert(key, declared);
            }
            return;
        }
        if row.label != table::Label::None {
            let label = labels.first().copied().unwrap_or_default();
            let name = if row.name == "grid" { "" } else { label };
            let known = self.by_name.entry(row.name).or_default();
            if let Some(first) = known.get(name) {
                twice(&declared, self.blocks[*first].header, report);
                return;
            }
            known.insert(name, self.blocks.len());
        }
        self.blocks.push(declared);
    }

    /// The block of that kind and name as written, before `for_each` and `count`.
    pub(crate) fn find(&self, kind: &'static str, name: &str) -> Option<(usize, &Declared<'a>)> {
        let index = *self.by_name.get(kind)?.get(name)?;
        Some((index, &self.blocks[index]))
    }

    /// Whether such a block may stand in text that could not be read.
    pub(crate) fn is_unread(&self, kind: &str, name: &str) -> bool {
        let has =
            |kind: &str, name: &str| self.unread.contains(&(kind.to_owned(), name.to_owned()));
        has(kind, name) || has("", "")
    }

    pub(crate) fn names(&self, kind: &str) -> impl Iterator<Item = &str> + Clone {
        self.by_name
            .get(kind)
            .into_iter()
            .flat_map(|names| names.keys().copied())
    }
}

fn twice(declared: &Declared<'_>, first: At, report: &Report) {
    let (kind, name) = (declared.row.name, &declared.name);
    let problem = if kind == "grid" {
        Problem::error("V0208", declared.header, "a second `grid` block")
            .help("a configuration describes one grid")
    } else {
        let message = format!("a second block `{kind} \"{name}\"`");
        Problem::error("V0208", declared.header, message).help("give one of them another name")
    };
    report.push(problem.also(first, "the first is here"));
}

fn label_fits(row: &'static table::Block, block: &Block, file: usize, report: &Report) -> bool {
    let at = header(file, block);
    let kind = row.name;
    match (row.label, block.labels.as_slice()) {
        (table::Label::None, []) => true,
        (table::Label::None, [first, ..]) => {
            let at = At::new(file, first.span());
            report.push(
                Problem::error("V0207", at, format!("`{kind}` takes no name")).help("remove it"),
            );
            false
        }
        (_, []) => {
            let problem = Problem::error("V0207", at, format!("`{kind}` needs a name"));
            report.push(problem.help(format!("write `{kind} \"name\" {{`")));
            false
        }
        (label, [first]) => match label.check(first.as_str()) {
            Ok(()) => true,
            Err(expected) => {
                let at = At::new(file, first.span());
                let shown: String = first.as_str().chars().take(80).collect();
                let message = format!("{shown:?} cannot name a `{kind}` block");
                report.push(
                    Problem::error("V0207", at, message).help(format!("allowed: {expected}")),
                );
                false
            }
        },
        (_, [_, second, ..]) => {
            let at = At::new(file, second.span());
            report.push(
                Problem::error("V0207", at, format!("`{kind}` takes one name"))
                    .help("remove this one"),
            );
            false
        }
    }
}

/// Checks the labels of a block that stands in another; the same rules.
pub(crate) fn nested_label_fits(
    row: &'static table::Block,
    block: &Block,
    file: usize,
    report: &Report,
) -> bool {
    label_fits(row, block, file, report)
}
