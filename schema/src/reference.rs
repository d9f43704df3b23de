//! The language for readers: the reference page, and a JSON Schema, both from the one table.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::evaluate::functions::FUNCTIONS;
use crate::table::{
    Attribute, BLOCKS, Block, CarriedOut, Default, Kind, Label, TakesEffect, VERSION,
};
use crate::units::{Size, Span};

/// The reference page of the language, in Markdown.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from("# The language\n\n");
    out.push_str(
        "All `*.hcl` files of a configuration are one; order never matters. This page is made from the table that\n\
         the language is checked against. A change takes effect **live** (at once, without touching a desktop), at the\n\
         **next boot** of a desktop, or when it is **regrown**. A star marks what this version knows and does not carry\n\
         out: it is read, checked and kept, and each use is noted.\n",
    );
    for block in BLOCKS {
        describe(&mut out, block, &[]);
    }
    out.push_str("\n## Functions\n\n| call | gives |\n|---|---|\n");
    for function in FUNCTIONS {
        line(
            &mut out,
            format_args!(
                "| `{}({})` | {} |",
                function.name, function.arguments, function.doc
            ),
        );
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = out.write_fmt(text);
    out.push('\n');
}

fn star(carried_out: CarriedOut) -> &'static str {
    if carried_out == CarriedOut::Later {
        "\\*"
    } else {
        ""
    }
}

fn title(block: &Block) -> String {
    match block.label {
        Label::None => block.name.to_owned(),
        Label::Name | Label::Word => format!("{} NAME", block.name),
        Label::Pattern => format!("{} PATTERN", block.name),
    }
}

fn describe(out: &mut String, block: &Block, within: &[&str]) {
    let path: Vec<&str> = within.iter().copied().chain([block.name]).collect();
    let inner = if within.is_empty() {
        String::new()
    } else {
        format!(" in `{}`", within.join("."))
    };
    let level = "#".repeat(within.len() + 2);
    line(
        out,
        format_args!(
            "\n{level} `{}`{}{inner}\n\n{}",
            title(block),
            star(block.carried_out),
            block.doc
        ),
    );
    if block.all_attributes().next().is_some() {
        out.push_str(
            "\n| attribute | type | default | takes effect | meaning |\n|---|---|---|---|---|\n",
        );
    }
    for row in block.all_attributes() {
        let unit = row
            .unit
            .map_or_else(String::new, |unit| format!(", {unit}"));
        line(
            out,
            format_args!(
                "| `{}`{} | {}{unit} | {} | {} | {} |",
                row.name,
                star(row.carried_out),
                kind(row.kind).replace('|', "\\|"),
                default(row),
                effect(row.effect),
                row.doc.replace('|', "\\|"),
            ),
        );
    }
    for inner in block.blocks {
        describe(out, inner, &path);
    }
}

fn effect(effect: TakesEffect) -> &'static str {
    match effect {
        TakesEffect::Live => "live",
        TakesEffect::NextBoot => "next boot",
        TakesEffect::Regrow => "regrown",
    }
}

fn default(row: &Attribute) -> String {
    match row.default {
        _ if row.required => "required".to_owned(),
        Default::Unset => "–".to_owned(),
        Default::Text(text) => format!("`{text:?}`"),
        Default::Number(number) => format!("`{number}`"),
        Default::Flag(flag) => format!("`{flag}`"),
        Default::Texts(texts) => format!("`{texts:?}`"),
        Default::Depends(words) => words.to_owned(),
    }
}

