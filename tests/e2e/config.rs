//! Configuration as a user meets it: layers, refusals with line and suggestion, the page.

use std::process::{Command, Stdio};

use aqueduct_tests::{
    Process,
    cli::{Finished, exit, finish},
    input::workspace,
    process::binary,
};
use serde_json::Value;

/// `aqueduct` without anything of ours in its environment but this.
fn aqueduct(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AQUEDUCT_") {
            command.env_remove(name);
        }
    }
    command.env_remove("STATE_DIRECTORY");
    command.args(arguments).envs(variables.iter().copied());
    finish(command.stdin(Stdio::null()))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

#[test]
fn the_page_is_made_of_the_settings() {
    let page = aqueduct(&["config", "docs"], &[]).ok().stdout;
    let path = workspace().join("docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == written,
        "docs/configuration.md is out of date: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn show_says_where_each_value_comes_from() {
    let (_directory, path) = file("threads = 2\ngrace = \"3s\"\nlisten = \"127.0.0.1:1\"\n");
    let arguments = [
        "config",
        "show",
        "--origin",
        "--config",
        &path,
        "--listen",
        "127.0.0.1:3",
        "--insecure",
        "-o",
        "json",
    ];
    let variables = [("AQUEDUCT_LISTEN", "127.0.0.1:2"), ("AQUEDUCT_GRACE", "4s")];
    let shown = aqueduct(&arguments, &variables).ok().json();
    let get = |key: &str| {
        let all: &Vec<Value> = shown.as_array().unwrap();
        let found = all.iter().find(|it| it["key"] == key).unwrap();
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("value"), text("origin"))
    };
    assert_eq!(get("listen"), ("127.0.0.1:3".into(), "--listen".into()));
    assert_eq!(get("grace"), ("4s".into(), "AQUEDUCT_GRACE".into()));
    assert_eq!(get("threads"), ("2".into(), format!("{path}:1")));
    assert_eq!(get("insecure"), ("true".into(), "--insecure".into()));
    assert_eq!(get("log_format"), ("text".into(), "default".into()));
}

#[test]
fn what_show_prints_is_a_file_with_the_same_meaning() {
    let (_directory, path) = file("data = \"some \\\"where\\\"\"\ndisk_limit = \"3GiB\"\n");
    for origin in [&[][..], &["--origin"]] {
        let shown = aqueduct(
            &[&["config", "show", "--config", &path], origin].concat(),
            &[],
        );
        let shown = shown.ok().stdout;
        let (_second, again) = file(&shown);
        aqueduct(&["config", "check", &again], &[]).ok();
        let twice = aqueduct(&["config", "show", "--config", &again], &[]).ok();
        if origin.is_empty() {
            assert_eq!(twice.stdout, shown);
        }
    }
    // Without a place for the data the rest can be looked at, and the file says what is missing.
    let shown = aqueduct(&["config", "show"], &[]).ok().stdout;
    assert!(shown.starts_with("# data = "), "{shown}");
}

#[test]
fn check_names_line_and_suggestion() {
    let (_directory, path) = file("\nthreats = 4\nin_flight = \"1MiB\"\n");
    let refused = aqueduct(&["config", "check", &path], &[]).with_code(exit::USAGE);
    assert_eq!(
        refused.stderr,
        format!(
            "error: {path}:2: unknown key \"threats\"\nhint: did you mean threads?\n\
             error: {path}:3: in_flight is 1MiB, it must lie between 32MiB and 16GiB\n"
        )
    );
    let refused = aqueduct(&["config", "check", &path, "-o", "json"], &[]);
    let told = refused.with_code(exit::USAGE).json();
    assert_eq!(told["problems"][0]["line"], 2);
    let (_directory, path) = file("listen = \"0.0.0.0:1\"\n");
    let refused = aqueduct(&["config", "check", &path], &[]).with_code(exit::USAGE);
    assert!(refused.stderr.contains("--insecure"), "{}", refused.stderr);
    let refused = aqueduct(&["config", "check", "no-such-file"], &[]);
    let _ = refused.with_code(exit::USAGE);
    let (_directory, path) = file("# nothing\n");
    aqueduct(&["config", "check", &path], &[]).ok();
}

#[test]
fn a_broker_does_not_start_with_what_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let serve = [
        "serve",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    let variables = [("AQUEDUCT_TREADS", "4")];
    let refused = aqueduct(&serve, &variables).with_code(exit::USAGE);
    assert_eq!(
        refused.stderr,
        "error: AQUEDUCT_TREADS: unknown variable\nhint: did you mean AQUEDUCT_THREADS?\n"
    );
    let refused = aqueduct(&["serve"], &[]).with_code(exit::USAGE);
    assert!(refused.stderr.contains("--data"), "{}", refused.stderr);
    let (_file, path) = file("treads = 4\n");
    let refused = aqueduct(&serve, &[("AQUEDUCT_CONFIG", &path)]).with_code(exit::USAGE);
    assert!(refused.stderr.contains("a.toml:1"), "{}", refused.stderr);
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn a_broker_starts_from_a_file() {
    let (directory, path) = file("auto_create_topics = true\nauto_create_partitions = 3\n");
    let data = directory.path().join("data");
    let broker = Process::start_with(&data, &["--config", &path]);
    let cli = aqueduct_tests::Cli::new(broker.address());
    cli.run(&["pub", "made", "x"]).ok();
    let topic = cli
        .run(&["topic", "describe", "made", "-o", "json"])
        .ok()
        .json();
    assert_eq!(topic["partitions"], 3);
}

#[test]
fn every_variable_is_listed() {
    let listed = aqueduct(&["config", "env", "-o", "jsonl"], &[]).ok().stdout;
    for name in [
        "AQUEDUCT_LISTEN",
        "AQUEDUCT_DATA",
        "AQUEDUCT_SERVER",
        "AQUEDUCT_SEED",
    ] {
        assert!(listed.contains(&format!("{name:?}")), "{name}");
    }
    let people = aqueduct(&["config", "env"], &[]).ok().stdout;
    assert!(people.contains("AQUEDUCT_LISTEN"), "{people}");
}
