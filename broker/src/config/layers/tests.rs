//! Which layer wins, what is refused, and what the refusal says.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let owned: Vec<_> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    owned.into_iter()
}

fn origin(settled: &Settled, name: &str) -> String {
    settled.origins[find(name).unwrap().0].to_string()
}

/// What a file alone is told.
fn check(text: &str, expected: &[(&str, Option<&str>)]) {
    let mut layers = Layers::default();
    layers.file("a.toml", text);
    let problems = layers.problems();
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.to_string(), problem.hint.clone()))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(text, hint)| ((*text).to_owned(), hint.map(str::to_owned)))
        .collect();
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn the_higher_layer_wins() {
    let mut layers = Layers::default();
    layers.preset("threads", "1", "aqueduct dev");
    layers.preset("auto_create_topics", "true", "aqueduct dev");
    layers.file(
        "a.toml",
        "# ours\ndata = \"d\"\nthreads = 2\ngrace = \"1m\"\ndisk_limit = \"10GiB\"\nmin_free = 4096\n",
    );
    layers.environment(env(&[
        ("AQUEDUCT_THREADS", "3"),
        ("AQUEDUCT_GRACE", "2m"),
        ("AQUEDUCT_SEED", "7"),
        ("HOME", "x"),
    ]));
    layers.flag("threads", "4", "--threads".to_owned());
    let settled = layers.settle().unwrap();
    let config = &settled.config;
    assert_eq!(config.threads, 4);
    assert_eq!(config.grace, Duration::from_secs(120));
    assert_eq!(config.disk_limit_bytes, Some(10 << 30));
    assert_eq!(config.min_free_bytes, 4096);
    assert!(config.auto_create_topics);
    assert_eq!(origin(&settled, "threads"), "--threads");
    assert_eq!(origin(&settled, "grace"), "AQUEDUCT_GRACE");
    assert_eq!(origin(&settled, "disk_limit"), "a.toml:5");
    assert_eq!(origin(&settled, "auto_create_topics"), "aqueduct dev");
    assert_eq!(origin(&settled, "log"), "default");
}

#[test]
fn a_file_is_told_line_key_value_and_limit() {
    check("", &[]);
    check("threads = 4\ninsecure = true\n", &[]);
    check(
        "\n\ntreads = 4\n",
        &[(
            "a.toml:3: unknown key \"treads\"",
            Some("did you mean threads?"),
        )],
    );
    check(
        "[server]\nlisten = \"127.0.0.1:1\"\n",
        &[(
            "a.toml:1: unknown key \"server\"",
            Some("`aqueduct config env` lists every key"),
        )],
    );
    check(
        "in_flight = \"1MiB\"\n",
        &[(
            "a.toml:1: in_flight is 1MiB, it must lie between 32MiB and 16GiB",
            None,
        )],
    );
    check(
        "threads = 1000\ngrace = 5\n",
        &[
            (
                "a.toml:1: threads is 1000, it must lie between 1 and 256",
                None,
            ),
            (
                "a.toml:2: grace: \"5\" is not a time like 250ms, 30s, 1h30m or 7d",
                None,
            ),
        ],
    );
    check(
        "listen = [1]\ninsecure = \"true\"\nthreads = 1.5\nlog_format = \"xml\"\n",
        &[
            (
                "a.toml:1: listen: HOST:PORT is wanted here, not an array",
                None,
            ),
            (
                "a.toml:2: insecure: true|false is wanted here, not the text \"true\"",
                None,
            ),
            ("a.toml:3: threads: N is wanted here, not a float", None),
            (
                "a.toml:4: log_format: \"xml\" is neither text nor json",
                None,
            ),
        ],
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for text in [
        "threads = 4\nlisten = \n",
        "threads = 4\nthreads = 4\n",
        "\n= 4",
    ] {
        let mut layers = Layers::default();
        layers.file("a.toml", text);
        let problems = layers.problems();
        assert_eq!(problems[0].line, Some(2), "{problems:?}");
        assert!(problems[0].place == "a.toml:2", "{problems:?}");
    }
}

#[test]
fn unknown_variables_are_refused_with_what_was_meant() {
    let mut layers = Layers::default();
    layers.preset("data", "d", "test");
    layers.environment(env(&[
        ("AQUEDUCT_LISTEM", "127.0.0.1:1"),
        ("AQUEDUCT_SERVICE_HOST", "10.0.0.1"),
        ("AQUEDUCT_WHATEVER", "1"),
        ("AQUEDUCT_LOG_FORMAT", "xml"),
    ]));
    let problems = layers.settle().unwrap_err();
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "AQUEDUCT_LISTEM: unknown variable",
            "AQUEDUCT_LOG_FORMAT: log_format: \"xml\" is neither text nor json",
            "AQUEDUCT_WHATEVER: unknown variable",
        ]
    );
    let hint = problems[0].hint.as_deref();
    assert_eq!(hint, Some("did you mean AQUEDUCT_LISTEN?"));
}

#[test]
fn relations_are_looked_at_last() {
    let mut layers = Layers::default();
    layers.file("a.toml", "data = \"d\"\nlisten = \"0.0.0.0:7320\"\n");
    let problems = layers.settle().unwrap_err();
    assert!(problems[0].message.contains("--insecure"), "{problems:?}");
    let problems = Layers::default().settle().unwrap_err();
    assert!(problems[0].message.contains("--data"), "{problems:?}");
}

#[test]
fn any_text_is_answered() {
    let pieces = [
        "threads", "=", " ", "\n", "\"", "1", "[", "]", "{", "}", ".", "é", "\0", "'''", "#",
    ];
    for n in 0..20_000_usize {
        let mut seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut text = String::new();
        for _ in 0..12 {
            text.push_str(pieces[seed % pieces.len()]);
            seed /= pieces.len();
        }
        let mut layers = Layers::default();
        layers.file("a.toml", &text);
        let _ = layers.problems();
    }
}
