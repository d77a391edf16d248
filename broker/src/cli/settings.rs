//! The settings of a node as flags, and the reading of its file and environment.
//!
//! The flags are made of the list of settings in `config`, so that no setting can lack one.

use std::{env, fmt, path::PathBuf, process::ExitCode};

use aqueduct_broker::config::{KEYS, Key, Layers, Problem, Settled};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

use super::output::{self, Failure, USAGE};

/// What was given on the command line.
#[derive(Clone, Default)]
pub(super) struct SettingArgs {
    file: Option<PathBuf>,
    given: Vec<(&'static str, String)>,
}

impl fmt::Debug for SettingArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entry(&"config", &self.file)
            .entries(self.given.iter().map(|(name, text)| (name, text)))
            .finish()
    }
}

impl SettingArgs {
    /// What a flag says, if it was given.
    pub(super) fn flag(&self, name: &str) -> Option<&str> {
        let given = self.given.iter().find(|(given, _)| *given == name);
        given.map(|(_, text)| text.as_str())
    }

    /// Adds what stands for a flag.
    pub(super) fn add(&mut self, name: &'static str, text: String) {
        self.given.push((name, text));
    }

    /// Puts file, environment and flags over what a command has of its own. Problems are
    /// printed, and the exit code given back instead.
    pub(super) fn settle(&self, layers: Layers) -> anyhow::Result<Result<Settled, ExitCode>> {
        match self.layers(layers)?.settle() {
            Ok(settled) => Ok(Ok(settled)),
            Err(problems) => {
                report(&problems);
                Ok(Err(ExitCode::from(USAGE)))
            }
        }
    }

    fn layers(&self, mut layers: Layers) -> anyhow::Result<Layers> {
        // The service manager may name several, with colons between them.
        let state = env::var("STATE_DIRECTORY").unwrap_or_default();
        if let Some(directory) = state.split(':').next().filter(|it| !it.is_empty()) {
            layers.preset("data", directory, "STATE_DIRECTORY");
        }
        if let Some(path) = &self.file {
            let name = path.display().to_string();
            layers.file(&name, &read(path)?);
        }
        // A variable whose name or value is no text cannot be one of ours.
        let variables =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        layers.environment(variables.map(|(name, value)| {
            let text = value.to_string_lossy().into_owned();
            (name, text)
        }));
        for (name, text) in &self.given {
            let flag = format!("--{}", name.replace('_', "-"));
            layers.flag(name, text, flag);
        }
        Ok(layers)
    }
}

/// The text of a configuration file.
pub(super) fn read(path: &std::path::Path) -> anyhow::Result<String> {
    let read = std::fs::read_to_string(path);
    read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())).into())
}

/// Prints every problem to stderr, with its hint below.
pub(super) fn report(problems: &[Problem]) {
    for problem in problems {
        output::complain(&problem.to_string(), problem.hint.as_deref());
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        for key in KEYS {
            let given = matches.value_source(key.name) == Some(ValueSource::CommandLine);
            if let Some(text) = matches.get_one::<String>(key.name).filter(|_| given) {
                self.given.push((key.name, text.clone()));
            }
        }
        Ok(())
    }
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("AQUEDUCT_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file; flags and variables win over it");
        KEYS.iter()
            .fold(command.arg(file), |command, key| command.arg(argument(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(key: &'static Key) -> Arg {
    let doc = key.doc.trim_end_matches('.');
    let help = format!(
        "{doc} [env: {}] [default: {}]",
        key.env(),
        key.default_text()
    );
    let argument = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.placeholder)
        .help(help);
    if key.switch {
        return argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
    }
    argument
}
