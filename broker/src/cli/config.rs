//! `aqueduct config`: what a broker would be told, from where, and what it could be told.

use std::{path::PathBuf, process::ExitCode};

use aqueduct_broker::config::{KEYS, Layers, OTHER_VARIABLES, Problem, Settled, page};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    OutputArgs,
    output::{self, Format, USAGE},
    settings::{self, SettingArgs},
};

/// Arguments of `aqueduct config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what `aqueduct serve` would use with these flags, as a file that can be used
    Show(ShowArgs),
    /// List every variable with its key, default and meaning
    Env(EnvArgs),
    /// Check a file; exit code 2 and the lines if something is wrong
    Check(CheckArgs),
    /// Print the reference page
    #[command(hide = true)]
    Docs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Say where each value comes from
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    settings: SettingArgs,
}

#[derive(Debug, Args)]
struct EnvArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Show(args) => show(args),
        ConfigCommand::Env(args) => env(args.output.output),
        ConfigCommand::Check(args) => check(args),
        ConfigCommand::Docs => {
            output::print(page())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    // One may look at the rest before there is a place for the data.
    if args.settings.flag("data").is_none() {
        layers.preset("data", NO_DATA, "not set");
    }
    let settled = match args.settings.settle(layers)? {
        Ok(settled) => settled,
        Err(code) => return Ok(code),
    };
    match args.output.output {
        Format::Table => output::print(as_file(&settled, args.origin))?,
        format => output::print_list(format, as_json(&settled))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Stands for the missing data directory while a configuration is looked at.
const NO_DATA: &str = "none";

fn as_file(settled: &Settled, origin: bool) -> String {
    let lines: Vec<_> = KEYS
        .iter()
        .zip(&settled.origins)
        .map(|(key, from)| {
            let value = key.show(&settled.config);
            let bare = key.switch || value.bytes().all(|byte| byte.is_ascii_digit());
            let value = match bare && key.placeholder != "DIR" {
                true => value,
                false => format!("{value:?}"),
            };
            let unset = from.to_string() == "not set";
            let mark = if unset { "# " } else { "" };
            (format!("{mark}{} = {value}", key.name), from)
        })
        .collect();
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    lines
        .iter()
        .map(|(line, from)| match origin {
            true => format!("{line:<width$}  # {from}\n"),
            false => format!("{line}\n"),
        })
        .collect()
}

fn as_json(settled: &Settled) -> Vec<Value> {
    let each = KEYS.iter().zip(&settled.origins);
    each.map(|(key, from)| {
        json!({
            "key": key.name,
            "value": key.show(&settled.config),
            "origin": from.to_string(),
            "default": key.default_text(),
        })
    })
    .collect()
}

fn env(format: Format) -> anyhow::Result<ExitCode> {
    if format != Format::Table {
        let settings = KEYS.iter().map(|key| {
            json!({
                "variable": key.env(),
                "key": key.name,
                "default": key.default_text(),
                "meaning": key.doc,
            })
        });
        let others = OTHER_VARIABLES.iter().map(|(name, _, doc)| {
            json!({"variable": name, "key": Value::Null, "default": Value::Null, "meaning": doc})
        });
        output::print_list(format, settings.chain(others).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(&["VARIABLE", "KEY", "DEFAULT", "MEANING"]);
    for key in KEYS {
        let default = key.default_text();
        table.add_row([key.env().as_str(), key.name, &default, key.doc]);
    }
    for (name, reader, doc) in OTHER_VARIABLES {
        table.add_row([*name, &format!("({reader})"), "", doc]);
    }
    output::print_table(&table)?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    let name = args.file.display().to_string();
    layers.preset("data", NO_DATA, "not set");
    layers.file(&name, &settings::read(&args.file)?);
    let problems = layers.settle().err().unwrap_or_default();
    let code = if problems.is_empty() { 0 } else { USAGE };
    match args.output.output {
        Format::Table if problems.is_empty() => output::print(format!("{name} is fine\n"))?,
        Format::Table => settings::report(&problems),
        _ => output::print_json(&json!({
            "file": name,
            "ok": problems.is_empty(),
            "problems": problems.iter().map(problem_json).collect::<Vec<_>>(),
        }))?,
    }
    Ok(ExitCode::from(code))
}

fn problem_json(problem: &Problem) -> Value {
    json!({"line": problem.line, "message": problem.message, "hint": problem.hint})
}
