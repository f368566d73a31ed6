//! YAML as Compose and Kubernetes read it: texts, lists and maps with the lines they are on, and
//! merge keys.

use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};

/// A value in a file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The line, from 1.
    pub(super) line: usize,
    pub(super) value: NodeValue,
}

#[derive(Debug, Clone)]
pub(super) enum NodeValue {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Parses the first document of a text.
///
/// # Errors
/// The text is not YAML; the reason names the line.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    parse_all(text)?.into_iter().next().ok_or_else(|| "has no content".to_owned())
}

/// Parses all documents of a text.
///
/// # Errors
/// As for [`parse`].
pub(super) fn parse_all(text: &str) -> Result<Vec<Node>, String> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
    Ok(documents.iter().map(convert).collect())
}

fn convert(yaml: &MarkedYaml<'_>) -> Node {
    let value = match &yaml.data {
        YamlData::Value(Scalar::String(text)) => NodeValue::Text(text.to_string()),
        YamlData::Value(Scalar::Integer(number)) => NodeValue::Text(number.to_string()),
        YamlData::Value(Scalar::FloatingPoint(number)) => NodeValue::Text(number.to_string()),
        YamlData::Value(Scalar::Boolean(boolean)) => NodeValue::Text(boolean.to_string()),
        YamlData::Sequence(items) => NodeValue::List(items.iter().map(convert).collect()),
        YamlData::Mapping(entries) => {
            let mut map: Vec<(String, Node)> = Vec::new();
            let mut merged = Vec::new();
            for (key, value) in entries {
                match convert(key).value {
                    NodeValue::Text(key) if key == "<<" => merged.push(convert(value)),
                    NodeValue::Text(key) => map.push((key, convert(value))),
                    _ => {}
                }
            }
            for node in merged {
                merge(&mut map, node);
            }
            NodeValue::Map(map)
        }
        YamlData::Tagged(_, inner) => return convert(inner),
        _ => NodeValue::Null,
    };
    Node { line: yaml.span.start.line(), value }
}

/// Adds the entries that the map lacks.
fn merge(map: &mut Vec<(String, Node)>, node: Node) {
    match node.value {
        NodeValue::Map(entries) => {
            for (key, value) in entries {
                if map.iter().all(|(its, _)| *its != key) {
                    map.push((key, value));
                }
            }
        }
        NodeValue::List(nodes) => {
            for node in nodes {
                merge(map, node);
            }
        }
        NodeValue::Null | NodeValue::Text(_) => {}
    }
}

impl Node {
    /// Returns the value of a key, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().find(|(its, _)| its == key)?;
        Some(&found.1).filter(|node| !matches!(node.value, NodeValue::Null))
    }

    /// Returns the entries of a map; none for other values.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        if let NodeValue::Map(entries) = &self.value { entries } else { &[] }
    }

    /// Returns the items of a list, or the value itself.
    pub(super) fn items(&self) -> &[Self] {
        if let NodeValue::List(items) = &self.value { items } else { std::slice::from_ref(self) }
    }

    /// Returns the text; `None` for lists, maps and null.
    pub(super) fn text(&self) -> Option<&str> {
        if let NodeValue::Text(text) = &self.value { Some(text) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_keys_add_what_is_missing() {
        let node = parse("x: &x\n  a: 1\n  b: true\ny:\n  <<: *x\n  b: 0.5\nz: ~\n").unwrap();
        let y = node.get("y").unwrap();
        assert_eq!(y.get("a").unwrap().text(), Some("1"));
        assert_eq!(y.get("b").unwrap().text(), Some("0.5"));
        assert_eq!(y.get("b").unwrap().line, 6);
        assert!(node.get("z").is_none());
    }

    #[test]
    fn text_that_is_not_yaml_has_a_reason_with_its_line() {
        let reason = parse("a: [1\nb: 2\n").unwrap_err();
        assert!(reason.starts_with("is not YAML: ") && reason.contains("line"), "{reason}");
    }
}