/// A type in words.
fn kind(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Number(low, high) => format!("number, {low} to {high}"),
        Kind::Flag => "flag".to_owned(),
        Kind::Size(low, high) => format!("size, {} to {}", Size(low), Size(high)),
        Kind::Duration(low, high) => format!("duration, {} to {}", Span(low), Span(high)),
        Kind::Share => "share: \"20%\" or a number".to_owned(),
        Kind::Clock => "clock: \"07:30\"".to_owned(),
        Kind::Days => "days: \"mon-fri\", \"sat,sun\", \"daily\"".to_owned(),
        Kind::Cron => "cron: five fields".to_owned(),
        Kind::Moment => "moment: \"2026-11-23 08:00\"".to_owned(),
        Kind::Ref(kind) => format!("reference: {kind}.NAME"),
        Kind::Refs(kind) => format!("one or a list of references: {kind}.NAME"),
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(" or "),
        Kind::Choices(words) => format!(
            "list of {}",
            words
                .iter()
                .map(|w| format!("{w:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Networks => "list of networks: \"10.1.0.0/16\"".to_owned(),
        Kind::Secret => "`secret(\"name\")` only".to_owned(),
        Kind::File => "path of a text file, inside the directory".to_owned(),
        Kind::Source => "path of an image, inside the directory".to_owned(),
        Kind::Digest => "64 hexadecimal digits".to_owned(),
        Kind::Version => "name of a version".to_owned(),
        Kind::Address => "IP address".to_owned(),
        Kind::Timezone => "IANA time zone".to_owned(),
        Kind::Hostname => "pattern".to_owned(),
        Kind::Copies => "\"all\" or a number".to_owned(),
        Kind::Entitlements => {
            "list of group(), user(), ou(), everyone() and location.NAME".to_owned()
        }
        Kind::BlockAddress => "address of a block".to_owned(),
        Kind::Any => "any value".to_owned(),
        Kind::Type => "type".to_owned(),
        Kind::Condition => "expression".to_owned(),
    }
}

/// The table as a JSON Schema (2020-12) of the language in HCL's JSON form: blocks are objects, by name where they
/// have one. References and function calls are texts with `${ }` there, so a text is allowed wherever a value is.
#[must_use]
pub fn schema_json() -> String {
    let properties: Map<String, Value> = BLOCKS
        .iter()
        .map(|block| (block.name.to_owned(), named(block)))
        .collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Coppice",
        "x-version": VERSION,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "x-functions": FUNCTIONS.iter().map(|function| json!({
            "name": function.name, "arguments": function.arguments, "description": function.doc,
        })).collect::<Vec<_>>(),
    });
    format!("{schema:#}\n")
}

fn named(block: &Block) -> Value {
    match block.label {
        Label::None => object(block),
        Label::Name | Label::Word | Label::Pattern => {
            json!({ "type": "object", "description": block.doc, "additionalProperties": object(block) })
        }
    }
}

fn object(block: &Block) -> Value {
    if block.name == "locals" {
        return json!({ "type": "object", "description": block.doc });
    }
    let attributes = block
        .all_attributes()
        .map(|row| (row.name.to_owned(), attribute(row)));
    let blocks = block
        .blocks
        .iter()
        .map(|inner| (inner.name.to_owned(), named(inner)));
    let properties: Map<String, Value> = attributes.chain(blocks).collect();
    let required: Vec<&str> = block
        .all_attributes()
        .filter(|row| row.required)
        .map(|row| row.name)
        .collect();
    json!({
        "type": "object",
        "description": block.doc,
        "additionalProperties": false,
        "required": required,
        "properties": properties,
        "x-carried-out": block.carried_out,
    })
}

fn attribute(row: &Attribute) -> Value {
    let mut schema = match row.kind {
        Kind::Number(low, high) => {
            json!({ "type": ["integer", "string"], "minimum": low, "maximum": high })
        }
        Kind::Flag => json!({ "type": ["boolean", "string"] }),
        Kind::Choice(words) => {
            json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "\\$\\{" }] })
        }
        Kind::Choices(words) => json!({ "type": ["array", "string"], "items": { "enum": words } }),
        Kind::Texts | Kind::Networks | Kind::Entitlements => {
            json!({ "type": ["array", "string"], "items": { "type": "string" } })
        }
        Kind::Refs(_) => json!({ "type": ["array", "string"] }),
        Kind::Share | Kind::Copies => json!({ "type": ["integer", "string"] }),
        Kind::Any => json!({}),
        Kind::Text
        | Kind::Size(..)
        | Kind::Duration(..)
        | Kind::Clock
        | Kind::Days
        | Kind::Cron
        | Kind::Moment
        | Kind::Ref(_)
        | Kind::Secret
        | Kind::File
        | Kind::Source
        | Kind::Digest
        | Kind::Version
        | Kind::Address
        | Kind::Timezone
        | Kind::Hostname
        | Kind::BlockAddress
        | Kind::Type
        | Kind::Condition => json!({ "type": "string" }),
    };
    let more = [
        ("description", json!(row.doc)),
        ("x-type", json!(kind(row.kind))),
        ("x-takes-effect", json!(row.effect)),
        ("x-carried-out", json!(row.carried_out)),
        ("x-sensitive", json!(row.sensitive)),
        ("x-unit", json!(row.unit)),
        (
            "default",
            match row.default {
                Default::Unset | Default::Depends(_) => Value::Null,
                Default::Text(text) => json!(text),
                Default::Number(number) => json!(number),
                Default::Flag(flag) => json!(flag),
                Default::Texts(texts) => json!(texts),
            },
        ),
    ];
    if let Some(object) = schema.as_object_mut() {
        object.extend(
            more.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.to_owned(), value)),
        );
    }
    schema
}
