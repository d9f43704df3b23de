//! From a bundle to what is desired.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::diagnostic::{Diagnostic, Report};
use crate::digest::Digest;
use crate::evaluate::Evaluator;
use crate::ids::{Address, SecretName};
use crate::parse;
use crate::program::Program;
use crate::resolve;
use crate::source::{self, At, Bundle, Lines, Location, SourceText};

/// What a configuration means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// What is asked for; `None` when any diagnostic is an error.
    pub desired: Option<Desired>,
    /// Everything that is wrong or worth knowing, by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// Where each block stands, instances of `for_each` and `count` at the block that they are of.
    pub declared: BTreeMap<Address, Location>,
    /// The secrets that are named, and where. Whether the grid holds them only a plan can know.
    pub secrets: BTreeMap<SecretName, Vec<Location>>,
    /// The digest of paths and texts, whatever their order.
    pub digest: Digest,
}

/// Reads, evaluates and checks a whole configuration. Total: any bundle has an answer, in bounded time and memory;
/// and a function of its argument alone.
#[must_use]
pub fn load(bundle: &Bundle) -> Loaded {
    let mut texts: Vec<&SourceText> = bundle.texts.iter().collect();
    texts.sort();
    let report = Report::default();
    let trees: Vec<parse::Tree> = texts
        .iter()
        .enumerate()
        .map(|(file, source)| parse::parse(source, file, &report))
        .collect();
    let paths = texts.iter().map(|source| source.path.as_str()).collect();
    let program = Program::new(bundle, paths, &trees, &report);
    let evaluator = Evaluator::new(&program, &report);
    evaluator.check_variables();
    evaluator.check_locals();
    let resolved = resolve::resolve(&evaluator);
    let lines: Vec<Lines<'_>> = texts
        .iter()
        .map(|source| Lines::new(&source.text))
        .collect();
    let location = |at: At| {
        let (source, lines) = (texts.get(at.file)?, lines.get(at.file)?);
        let (line, column) = lines.position(at.start);
        Some(Location {
            path: source.path.clone(),
            line,
            column,
        })
    };
    let declared = resolved
        .declared
        .iter()
        .filter_map(|(address, at)| Some((address.clone(), location(*at)?)));
    let declared = declared.collect();
    let desired = if report.has_errors() {
        None
    } else {
        Some(resolved.desired)
    };
    let secrets = evaluator.secrets.take().into_iter();
    let secrets = secrets
        .map(|(name, uses)| (name, uses.into_iter().filter_map(location).collect()))
        .collect();
    let digest = source::digest(&texts);
    Loaded {
        desired,
        diagnostics: report.finish(&texts),
        declared,
        secrets,
        digest,
    }
}
