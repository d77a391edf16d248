//! `aqueduct topic`: create, look at, change, trim and delete topics.
//!
//! Everything that changes something takes `--dry-run`; what destroys something asks first.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{Error, NewTopic, Retain, TimestampKind, Topic, TopicUpdate, Trim};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    ClientArgs, OutputArgs,
    output::{self, Failure, Format},
    topic_output as show, values,
};

/// Arguments of `aqueduct topic`.
#[derive(Debug, Args)]
pub(super) struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// List topics
    Ls(ListArgs),
    /// Create a topic
    Create(CreateArgs),
    /// Show a topic and its partitions
    Describe(DescribeArgs),
    /// Change a topic
    Alter(AlterArgs),
    /// Let go of old messages
    Trim(TrimArgs),
    /// Delete a topic with all its messages
    Rm(RemoveArgs),
}

/// What every topic command takes.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only names that begin with this
    prefix: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Settings of a topic; what is not given stays at its default or as it is.
#[derive(Debug, Args)]
struct Settings {
    /// Number of partitions; can only grow
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// How long messages are kept, such as 7d, or forever
    #[arg(long, value_name = "TIME", value_parser = values::retention)]
    retention: Option<Duration>,
    /// About how many bytes each partition keeps, such as 10GiB; 0 is unlimited
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    retention_bytes: Option<u64>,
    /// Largest message: key, value and headers
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    max_message: Option<u64>,
    /// Whose clock stamps messages
    #[arg(long, value_name = "CLOCK", value_enum)]
    timestamp: Option<Clock>,
    /// How long dedup ids are remembered; 0 is off
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    dedup_window: Option<Duration>,
    /// What makes messages go
    #[arg(long, value_name = "RULE", value_enum)]
    retain: Option<Rule>,
    /// A label; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    label: Vec<(String, String)>,
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Clock {
    /// The publisher's
    Create,
    /// The broker's, on arrival
    Append,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rule {
    /// Their age, and the size of the log
    Time,
    /// Every group is done with them; age and size are not regarded
    UntilDone,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Succeed if the topic exists, and leave it as it is
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct DescribeArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct AlterArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Remove all labels; --label then sets new ones
    #[arg(long)]
    clear_labels: bool,
    /// Change only if the topic still has this etag
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct TrimArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    name: String,
    /// Let go of messages below PARTITION:OFFSET
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = values::place, group = "what")]
    before_offset: Option<(u32, u64)>,
    /// Let go of messages older than a time, such as @7d
    #[arg(long, value_name = "@TIME", value_parser = values::time_ms, group = "what")]
    before: Option<i64>,
    /// Let go of every message there is
    #[arg(long, group = "what")]
    all: bool,
    /// Only this partition
    #[arg(short, long, conflicts_with = "before_offset")]
    partition: Option<u32>,
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    name: String,
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// Puts the settings that were given into a request; both kinds have the same setters.
macro_rules! apply {
    ($settings:expr, $request:ident) => {
        if let Some(partitions) = $settings.partitions {
            $request = $request.partitions(partitions);
        }
        if let Some(retention) = $settings.retention {
            $request = $request.retention(retention);
        }
        if let Some(bytes) = $settings.retention_bytes {
            $request = $request.retention_bytes(bytes);
        }
        if let Some(bytes) = $settings.max_message {
            $request = $request.max_message_bytes(bytes);
        }
        if let Some(clock) = $settings.timestamp {
            $request = $request.timestamp_kind(clock.into());
        }
        if let Some(window) = $settings.dedup_window {
            $request = $request.dedup_window(window);
        }
        if let Some(rule) = $settings.retain {
            $request = $request.retain(rule.into());
        }
    };
}

pub(super) async fn run(args: TopicArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        TopicCommand::Ls(args) => list(args).await?,
        TopicCommand::Create(args) => create(args).await?,
        TopicCommand::Describe(args) => describe(args).await?,
        TopicCommand::Alter(args) => alter(args).await?,
        TopicCommand::Trim(args) => trim(args).await?,
        TopicCommand::Rm(args) => remove(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.common.client.connect().await?;
    let topics = client.list_topics(args.prefix.as_deref()).await?;
    Ok(show::topics(args.common.output.output, &topics)?)
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let client = args.common.client.connect().await?;
    let settings = &args.settings;
    let mut new = NewTopic::new(&args.name).dry_run(settings.dry_run);
    apply!(settings, new);
    for (name, value) in &settings.label {
        new = new.label(name, value);
    }
    let (topic, done) = match client.create_topic(new).await {
        Ok(topic) => (
            topic,
            if settings.dry_run {
                "would create"
            } else {
                "created"
            },
        ),
        Err(Error::AlreadyExists(_)) if args.if_not_exists => {
            (client.get_topic(&args.name).await?, "exists already:")
        }
        Err(error) => return Err(error.into()),
    };
    report(args.common.output.output, done, &topic)
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let client = args.common.client.connect().await?;
    let topic = client.get_topic(&args.name).await?;
    let partitions = client.list_partitions(&args.name).await?;
    Ok(show::description(
        args.common.output.output,
        &topic,
        &partitions,
    )?)
}

async fn alter(args: AlterArgs) -> anyhow::Result<()> {
    let settings = &args.settings;
    let mut update = TopicUpdate::new(&args.name).dry_run(settings.dry_run);
    apply!(settings, update);
    if let Some(etag) = &args.etag {
        update = update.etag(etag);
    }
    let client = args.common.client.connect().await?;
    if args.clear_labels {
        update = update.clear_labels();
    } else if !settings.label.is_empty() {
        // An update replaces all labels; those that were not named stay.
        for (name, value) in client.get_topic(&args.name).await?.labels {
            update = update.label(name, value);
        }
    }
    for (name, value) in &settings.label {
        update = update.label(name, value);
    }
    let topic = client.update_topic(update).await?;
    let done = if settings.dry_run {
        "would change"
    } else {
        "changed"
    };
    report(args.common.output.output, done, &topic)
}

async fn trim(args: TrimArgs) -> anyhow::Result<()> {
    let trim = match (args.before_offset, args.before, args.all) {
        (Some((partition, offset)), _, _) => Trim::Offset { partition, offset },
        (_, Some(time_ms), _) => Trim::Time(time_ms),
        (_, _, true) => Trim::All,
        _ => {
            return Err(Failure::usage("nothing says which messages to let go of")
                .hint("give --before-offset PARTITION:OFFSET, --before @TIME or --all")
                .into());
        }
    };
    if !args.dry_run {
        let doing = format!("trimming topic {}", args.name);
        args.common.client.confirm(&doing, args.yes)?;
    }
    let client = args.common.client.connect().await?;
    let trimmed = client
        .trim_topic_if(&args.name, trim, args.partition, args.dry_run)
        .await?;
    Ok(show::trimmed(
        args.common.output.output,
        &args.name,
        &trimmed,
        args.dry_run,
    )?)
}

async fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    if !args.dry_run {
        let doing = format!("deleting topic {} with all its messages", args.name);
        args.common.client.confirm(&doing, args.yes)?;
    }
    let client = args.common.client.connect().await?;
    // What is about to go, so that the output can say so.
    let topic = client.get_topic(&args.name).await?;
    client.delete_topic_if(&args.name, args.dry_run).await?;
    let done = if args.dry_run {
        "would delete"
    } else {
        "deleted"
    };
    report(args.common.output.output, done, &topic)
}

/// Says what was done in a line, or prints the topic as JSON.
fn report(format: Format, done: &str, topic: &Topic) -> anyhow::Result<()> {
    if format == Format::Table {
        let partitions = topic.partitions;
        let plural = if partitions == 1 { "" } else { "s" };
        output::print(format!(
            "{done} {} ({partitions} partition{plural})\n",
            topic.name
        ))?;
    } else {
        output::print_json(&show::topic_json(topic))?;
    }
    Ok(())
}

impl From<Rule> for Retain {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Time => Self::Time,
            Rule::UntilDone => Self::UntilDone,
        }
    }
}

impl From<Clock> for TimestampKind {
    fn from(clock: Clock) -> Self {
        match clock {
            Clock::Create => Self::Create,
            Clock::Append => Self::Append,
        }
    }
}
