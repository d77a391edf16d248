//! Path templates of `google.api.http`: `/v1/topics/{topic}/groups/{group.name}:seek`.
//!
//! A template is literals and single-segment variables, with an optional verb behind the last
//! colon. Names of topics and groups hold no colon, so the split is never ambiguous. Pure: text
//! in, captures out.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    /// The path of the field that takes this segment, such as `topic.name`.
    Variable(String),
}

/// A path with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) segments: Vec<Segment>,
    pub(super) verb: Option<String>,
}

/// The path of a request, cut once and matched with many templates.
pub(super) struct Path<'a> {
    /// Without the verb, percent signs as they came.
    segments: Vec<&'a str>,
    verb: Option<&'a str>,
}

impl<'a> Path<'a> {
    pub(super) fn new(path: &'a str) -> Path<'a> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (path, verb) = match path.rsplit_once(':') {
            Some((before, verb)) if !verb.contains('/') => (before, Some(verb)),
            _ => (path, None),
        };
        Path {
            segments: path.split('/').collect(),
            verb,
        }
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What of the template is not understood: patterns inside braces, or a brace left open.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let path = text
            .strip_prefix('/')
            .ok_or_else(|| format!("{text}: a template begins with a slash"))?;
        let (path, verb) = match path.rsplit_once(':') {
            Some((before, verb)) if !verb.contains(['/', '}']) => (before, Some(verb.to_owned())),
            _ => (path, None),
        };
        let segment = |segment: &str| match segment.strip_prefix('{') {
            None if segment.contains(['{', '}', '*']) => Err(format!("{text}: {segment}")),
            None => Ok(Segment::Literal(segment.to_owned())),
            Some(rest) => match rest.strip_suffix('}') {
                Some(field) if !field.contains(['{', '}', '=', '*']) => {
                    Ok(Segment::Variable(field.to_owned()))
                }
                _ => Err(format!("{text}: {segment}")),
            },
        };
        Ok(Template {
            segments: path.split('/').map(segment).collect::<Result<_, _>>()?,
            verb,
        })
    }

    /// The values of the variables, decoded and in order, if the path fits.
    pub(super) fn captures<'a>(&self, path: &Path<'a>) -> Option<Vec<Cow<'a, str>>> {
        if path.segments.len() != self.segments.len() || path.verb != self.verb.as_deref() {
            return None;
        }
        let mut captures = Vec::new();
        for (segment, given) in self.segments.iter().zip(&path.segments) {
            match segment {
                Segment::Literal(literal) if literal == given => {}
                Segment::Variable(_) if !given.is_empty() => {
                    captures.push(percent_decode_str(given).decode_utf8().ok()?);
                }
                _ => return None,
            }
        }
        Some(captures)
    }

    /// Field paths of the variables, in order.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(field) => Some(field.as_str()),
        })
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(out, "/{text}")?,
                Segment::Variable(field) => write!(out, "/{{{field}}}")?,
            }
        }
        match &self.verb {
            Some(verb) => write!(out, ":{verb}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn captures(template: &str, path: &str) -> Option<Vec<String>> {
        let template = Template::parse(template).unwrap();
        let found = template.captures(&Path::new(path))?;
        Some(found.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn paths_fit_or_do_not() {
        let group = "/v1/topics/{topic}/groups/{group}:seek";
        assert_eq!(
            captures(group, "/v1/topics/a/groups/b:seek").unwrap(),
            ["a", "b"]
        );
        assert_eq!(captures(group, "/v1/topics/a/groups/b"), None);
        assert_eq!(captures(group, "/v1/topics/a/groups/b:pause"), None);
        assert_eq!(captures(group, "/v1/topics//groups/b:seek"), None);
        assert_eq!(captures("/v1/topics/{name}", "/v1/topics/"), None);
        assert_eq!(captures("/v1/topics/{name}", "/v1/topics/a/"), None);
        assert_eq!(captures("/v1/topics", "/v1/topics").unwrap().len(), 0);
    }

    #[test]
    fn percent_signs_are_decoded_after_the_split() {
        let found = captures("/v1/topics/{name}", "/v1/topics/topics%2Fa%3Ab").unwrap();
        assert_eq!(found, ["topics/a:b"]);
        assert_eq!(captures("/v1/topics/{name}", "/v1/topics/%ff"), None);
    }

    #[test]
    fn templates_read_back() {
        for text in [
            "/v1/topics",
            "/v1/topics/{topic.name}",
            "/v1/topics/{t}:publish",
        ] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
        for text in ["v1", "/v1/{a=b/*}", "/v1/{a", "/v1/*"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
