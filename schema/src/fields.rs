//! One block, read as the table says: what is wrong goes to the report, what is right is here.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hcl::edit::Span;
use hcl::edit::expr::Expression;
use hcl::edit::structure::{Attribute, Block, Structure};

use crate::desired::{ClockTime, Copies, Cron, Days, Entitlement};
use crate::diagnostic::Problem;
use crate::digest::Digest;
use crate::evaluate::{Evaluator, Scope};
use crate::ids::{SecretName, VersionName};
use crate::program::{header, nested_label_fits};
use crate::source::At;
use crate::table::{self, CarriedOut, Kind, Label};
use crate::typed::{self, Typed, Wrong, quoted};
use crate::units::{Share, Size, Span as Length};
use crate::value::Value;

/// The attributes and blocks of one block.
pub(crate) struct Fields {
    pub(crate) row: &'static table::Block,
    /// Its header.
    pub(crate) at: At,
    /// Its label; empty without one.
    pub(crate) name: String,
    values: BTreeMap<&'static str, Field>,
    /// Attributes that were set to something wrong: neither missing nor known.
    failed: BTreeSet<&'static str>,
    blocks: BTreeMap<&'static str, Vec<Fields>>,
}

/// One attribute that was set.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) value: Typed,
    /// The value.
    pub(crate) at: At,
    /// The attribute's name.
    pub(crate) key: At,
}

/// Reads `block`, which is described by `row`.
pub(crate) fn read(
    e: &Evaluator<'_>,
    row: &'static table::Block,
    block: &Block,
    scope: Scope<'_>,
    name: &str,
) -> Fields {
    let at = header(scope.file, block);
    let (values, failed, blocks) = Default::default();
    let mut fields = Fields {
        row,
        at,
        name: name.to_owned(),
        values,
        failed,
        blocks,
    };
    if row.carried_out == CarriedOut::Later {
        let word = At::new(scope.file, block.ident.span());
        e.report.push(later(word, &format!("block `{}`", row.name)));
    }
    for structure in block.body.iter() {
        match structure {
            Structure::Attribute(attribute) => fields.attribute(e, attribute, scope),
            Structure::Block(inner) => fields.block(e, inner, scope),
        }
    }
    fields.check_required(e);
    fields
}

fn later(at: At, what: &str) -> Problem {
    let problem = Problem::note(
        "V0501",
        at,
        format!("{what}: known, not carried out by this version"),
    );
    problem.label("read, checked and kept; it has no effect yet")
}

impl Fields {
    fn attribute(&mut self, e: &Evaluator<'_>, attribute: &Attribute, scope: Scope<'_>) {
        let word = attribute.key.as_str();
        let key = At::new(scope.file, attribute.key.span());
        let Some(row) = self.row.attribute(word) else {
            e.report.push(self.unknown(word, key));
            e.check_names(&attribute.value, scope);
            return;
        };
        if row.carried_out == CarriedOut::Later && self.row.carried_out != CarriedOut::Later {
            e.report.push(later(key, &format!("`{word}`")));
        }
        if !matches!(row.kind, Kind::Type | Kind::BlockAddress | Kind::Condition) {
            e.check_names(&attribute.value, scope);
        }
        match self.value(e, row, attribute, scope) {
            Some(Some(value)) => {
                let at = At::new(scope.file, attribute.value.span());
                self.values.insert(row.name, Field { value, at, key });
            }
            // `null` is as if it were not said.
            Some(None) => {}
            None => {
                self.failed.insert(row.name);
            }
        }
    }

    fn unknown(&self, word: &str, key: At) -> Problem {
        let block = self.row.name;
        let problem = Problem::error("V0202", key, format!("`{block}` has no attribute `{word}`"));
        if self.row.block(word).is_some() {
            return problem.help(format!(
                "`{word}` is a block: write `{word} {{` without `=`"
            ));
        }
        let known = self.row.all_attributes().map(|row| row.name);
        let all = known.clone().collect::<Vec<_>>().join(", ");
        problem.nearest_or(
            word,
            known,
            format!(
                "attributes of `{block}`: {}",
                if all.is_empty() { "none" } else { &all }
            ),
        )
    }

