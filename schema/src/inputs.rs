//! What a caller must bring beside the texts, listed without evaluating anything.

use std::collections::BTreeSet;

use hcl::edit::expr::{Expression, FuncCall};
use hcl::edit::structure::{Attribute, Block, Body};
use hcl::edit::visit::{Visit, visit_attr, visit_block, visit_func_call};
use serde::{Deserialize, Serialize};

use crate::diagnostic::Report;
use crate::parse;
use crate::source::SourceText;
use crate::table::{self, Kind};

/// Files that a configuration names. Paths are relative to the same place as those of the texts, and never lead out
/// of the directory of the text that names them; a caller must not follow links out of it either. Paths that do are
/// left out here and refused by [`crate::load`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// Text files whose content is part of the configuration: every `file("...")` and every `*_file`.
    pub files: BTreeSet<String>,
    /// Images whose digest is: every `source` of an `image` block.
    pub sources: BTreeSet<String>,
}

/// Lists what `texts` name. What cannot be read in them is passed over.
#[must_use]
pub fn inputs(texts: &[SourceText]) -> Inputs {
    let mut found = Inputs::default();
    let silent = Report::default();
    for (file, source) in texts.iter().enumerate() {
        let tree = parse::parse(source, file, &silent);
        let mut search = Search {
            from: &source.path,
            found: &mut found,
            rows: Vec::new(),
        };
        search.visit_body(&tree.body);
    }
    found
}

/// The path of what the text at `from` names `path`; `None` when it leaves that text's directory.
pub(crate) fn beside(from: &str, path: &str) -> Option<String> {
    let fine = |part: &str| !part.is_empty() && part != "." && part != "..";
    let plain =
        path.len() <= 1_000 && !path.contains(['\\', '\0', ':']) && path.split('/').all(fine);
    let directory = from.rsplit_once('/').map(|(directory, _)| directory);
    plain.then(|| {
        directory.map_or_else(
            || path.to_owned(),
            |directory| format!("{directory}/{path}"),
        )
    })
}

struct Search<'s> {
    from: &'s str,
    found: &'s mut Inputs,
    /// The table's rows of the blocks around.
    rows: Vec<Option<&'static table::Block>>,
}

impl Visit for Search<'_> {
    fn visit_body(&mut self, body: &Body) {
        hcl::edit::visit::visit_body(self, body);
    }

    fn visit_block(&mut self, block: &Block) {
        let name = block.ident.as_str();
        let row = match self.rows.last() {
            None => table::BLOCKS.iter().find(|row| row.name == name),
            Some(outer) => outer.and_then(|outer| outer.block(name)),
        };
        self.rows.push(row);
        visit_block(self, block);
        self.rows.pop();
    }

    fn visit_attr(&mut self, attribute: &Attribute) {
        let row = self
            .rows
            .last()
            .copied()
            .flatten()
            .and_then(|row| row.attribute(attribute.key.as_str()));
        if let (Some(row), Expression::String(path)) = (row, &attribute.value)
            && let Some(path) = beside(self.from, path.as_str())
        {
            if row.kind == Kind::File {
                self.found.files.insert(path);
            } else if row.kind == Kind::Source {
                self.found.sources.insert(path);
            }
        }
        visit_attr(self, attribute);
    }

    fn visit_func_call(&mut self, call: &FuncCall) {
        if call.name.name.as_str() == "file"
            && let Some(Expression::String(path)) = call.args.get(0)
            && let Some(path) = beside(self.from, path.as_str())
        {
            self.found.files.insert(path);
        }
        visit_func_call(self, call);
    }
}
