//! XML as a small tree: built and written by us, read by `roxmltree`.

use std::fmt;

use roxmltree::{Document, ParsingOptions};

/// An element. Comments and processing instructions are not kept: nothing we read or write depends on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) children: Vec<Node>,
}

/// What an element holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Element(Element),
    Text(String),
}

/// Deepest nesting taken from others: far more than any domain has, far less than the stack holds.
const DEEPEST: usize = 64;

/// A text that is not XML, or holds more than we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotXml(String);

/// A text holds a character that XML cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the character U+{:04X} cannot be written as XML", u32::from(*.0))]
pub(super) struct Unwritable(char);

impl Element {
    /// An empty element.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            attributes: Vec::new(),
            children: Vec::new(),
        }
    }

    /// With an attribute, replacing one of that name.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.set(name, value.to_string());
        self
    }

    /// With a child at the end.
    #[must_use]
    pub(super) fn holding(mut self, child: Self) -> Self {
        self.push(child);
        self
    }

    /// With a text at the end.
    #[must_use]
    pub(super) fn saying(mut self, text: impl fmt::Display) -> Self {
        self.children.push(Node::Text(text.to_string()));
        self
    }

    /// In a namespace.
    #[must_use]
    pub(super) fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: String) {
        if let Some(found) = self.attributes.iter_mut().find(|(known, _)| known == name) {
            found.1 = value;
        } else {
            self.attributes.push((name.to_owned(), value));
        }
    }

    /// Adds a child at the end.
    pub(super) fn push(&mut self, child: Self) {
        self.children.push(Node::Element(child));
    }

    /// An attribute's value.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Child elements.
    pub(super) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// Child elements of that name and of no namespace.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.elements()
            .filter(move |child| child.name == name && child.namespace.is_none())
    }

    /// The first element at the end of a path of names.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| {
            let mut children = element.elements();
            children.find(|child| child.name == *name && child.namespace.is_none())
        })
    }

    /// The texts directly in it.
    pub(super) fn text(&self) -> String {
        let texts = self.children.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        texts.collect()
    }

    /// Reads a document.
    pub(super) fn parse(text: &str) -> Result<Self, NotXml> {
        let options = ParsingOptions {
            allow_dtd: false,
            nodes_limit: 100_000,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(text, options)
            .map_err(|error| NotXml(error.to_string()))?;
        from_node(document.root_element(), DEEPEST)
    }

    /// Writes it as a document.
    pub(super) fn to_text(&self) -> Result<String, Unwritable> {
        let mut out = String::new();
        self.write(None, &mut out)?;
        Ok(out)
    }

    fn write(&self, outer: Option<&str>, out: &mut String) -> Result<(), Unwritable> {
        out.push('<');
        out.push_str(&self.name);
        let namespace = self.namespace.as_deref();
        if namespace != outer {
            out.push_str(" xmlns='");
            escape(namespace.unwrap_or_default(), out)?;
            out.push('\'');
        }
        for (name, value) in &self.attributes {
            out.push(' ');
            out.push_str(name);
            out.push_str("='");
            escape(value, out)?;
            out.push('\'');
        }
        if self.children.is_empty() {
            out.push_str("/>");
            return Ok(());
        }
        out.push('>');
        for child in &self.children {
            match child {
                Node::Element(element) => element.write(namespace, out)?,
                Node::Text(text) => escape(text, out)?,
            }
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
        Ok(())
    }
}

fn from_node(node: roxmltree::Node<'_, '_>, depth: usize) -> Result<Element, NotXml> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| NotXml(format!("elements nest more than {DEEPEST} deep")))?;
    let mut element = Element::new(node.tag_name().name());
    let namespace = node.tag_name().namespace();
    element.namespace = namespace.filter(|uri| !uri.is_empty()).map(str::to_owned);
    for attribute in node.attributes() {
        if attribute.namespace().is_some() {
            return Err(NotXml(format!(
                "the attribute {:?} has a namespace, which no domain uses",
                attribute.name()
            )));
        }
        element.set(attribute.name(), attribute.value().to_owned());
    }
    for child in node.children() {
        if child.is_element() {
            element.push(from_node(child, depth)?);
        } else if child.is_text() {
            element
                .children
                .push(Node::Text(child.text().unwrap_or_default().to_owned()));
        }
    }
    Ok(element)
}

/// Escapes for texts and attributes alike. White space other than a plain space is written by number, or a reader
/// would fold it: <https://www.w3.org/TR/xml/#AVNormalize> and `#sec-line-ends`.
fn escape(text: &str, out: &mut String) -> Result<(), Unwritable> {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => return Err(Unwritable(c)),
            _ => out.push(c),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(attribute: String, text: String) {
            let element = Element::new("a")
                .with("b", &attribute)
                .holding(Element::new("c").within("urn:x").saying(&text).holding(Element::new("d")));
            match element.to_text() {
                Err(Unwritable(c)) => prop_assert!(attribute.contains(c) || text.contains(c)),
                Ok(written) => {
                    let read = Element::parse(&written).unwrap();
                    prop_assert_eq!(read.attribute("b"), Some(attribute.as_str()));
                    let inner = read.elements().next().unwrap();
                    prop_assert_eq!(inner.namespace.as_deref(), Some("urn:x"));
                    prop_assert_eq!(inner.text(), text);
                    prop_assert_eq!(inner.elements().next().unwrap().namespace.as_deref(), None);
                }
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[<>a/='\"&;!\\[\\] x-]{0,60}") {
            let _either = Element::parse(&text);
        }
    }

    #[test]
    fn deep_nesting_and_entities_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(500), "</a>".repeat(500));
        assert!(
            Element::parse(&deep)
                .unwrap_err()
                .to_string()
                .contains("nest")
        );
        let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbb'>]><a>&b;</a>";
        assert!(Element::parse(bomb).is_err());
    }
}