    /// `Some(None)` for null, `None` when it is wrong.
    fn value(
        &self,
        e: &Evaluator<'_>,
        row: &'static table::Attribute,
        attribute: &Attribute,
        scope: Scope<'_>,
    ) -> Option<Option<Typed>> {
        let at = At::new(scope.file, attribute.value.span());
        let key = At::new(scope.file, attribute.key.span());
        if matches!(
            row.kind,
            Kind::BlockAddress | Kind::Any | Kind::Type | Kind::Condition
        ) {
            // Read elsewhere.
            return Some(Some(Typed::Flag(true)));
        }
        if matches!(row.kind, Kind::File | Kind::Source)
            && !matches!(attribute.value, Expression::String(_))
        {
            let problem =
                Problem::error("V0307", at, format!("`{}` must be written out", row.name));
            let help = "what a configuration reads must be known before it is evaluated: a text without ${ }";
            e.report
                .push(problem.also(key, "needed by this attribute").help(help));
            return None;
        }
        let value = e.eval(&attribute.value, scope).ok()?;
        if value == Value::Null {
            return Some(None);
        }
        match typed::read(&value, row.kind) {
            Ok(Typed::Text(path)) if row.kind == Kind::File => {
                let text = e.file(&path, scope.file, at).ok()?;
                Some(Some(Typed::Text(text.to_string())))
            }
            Ok(typed) => Some(Some(typed)),
            Err(wrong) => {
                e.report
                    .push(explain(row, &value, wrong, at).also(key, "needed by this attribute"));
                None
            }
        }
    }

    fn block(&mut self, e: &Evaluator<'_>, inner: &Block, scope: Scope<'_>) {
        let word = inner.ident.as_str();
        let key = At::new(scope.file, inner.ident.span());
        let Some(row) = self.row.block(word) else {
            let block = self.row.name;
            let problem = Problem::error("V0201", key, format!("`{block}` has no block `{word}`"));
            let known: Vec<&str> = self.row.blocks.iter().map(|row| row.name).collect();
            e.report.push(if self.row.attribute(word).is_some() {
                problem.help(format!("`{word}` is an attribute: write `{word} = ...`"))
            } else if known.is_empty() {
                problem.help(format!("`{block}` holds attributes only"))
            } else {
                problem.nearest_or(
                    word,
                    known.iter().copied(),
                    format!("blocks of `{block}`: {}", known.join(", ")),
                )
            });
            return;
        };
        if !nested_label_fits(row, inner, scope.file, e.report) {
            return;
        }
        let name = inner.labels.first().map_or("", |label| label.as_str());
        let read = read(e, row, inner, scope, name);
        let before = self.blocks.entry(row.name).or_default();
        // Validations of a variable may be many; everything else once, or once for each name.
        if row.name != "validation"
            && let Some(first) = before
                .iter()
                .find(|first| row.label == Label::None || first.name == name)
        {
            let problem = Problem::error("V0208", read.at, format!("a second block `{word}` here"));
            e.report.push(
                problem
                    .also(first.at, "the first is here")
                    .help("put both into one"),
            );
            return;
        }
        before.push(read);
    }

    fn check_required(&self, e: &Evaluator<'_>) {
        for row in self
            .row
            .attributes
            .iter()
            .filter(|row| row.required && !self.says(row.name))
        {
            let message = format!("`{}` needs `{}`", self.row.name, row.name);
            let problem = Problem::error("V0204", self.at, message);
            e.report
                .push(problem.help(format!("{}: {}", row.name, row.doc)));
        }
    }

    /// Whether it was set, be it wrongly.
    pub(crate) fn says(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.failed.contains(name)
    }

    /// Whether it was set to something wrong.
    pub(crate) fn failed(&self, name: &str) -> bool {
        self.failed.contains(name)
    }

    /// What was set.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.values.get(name)
    }

    /// What was set, in the order of names.
    pub(crate) fn set(&self) -> impl Iterator<Item = (&'static str, &Field)> {
        self.values.iter().map(|(name, field)| (*name, field))
    }

    /// The block of that kind in it.
    pub(crate) fn inner(&self, name: &str) -> Option<&Self> {
        self.blocks.get(name).and_then(|blocks| blocks.first())
    }

    /// All blocks of that kind in it.
    pub(crate) fn inners(&self, name: &str) -> &[Self] {
        self.blocks.get(name).map_or(&[], Vec::as_slice)
    }

    /// The span of an attribute's value; the block's header when it is not set.
    pub(crate) fn place(&self, name: &str) -> At {
        self.field(name).map_or(self.at, |field| field.at)
    }

    /// What was set, or else the table's default.
    fn get(&self, name: &str) -> Option<Typed> {
        if let Some(field) = self.values.get(name) {
            return Some(field.value.clone());
        }
        let row = self.row.attribute(name)?;
        typed::default(row.default, row.kind)
    }

    /// Adds what was set in `other`; what stands here already stays.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for (name, field) in &other.values {
            self.values.entry(name).or_insert_with(|| field.clone());
        }
        for (kind, blocks) in &other.blocks {
            let own = self.blocks.entry(kind).or_default();
            for block in blocks {
                match own.iter_mut().find(|known| known.name == block.name) {
                    Some(known) => known.absorb(block),
                    None => {
                        let mut copy = Self::empty(block.row, block.at, &block.name);
                        copy.absorb(block);
                        own.push(copy);
                    }
                }
            }
        }
    }

    pub(crate) fn empty(row: &'static table::Block, at: At, name: &str) -> Self {
        let (values, failed, blocks) = Default::default();
        Self {
            row,
            at,
            name: name.to_owned(),
            values,
            failed,
            blocks,
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($type:ty);)*) => {
        impl Fields {$(
            $(#[$doc])*
            pub(crate) fn $name(&self, name: &str) -> Option<$type> {
                if let Some(Typed::$variant(value)) = self.get(name) { Some(value) } else { None }
            }
        )*}
    };
}

