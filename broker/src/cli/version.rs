//! `aqueduct version`.

use std::process::ExitCode;

use serde_json::json;

use super::{
    OutputArgs,
    output::{self, Format},
};

/// Version of this binary.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arguments of `aqueduct version`.
#[derive(Debug, clap::Args)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: VersionArgs) -> anyhow::Result<ExitCode> {
    let commit = option_env!("AQUEDUCT_COMMIT");
    let rustc = env!("AQUEDUCT_RUSTC");
    if args.output.output == Format::Table {
        let commit = commit
            .map(|commit| format!(" ({commit})"))
            .unwrap_or_default();
        output::print(format!(
            "aqueduct {VERSION}{commit}, {rustc}, acknowledged = synced\n"
        ))?;
    } else {
        output::print_json(&json!({
            "version": VERSION,
            "commit": commit,
            "rustc": rustc,
            "durability": "synced",
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}
