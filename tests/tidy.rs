//! The house rules as a test: who may name whom, headers, sizes, leftovers.
//!
//! Reads the sources as text and the manifests through `cargo tree`. A fence that breaks
//! names the file, the line and the reason the fence stands. The ratchet of file sizes is
//! a list by name: what is on it may not grow, and a new line with its reason is always a
//! fair answer.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;

/// A file over this many lines needs a line in [`LARGE`].
const LINES: usize = 600;

/// Files over the aim: path, lines they may have, why they are one file.
const LARGE: &[(&str, usize, &str)] = &[];

/// A pattern that may be written only in some places.
struct Fence {
    pattern: &'static str,
    /// Where the fence stands: path prefixes.
    within: &'static [&'static str],
    /// Where the pattern is at home: path prefixes.
    except: &'static [&'static str],
    why: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        pattern: r"\bopenraft::|\buse openraft\b",
        within: &["proto/src", "storage/src", "client/src", "broker/src"],
        except: &["broker/src/raft"],
        why: "its interface moves with each alpha, so it stays behind the engine trait",
    },
    Fence {
        pattern: r"\b(tokio|tonic|prost|async)\b",
        within: &["storage/src"],
        except: &[],
        why: "storage can be tested, simulated and reasoned about alone",
    },
    Fence {
        pattern: r"\bstd::fs\b|\brustix::",
        within: &["storage/src"],
        except: &[
            "storage/src/disk.rs",
            "storage/src/disk/",
            "storage/src/map.rs",
        ],
        why: "one address for each danger: files are reached through Disk",
    },
    Fence {
        pattern: r"\bthread::(spawn|scope|Builder)\b",
        within: &["storage/src"],
        except: &["storage/src/sync_engine.rs", "storage/src/drain.rs"],
        why: "concurrency is where one looks for it",
    },
    Fence {
        pattern: r"\bunsafe\s*(\{|fn|impl)",
        within: &[
            "proto/src",
            "storage/src",
            "client/src",
            "broker/src",
            "benches",
            "tests",
        ],
        except: &["storage/src/map.rs"],
        why: "unsafe has one address, with its safety contract at its head",
    },
    Fence {
        pattern: r"\b(sync_data|sync_all|fdatasync|fsync)\(",
        within: &["proto/src", "storage/src", "client/src", "broker/src"],
        except: &[
            "storage/src/disk.rs",
            "storage/src/disk/",
            "broker/src/cli/",
        ],
        why: "a failed sync is never retried: only Disk may ask for one (the CLI measures them)",
    },
    Fence {
        pattern: r"\baqueduct_client\b",
        within: &["broker/src"],
        except: &["broker/src/main.rs", "broker/src/cli"],
        why: "the broker's library never imports the client",
    },
    Fence {
        pattern: r"\baqueduct_(storage|broker)\b",
        within: &["client/src", "proto/src"],
        except: &[],
        why: "users of the client do not build a server",
    },
    Fence {
        pattern: r"\baqueduct_broker\b",
        within: &["storage/src"],
        except: &[],
        why: "dependencies point one way",
    },
    Fence {
        pattern: r"\bcrate::(raft|http|kafka)\b|\baqueduct_storage\b",
        within: &["broker/src/grpc"],
        except: &[],
        why: "doors translate: they name neither each other, nor raft, nor storage",
    },
    Fence {
        pattern: r"\bcrate::(raft|grpc|kafka)\b|\baqueduct_storage\b",
        within: &["broker/src/http"],
        except: &[],
        why: "doors translate: they name neither each other, nor raft, nor storage",
    },
    Fence {
        pattern: r"\btonic\b",
        within: &["broker/src"],
        except: &["broker/src/grpc", "broker/src/http", "broker/src/cli"],
        why: "a door can be replaced",
    },
    Fence {
        pattern: r"\bclap\b",
        within: &["broker/src", "client/src", "storage/src", "proto/src"],
        except: &["broker/src/main.rs", "broker/src/cli"],
        why: "the command line is the program's, not the library's",
    },
    Fence {
        pattern: r"\banyhow\b",
        within: &["storage/src", "client/src", "proto/src", "broker/src"],
        except: &["broker/src/main.rs", "broker/src/cli"],
        why: "libraries have errors callers can branch on",
    },
];

