//! `aqueduct completion` and `aqueduct man`: made of the same definitions as the help texts.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, output};

/// Arguments of `aqueduct completion`.
#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `aqueduct man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The directory; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn completion(args: CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "aqueduct", &mut script);
    output::print(script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: ManArgs) -> anyhow::Result<ExitCode> {
    let place = || args.directory.display().to_string();
    std::fs::create_dir_all(&args.directory).with_context(place)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).with_context(place)?;
    Ok(ExitCode::SUCCESS)
}