getters! {
    text: Text(String);
    number: Number(u64);
    flag_or_unset: Flag(bool);
    size: Size(Size);
    span: Span(Length);
    share: Share(Share);
    clock: Clock(ClockTime);
    days: Days(Days);
    cron: Cron(Cron);
    moment: Moment(jiff::civil::DateTime);
    name: Name(Rc<str>);
    names: Names(Vec<Rc<str>>);
    word: Word(&'static str);
    words: Words(Vec<&'static str>);
    texts: Texts(Vec<String>);
    secret: Secret(SecretName);
    digest: Digest(Digest);
    version: Version(VersionName);
    address: Address(std::net::IpAddr);
    copies: Copies(Copies);
    entitlements: Entitlements(Vec<Entitlement>);
}

impl Fields {
    /// A flag; false where nothing says otherwise.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or_unset(name) == Some(true)
    }

    /// A number that its row in the table keeps within 32 bits.
    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        self.number(name)
            .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }
}

/// What to say of a value that does not fit.
fn explain(row: &table::Attribute, value: &Value, wrong: Wrong, at: At) -> Problem {
    let name = row.name;
    let fraction = matches!(value, Value::Number(number) if number.fract() != 0.0);
    let found = format!(
        "this is {}{}",
        value.describe(),
        if fraction { " with a fraction" } else { "" }
    );
    match wrong {
        Wrong::Type(expected) => {
            let problem =
                Problem::error("V0203", at, format!("`{name}` must be {expected}")).label(found);
            match (row.kind, value) {
                (Kind::Number(..), Value::Text(text)) if text.parse::<u64>().is_ok() => problem
                    .help(format!("remove the quotes: {name} = {text}"))
                    .instead(text.to_string()),
                (Kind::Flag, Value::Text(text)) if matches!(text.as_ref(), "true" | "false") => {
                    problem
                        .help(format!("remove the quotes: {name} = {text}"))
                        .instead(text.to_string())
                }
                (Kind::Size(..), Value::Number(number)) => {
                    problem.help(format!("add a unit: {name} = \"{number}GiB\""))
                }
                (Kind::Duration(..), Value::Number(number)) => {
                    problem.help(format!("add a unit: {name} = \"{number}s\""))
                }
                (Kind::Ref(kind) | Kind::Refs(kind), Value::Text(text))
                    if crate::ids::is_name(text) =>
                {
                    let reference = format!("{kind}.{text}");
                    problem
                        .help(format!("write the reference: {name} = {reference}"))
                        .instead(reference)
                }
                (Kind::Texts | Kind::Choices(_) | Kind::Networks, Value::Text(text))
                    if text.len() <= 80 =>
                {
                    problem
                        .help(format!("write a list: {name} = [{text:?}]"))
                        .instead(format!("[{text:?}]"))
                }
                (Kind::Ref(kind), Value::List(_) | Value::Map(_))
                | (Kind::Refs(kind), Value::Map(_)) => problem.help(format!(
                    "choose one: {kind}.name[\"key\"] or {kind}.name[0]"
                )),
                _ => problem,
            }
        }
        Wrong::Form(expected) => {
            Problem::error("V0210", at, format!("`{name}` must be {expected}"))
        }
        Wrong::Range(range) => {
            let unit = row.unit.map_or_else(String::new, |unit| format!(" {unit}"));
            Problem::error("V0209", at, format!("`{name}` must be {range}{unit}"))
        }
        Wrong::Choice(words, found) => {
            let problem = Problem::error(
                "V0210",
                at,
                format!("`{name}` must be one of {}", quoted(words)),
            );
            problem.nearest(&found, words.iter().copied())
        }
        Wrong::Secret => {
            let problem = Problem::error(
                "V0212",
                at,
                format!("`{name}` takes only `secret(\"name\")`"),
            );
            problem
                .label(found)
                .help("secrets are kept by the grid, never in files: `coppice secret set NAME`")
        }
    }
}