/// Pure files: plain data in, plain data out, ordered collections only.
const PURE: &[&str] = &[
    "proto/src/batch.rs",
    "proto/src/record.rs",
    "proto/src/attributes.rs",
    "proto/src/partitioner.rs",
    "proto/src/names.rs",
    "storage/src/entry.rs",
    "storage/src/retention.rs",
    "broker/src/metadata/state.rs",
    "broker/src/partition/state.rs",
    "broker/src/partition/producers.rs",
    "broker/src/partition/dedup.rs",
    "broker/src/partition/positions.rs",
    "broker/src/partition/kept.rs",
    "broker/src/retention/rule.rs",
    "broker/src/retention/watch.rs",
    "broker/src/partition/queues.rs",
    "broker/src/metadata/groups.rs",
    "broker/src/metadata/queues.rs",
    "broker/src/metadata/schedules.rs",
    "broker/src/groups/assign.rs",
    "broker/src/work/attributes.rs",
    "broker/src/work/rest.rs",
    "broker/src/work/verdicts.rs",
    "broker/src/groups/coordinator.rs",
    "broker/src/groups/start.rs",
    "broker/src/groups/terms.rs",
    "broker/src/topics/rules.rs",
    "broker/src/publish/options.rs",
    "broker/src/queue/command.rs",
    "broker/src/queue/dropping.rs",
    "broker/src/queue/events.rs",
    "broker/src/queue/filter.rs",
    "broker/src/queue/following.rs",
    "broker/src/queue/history.rs",
    "broker/src/queue/keys.rs",
    "broker/src/queue/known.rs",
    "broker/src/queue/leased.rs",
    "broker/src/queue/levels.rs",
    "broker/src/queue/mod.rs",
    "broker/src/queue/offsets.rs",
    "broker/src/queue/pages.rs",
    "broker/src/queue/policy.rs",
    "broker/src/queue/rate.rs",
    "broker/src/queue/record.rs",
    "broker/src/queue/saved.rs",
    "broker/src/queue/schedule.rs",
    "broker/src/queue/settled.rs",
    "broker/src/queue/spans.rs",
    "broker/src/queue/state.rs",
    "broker/src/queue/time.rs",
    "broker/src/queue/trimming.rs",
    "broker/src/queue/verdicts.rs",
    "broker/src/queue/view.rs",
    "broker/src/queue/waiting.rs",
    "broker/src/slips.rs",
    "client/src/backoff.rs",
    "client/src/batches.rs",
    "client/src/consumer/core.rs",
    "client/src/consumer/flow.rs",
    "client/src/consumer/progress.rs",
    "client/src/groups/types.rs",
];

const IMPURE: &str = r"\b(async|tokio|Instant|SystemTime|HashMap|HashSet|std::fs|std::net)\b";

fn root() -> PathBuf {
    aqueduct_tests::input::workspace()
}

/// A source file: path from the root with forward slashes, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines with numbers, without comments and without the unit tests at the end.
    fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let mut after_cfg_test = false;
        self.text
            .lines()
            .enumerate()
            .take_while(move |(_, line)| {
                let opens_tests = after_cfg_test && line.starts_with("mod ") && line.ends_with('{');
                after_cfg_test =
                    line.starts_with("#[cfg(test)]") || (after_cfg_test && line.starts_with("#["));
                !is_test_file && !opens_tests
            })
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number + 1, line.split(" // ").next().unwrap_or(line)))
    }
}

/// Every file of ours with one of these endings.
fn files(endings: &[&str]) -> Vec<Source> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let paths: Vec<String> = match out {
        Ok(out) if out.status.success() => String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect(),
        _ => walk(&root(), ""), // an unpacked archive without git
    };
    paths
        .into_iter()
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).ok()?;
            Some(Source { path, text })
        })
        .collect()
}

fn walk(directory: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == "target" || name == ".git" {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path(), &format!("{path}/")));
        } else {
            found.push(path);
        }
    }
    found
}

/// Fails with all findings at once, so that one run shows everything.
#[track_caller]
fn none(findings: &str) {
    assert!(findings.is_empty(), "\n{findings}");
}

#[test]
fn fences_stand() {
    let sources = files(&[".rs"]);
    let mut findings = String::new();
    for fence in FENCES {
        let pattern = Regex::new(fence.pattern).unwrap();
        let guarded = sources.iter().filter(|source| {
            let starts = |prefix: &&'static str| source.path.starts_with(*prefix);
            fence.within.iter().any(starts) && !fence.except.iter().any(starts)
        });
        for source in guarded {
            for (number, line) in source.production_lines() {
                if pattern.is_match(line) {
                    let (path, why) = (&source.path, fence.why);
                    writeln!(
                        findings,
                        "{path}:{number}: {}\n    fence: {why}",
                        line.trim()
                    )
                    .unwrap();
                }
            }
        }
    }
    none(&findings);
}

#[test]
fn pure_files_are_pure() {
    let pattern = Regex::new(IMPURE).unwrap();
    let mut findings = String::new();
    for source in files(&[".rs"]) {
        let stem = source.path.trim_end_matches(".rs");
        let pure = PURE.iter().any(|path| {
            let home = path.trim_end_matches(".rs");
            home == stem || source.path.starts_with(&format!("{home}/"))
        });
        if !pure {
            continue;
        }
        for (number, line) in source.production_lines() {
            if pattern.is_match(line) {
                writeln!(findings, "{}:{number}: {}", source.path, line.trim()).unwrap();
            }
        }
    }
    none(&findings);
}

