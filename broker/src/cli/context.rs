//! `aqueduct context`: names for brokers.
//!
//! They lie in `$XDG_CONFIG_HOME/aqueduct/contexts.toml` (or `~/.config/…`), readable by their owner
//! only, because a context will hold credentials one day. The file is replaced as a whole, by a
//! rename, so that two commands at a time cannot tear it.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use toml::{Table, Value};

use super::{
    OutputArgs,
    output::{self, Failure, Format},
    values,
};

/// Exit code for a name that is not there.
const NOT_FOUND: u8 = 3;

/// Arguments of `aqueduct context`.
#[derive(Debug, Args)]
pub(super) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// List contexts; the one in use is marked
    Ls(ListArgs),
    /// Make a context, or change where it leads
    Set(SetArgs),
    /// Use a context wherever neither --server nor --context is given
    Use(NameArgs),
    /// Remove a context
    Rm(NameArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The context
    #[arg(value_parser = values::topic)]
    name: String,
    /// The broker's address
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The context
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// The file of contexts.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    current: Option<String>,
    servers: BTreeMap<String, String>,
}

impl Contexts {
    /// Reads the file; without one there are no contexts.
    ///
    /// # Errors
    /// A file that cannot be read or understood, with its name.
    pub(super) fn load() -> anyhow::Result<Self> {
        let Some(path) = path() else {
            return Ok(Self::default());
        };
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text)
                .map_err(|why| Failure::usage(format!("{}: {why}", path.display())).into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::usage(format!("{}: {error}", path.display())).into()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| error.to_string())?;
        let current = table.get("current").and_then(Value::as_str);
        let mut servers = BTreeMap::new();
        let contexts = table.get("contexts").and_then(Value::as_table);
        for (name, context) in contexts.into_iter().flatten() {
            let server = context.get("server").and_then(Value::as_str);
            let server = server.ok_or_else(|| format!("contexts.{name} has no server"))?;
            servers.insert(name.clone(), server.to_owned());
        }
        Ok(Self {
            current: current.map(str::to_owned),
            servers,
        })
    }

    fn text(&self) -> String {
        let context = |server: &String| {
            Value::Table(Table::from_iter([(
                "server".to_owned(),
                Value::String(server.clone()),
            )]))
        };
        let contexts = self.servers.iter();
        let contexts = contexts.map(|(name, server)| (name.clone(), context(server)));
        let mut table = Table::new();
        if let Some(current) = &self.current {
            table.insert("current".to_owned(), Value::String(current.clone()));
        }
        table.insert("contexts".to_owned(), Value::Table(contexts.collect()));
        table.to_string()
    }

    fn save(&self) -> anyhow::Result<()> {
        let path = path().ok_or_else(|| {
            Failure::usage("there is no place for contexts")
                .hint("set HOME or XDG_CONFIG_HOME to a directory")
        })?;
        self.write(&path)
            .with_context(|| path.display().to_string())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(self.text().as_bytes())?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        file.persist(path)?;
        Ok(())
    }

    /// Where a context leads.
    pub(super) fn server(&self, name: &str) -> Option<&str> {
        self.servers.get(name).map(String::as_str)
    }

    /// The context in use.
    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }
}

/// What is said of a context that is not there.
pub(super) fn unknown(name: &str, contexts: &Contexts) -> Failure {
    let names: Vec<_> = contexts.servers.keys().map(String::as_str).collect();
    let hint = if names.is_empty() {
        format!("`aqueduct context set {name} --server HOST:PORT` makes it")
    } else {
        format!("there are: {}", names.join(", "))
    };
    Failure::new(NOT_FOUND, format!("there is no context {name:?}")).hint(hint)
}

fn path() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let home = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))?;
    Some(home.join("aqueduct").join("contexts.toml"))
}

pub(super) fn run(args: ContextArgs) -> anyhow::Result<ExitCode> {
    let mut contexts = Contexts::load()?;
    let (done, change) = match args.command {
        ContextCommand::Ls(args) => {
            list(args.output.output, &contexts)?;
            return Ok(ExitCode::SUCCESS);
        }
        ContextCommand::Set(args) => {
            let server = args.server.clone();
            contexts.servers.insert(args.name.clone(), server);
            let done = format!("context {} leads to {}", args.name, args.server);
            (done, args.change)
        }
        ContextCommand::Use(args) => {
            if contexts.server(&args.name).is_none() {
                return Err(unknown(&args.name, &contexts).into());
            }
            contexts.current = Some(args.name.clone());
            (format!("context {} is in use", args.name), args.change)
        }
        ContextCommand::Rm(args) => {
            if contexts.servers.remove(&args.name).is_none() {
                return Err(unknown(&args.name, &contexts).into());
            }
            contexts.current = contexts.current.filter(|name| *name != args.name);
            (format!("context {} is removed", args.name), args.change)
        }
    };
    if change.dry_run {
        output::print(format!("then {done}\n"))?;
    } else {
        contexts.save()?;
        output::print(format!("{done}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(format: Format, contexts: &Contexts) -> io::Result<()> {
    let current = |name: &str| contexts.current() == Some(name);
    if format != Format::Table {
        let each = contexts.servers.iter();
        let list = each.map(
            |(name, server)| json!({"name": name, "server": server, "current": current(name)}),
        );
        return output::print_list(format, list.collect());
    }
    let mut table = output::table(&["NAME", "SERVER", "IN USE"]);
    for (name, server) in &contexts.servers {
        let mark = if current(name) { "*" } else { "" };
        table.add_row([name.as_str(), server, mark]);
    }
    output::print_table(&table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_file_comes_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/contexts.toml");
        let mut contexts = Contexts::default();
        contexts.servers.insert("a.b".into(), "h\"ost:1".into());
        contexts.servers.insert("c".into(), "[::1]:2".into());
        contexts.current = Some("c".into());
        contexts.write(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back = Contexts::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(back.servers, contexts.servers);
        assert_eq!(back.current(), Some("c"));
    }

    #[test]
    fn a_context_without_a_server_is_an_error() {
        assert!(Contexts::parse("[contexts.a]\n").is_err());
        assert!(Contexts::parse("contexts = 1\n[").is_err());
        assert!(Contexts::parse("").unwrap().servers.is_empty());
    }
}
