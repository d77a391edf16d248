//! Which path leads where: built once from the schema's rules and the door's own pages.

use std::collections::BTreeSet;

use http::Method as Verb;

use super::{
    schema::{Rule, Schema},
    template::{Path, Template},
};

/// The door's own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// Is the process alive?
    Health,
    /// Does it take requests?
    Ready,
    Metrics,
    /// Of each partition of one topic.
    DetailedMetrics,
    OpenApi,
    /// A message as the body of a POST.
    RawPublish,
}

/// Where a path leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// A method by a rule; none for its gRPC path with a JSON body.
    Method {
        method: usize,
        rule: usize,
    },
    Page(Page),
}

struct Entry {
    verb: Verb,
    template: Template,
    target: Target,
}

/// Every path.
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Rules by the number that a target has: those of the schema, then one for each gRPC path.
    rules: Vec<Rule>,
}

/// What a request's verb and path lead to.
pub(super) enum Found {
    Target(Target, Vec<String>),
    /// The path exists for these verbs.
    OtherVerbs(String),
    Nothing,
}

/// Path, verb and page of what is not in the schema.
pub(super) const PAGES: [(&str, Verb, Page); 6] = [
    ("/health", Verb::GET, Page::Health),
    ("/ready", Verb::GET, Page::Ready),
    ("/metrics", Verb::GET, Page::Metrics),
    ("/metrics/detailed", Verb::GET, Page::DetailedMetrics),
    ("/openapi.json", Verb::GET, Page::OpenApi),
    ("/v1/topics/{topic}/messages", Verb::POST, Page::RawPublish),
];

/// The page at this path, if it is one without variables: whoever looks at the node's health needs
/// no table.
pub(super) fn plain_page(verb: &Verb, path: &str) -> Option<Page> {
    // A client may write a template as its path, braces and all.
    let is_plain = |at: &str| at == path && !at.contains('{');
    let found = PAGES.iter().find(|(at, _, _)| is_plain(at));
    let (_, allowed, page) = found?;
    (verb == allowed || (verb == Verb::HEAD && allowed == Verb::GET)).then_some(*page)
}

impl Table {
    /// # Errors
    /// If a template is not understood or two lead to different places.
    pub(super) fn new(schema: &Schema) -> Result<Table, String> {
        let (mut entries, mut rules) = (Vec::new(), Vec::new());
        for (method, of) in schema.methods.iter().enumerate() {
            let plain = Rule {
                verb: Verb::POST,
                template: Template::parse(of.uri.path())?,
                variables: Vec::new(),
                body: super::schema::BodyRule::All,
            };
            for rule in of.rules.iter().chain([&plain]) {
                entries.push(Entry {
                    verb: rule.verb.clone(),
                    template: rule.template.clone(),
                    target: Target::Method {
                        method,
                        rule: rules.len(),
                    },
                });
                rules.push(rule.clone());
            }
        }
        for (path, verb, page) in PAGES {
            entries.push(Entry {
                verb,
                template: Template::parse(path)?,
                target: Target::Page(page),
            });
        }
        let mut shapes = BTreeSet::new();
        for entry in &entries {
            if !shapes.insert(format!("{} {}", entry.verb, shape(&entry.template))) {
                return Err(format!("{} {} twice", entry.verb, entry.template));
            }
        }
        Ok(Table { entries, rules })
    }

    pub(super) fn rule(&self, rule: usize) -> &Rule {
        &self.rules[rule]
    }

    /// Where a request goes; HEAD goes where GET does.
    pub(super) fn find(&self, verb: &Verb, path: &str) -> Found {
        let path = Path::new(path);
        let verb = if *verb == Verb::HEAD {
            &Verb::GET
        } else {
            verb
        };
        let mut others = BTreeSet::new();
        for entry in &self.entries {
            let Some(captures) = entry.template.captures(&path) else {
                continue;
            };
            if entry.verb == *verb {
                let captures = captures.into_iter().map(|text| text.into_owned());
                return Found::Target(entry.target, captures.collect());
            }
            others.insert(entry.verb.as_str());
        }
        if others.is_empty() {
            return Found::Nothing;
        }
        if others.contains("GET") {
            others.insert("HEAD");
        }
        others.insert("OPTIONS");
        Found::OtherVerbs(others.into_iter().collect::<Vec<_>>().join(", "))
    }
}

/// A template without the names of its variables.
fn shape(template: &Template) -> String {
    let mut shape = Template::clone(template);
    for segment in &mut shape.segments {
        if let super::template::Segment::Variable(name) = segment {
            name.clear();
        }
    }
    shape.to_string()
}