#[test]
fn dependencies_point_one_way() {
    let cases: [(&str, &[&str], &[&str]); 3] = [
        (
            "aqueduct-storage",
            &[],
            &["tokio", "tonic", "prost", "openraft", "hyper"],
        ),
        (
            "aqueduct-proto",
            &["--no-default-features"],
            &["tokio", "tonic", "prost", "openraft"],
        ),
        (
            "aqueduct-client",
            &[],
            &["aqueduct-storage", "aqueduct-broker", "openraft", "memmap2"],
        ),
    ];
    let mut findings = String::new();
    for (package, arguments, banned) in cases {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let out = Command::new(cargo)
            .args([
                "tree",
                "--offline",
                "-e",
                "normal",
                "--prefix",
                "none",
                "-p",
                package,
            ])
            .args(arguments)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let tree = String::from_utf8(out.stdout).unwrap();
        assert!(
            tree.contains(package),
            "cargo tree shows the package itself"
        );
        for name in tree.lines().filter_map(|line| line.split(' ').next()) {
            if banned.contains(&name) {
                writeln!(findings, "{package} depends on {name}").unwrap();
            }
        }
    }
    none(&findings);
}

#[test]
fn every_module_opens_with_a_header() {
    let mut findings = String::new();
    for source in files(&[".rs"]) {
        if !source.text.trim_start().starts_with("//!") {
            writeln!(findings, "{}: no `//!` header at the top", source.path).unwrap();
        }
    }
    none(&findings);
}

#[test]
fn files_do_not_grow_without_a_reason() {
    let mut findings = String::new();
    for source in files(&[".rs"]) {
        let lines = source.text.lines().count();
        let listed = LARGE.iter().find(|(path, ..)| *path == source.path);
        match listed {
            Some((path, limit, _)) if lines > *limit => {
                writeln!(findings, "{path}: {lines} lines, the list allows {limit}").unwrap();
            }
            None if lines > LINES => {
                let path = &source.path;
                writeln!(
                    findings,
                    "{path}: {lines} lines: split it or add it to LARGE"
                )
                .unwrap();
            }
            _ => {}
        }
    }
    for (path, _, reason) in LARGE {
        assert!(
            root().join(path).is_file(),
            "LARGE names {path}, which is gone"
        );
        assert!(reason.len() > 20, "LARGE gives no reason for {path}");
    }
    none(&findings);
}

#[test]
fn nothing_is_left_over() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["to", "do!("],
        ["unimplemented", "!("],
        ["db", "g!("],
        ["FIX", "ME"],
        ["XX", "X"],
        ["#[ign", "ore"],
        ["/wo", "rk/"],
        ["/tmp/", "spec"],
        ["/ro", "ot/"],
        ["clau", "de"],
        ["anthro", "pic"],
        ["assis", "tant"],
        ["chat", "gpt"],
    ]
    .map(|parts| parts.concat());
    let mut findings = String::new();
    for source in files(&[".rs", ".toml", ".md", ".proto", "justfile", ".ci/run"]) {
        for (number, line) in source.text.lines().enumerate() {
            // A module of the broker has the name of a path that must not be left over.
            let line = line.replace("broker/src/work/", "");
            let lower = line.to_lowercase();
            for word in &words {
                let found = line.contains(word.as_str())
                    || (word.chars().all(char::is_lowercase) && lower.contains(word.as_str()));
                if found {
                    writeln!(findings, "{}:{}: {word}", source.path, number + 1).unwrap();
                }
            }
        }
    }
    none(&findings);
}

/// The public limits and refusal reasons are documented by name.
#[test]
fn documents_name_every_limit_and_reason() {
    let mut findings = String::new();
    let cases = [
        (
            "broker/src/limits.rs",
            r"pub const ([A-Z][A-Z0-9_]+)\s*:",
            "docs/limits.md",
        ),
        (
            "broker/src/error.rs",
            r#""([A-Z][A-Z_]{4,})""#,
            "docs/errors.md",
        ),
    ];
    for (code, pattern, document) in cases {
        let Ok(text) = std::fs::read_to_string(root().join(code)) else {
            continue;
        };
        let page = std::fs::read_to_string(root().join(document)).unwrap();
        for found in Regex::new(pattern).unwrap().captures_iter(&text) {
            if !page.contains(&format!("`{}`", &found[1])) {
                writeln!(
                    findings,
                    "{document} does not name `{}` of {code}",
                    &found[1]
                )
                .unwrap();
            }
        }
    }
    none(&findings);
}

/// Links between our documents lead somewhere.
#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    let mut findings = String::new();
    for source in files(&[".md"]) {
        let home = root().join(&source.path).parent().unwrap().to_path_buf();
        for found in link.captures_iter(&source.text) {
            if !home.join(&found[1]).exists() {
                writeln!(findings, "{}: no {}", source.path, &found[1]).unwrap();
            }
        }
    }
    none(&findings);
}
