//! `aqueduct group`: create, look at, change, move, pause and delete consumer groups.
//!
//! A group is named `TOPIC/GROUP`. Everything that changes something takes `--dry-run`; what moves
//! or forgets positions asks first.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{Error, From, Group, GroupUpdate, NewGroup, Seek, StartPolicy};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    ClientArgs, OutputArgs, group_output as show,
    group_queue::QueueFlags,
    output::Failure,
    queue_output,
    values::{self, GroupName, Start},
};

/// Messages in flight that a description shows.
const IN_FLIGHT_SHOWN: usize = 20;

/// Arguments of `aqueduct group`.
#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups of a topic, or of all
    Ls(ListArgs),
    /// Create a group; consuming creates it, too
    Create(CreateArgs),
    /// Show a group, its members, and where it is in each partition
    Describe(DescribeArgs),
    /// Change a group: what is not named stays
    #[command(visible_alias = "update")]
    Alter(AlterArgs),
    /// Move positions, also while members consume
    Seek(SeekArgs),
    /// Deliver nothing until the group resumes; members stay
    Pause(PauseArgs),
    /// Deliver again
    Resume(ResumeArgs),
    /// List the messages of a queue group that somebody holds
    Inflight(InflightArgs),
    /// Hand out messages of parked keys again
    Unpark(UnparkArgs),
    /// Delete a group with its positions; refused while it has members
    Rm(RemoveArgs),
}

/// What every group command takes.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What every change of a group takes.
#[derive(Debug, Args)]
struct Change {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only groups of this topic
    #[arg(value_parser = values::topic)]
    topic: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Where a group begins, or goes on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Policy {
    /// The first message that is kept
    Earliest,
    /// The end
    Latest,
    /// Stop and say so, until a seek decides
    Error,
}

/// Settings of a group; what is not given stays at its default or as it is.
#[derive(Debug, Args)]
struct Settings {
    /// Where to go on if retention has overtaken the position. Default: earliest
    #[arg(long, value_name = "POLICY", value_enum)]
    overrun: Option<Policy>,
    /// A member that was not heard of for so long loses its partitions. Default: 15s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    session_timeout: Option<Duration>,
    /// A label; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Where a new group begins: earliest, latest, error (nowhere until a seek), @2h (ago),
    /// @2026-11-01T10:00Z, OFFSET (of a topic with one partition), -N (before the end).
    /// Default: earliest
    #[arg(long, value_name = "POSITION", value_parser = values::start, allow_hyphen_values = true)]
    start: Option<Start>,
    #[command(flatten)]
    settings: Settings,
    /// Succeed if the group exists, and leave it as it is
    #[arg(long)]
    if_not_exists: bool,
    /// A queue group: messages are leased one by one, and retried until they are done
    #[arg(long)]
    queue: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    policy: QueueFlags,
}

#[derive(Debug, Args)]
struct DescribeArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct AlterArgs {
    #[command(flatten)]
    settings: Settings,
    /// Remove all labels; --label then sets new ones
    #[arg(long)]
    clear_labels: bool,
    /// Change only if the group still has this etag
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    policy: QueueFlags,
}

#[derive(Debug, Args)]
struct SeekArgs {
    /// Where to: start, end, OFFSET (with one --partition), -N (before the end), @2h (ago),
    /// @2026-11-01T10:00Z
    #[arg(long, value_name = "POSITION", value_parser = values::from, allow_hyphen_values = true, group = "target")]
    to: Option<From>,
    /// So many messages forward, or back if negative; stops at both ends
    #[arg(
        long,
        value_name = "MESSAGES",
        allow_hyphen_values = true,
        group = "target"
    )]
    shift: Option<i64>,
    /// To the positions of another group of the topic
    #[arg(long, value_name = "GROUP", value_parser = values::topic, group = "target")]
    from_group: Option<String>,
    /// Only this partition; may be given several times
    #[arg(short, long, value_name = "PARTITION")]
    partition: Vec<u32>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct PauseArgs {
    /// Resume by itself after this
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct ResumeArgs {
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct InflightArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct UnparkArgs {
    /// The key
    #[arg(short, long, required_unless_present = "all")]
    key: Option<String>,
    /// All parked keys
    #[arg(long, conflicts_with = "key")]
    all: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    change: Change,
}

/// Puts the settings that were given into a request; both kinds have the same setters.
macro_rules! apply {
    ($settings:expr, $request:ident) => {
        if let Some(policy) = $settings.overrun {
            $request = $request.overrun(policy.into());
        }
        if let Some(timeout) = $settings.session_timeout {
            $request = $request.session_timeout(timeout);
        }
    };
}

pub(super) async fn run(args: GroupArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        GroupCommand::Ls(args) => list(args).await?,
        GroupCommand::Create(args) => create(args).await?,
        GroupCommand::Describe(args) => describe(args).await?,
        GroupCommand::Alter(args) => alter(args).await?,
        GroupCommand::Seek(args) => seek(args).await?,
        GroupCommand::Pause(args) => pause(args).await?,
        GroupCommand::Resume(args) => resume(&args.change).await?,
        GroupCommand::Inflight(args) => in_flight(args).await?,
        GroupCommand::Unpark(args) => unpark(args).await?,
        GroupCommand::Rm(args) => remove(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.common.client.connect().await?;
    let groups = client.groups().list(args.topic.as_deref()).await?;
    Ok(show::groups(args.common.output.output, &groups)?)
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    let mut new = NewGroup::new(topic, name).dry_run(change.dry_run);
    match args.start {
        Some(Start::By(policy)) => new = new.start(policy),
        Some(Start::At(from)) => new = new.start_at(from),
        None => {}
    }
    apply!(args.settings, new);
    for (name, value) in &args.settings.label {
        new = new.label(name, value);
    }
    let (policy, fields) = args.policy.policy();
    match (args.queue, fields.first()) {
        (true, _) => new = new.queue(policy),
        (false, None) => {}
        (false, Some(field)) => {
            let why = format!("{field} is for queue groups");
            return Err(Failure::usage(why).hint("--queue makes it one").into());
        }
    }
    let groups = change.common.client.connect().await?.groups();
    let (group, done) = match groups.create(new).await {
        Ok(group) => (group, change.done("create", "created")),
        Err(Error::AlreadyExists(_)) if args.if_not_exists => {
            (groups.get(topic, name).await?, "exists already:".to_owned())
        }
        Err(error) => return Err(error.into()),
    };
    change.report(&done, &group)
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let groups = args.common.client.connect().await?.groups();
    let GroupName { topic, name } = &args.group;
    let group = groups.get(topic, name).await?;
    let queue = match group.queue {
        None => None,
        Some(_) => Some((
            groups.describe_queue(topic, name).await?,
            groups.in_flight(topic, name, IN_FLIGHT_SHOWN).await?,
        )),
    };
    let described = show::Described {
        group,
        queue,
        members: groups.members(topic, name).await?,
        lag: groups.lag(topic, name).await?,
    };
    Ok(show::description(args.common.output.output, &described)?)
}

async fn alter(args: AlterArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    let groups = change.common.client.connect().await?.groups();
    let mut update = GroupUpdate::new(topic, name).dry_run(change.dry_run);
    apply!(args.settings, update);
    if let Some(etag) = &args.etag {
        update = update.etag(etag);
    }
    if args.clear_labels {
        update = update.clear_labels();
    } else if !args.settings.label.is_empty() {
        // An update replaces all labels; those that were not named stay.
        for (label, value) in groups.get(topic, name).await?.labels {
            update = update.label(label, value);
        }
    }
    for (label, value) in &args.settings.label {
        update = update.label(label, value);
    }
    let (policy, fields) = args.policy.policy();
    if !fields.is_empty() {
        update = update.queue_fields(policy, fields);
    }
    let group = groups.update(update).await?;
    change.report(&change.done("change", "changed"), &group)
}

async fn seek(args: SeekArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    let target = match (args.to, args.shift, &args.from_group) {
        (Some(From::Offset(_)), ..) if args.partition.len() != 1 => {
            return Err(Failure::usage("an offset is one partition's place")
                .hint("--partition N says which")
                .into());
        }
        (Some(place), ..) => Seek::to(place),
        (_, Some(messages), _) => Seek::shift(messages),
        (_, _, Some(group)) => Seek::from_group(group),
        _ => {
            return Err(Failure::usage("nothing says where to move the positions")
                .hint("give --to POSITION, --shift MESSAGES or --from-group GROUP")
                .into());
        }
    };
    if !change.dry_run {
        let doing = format!("moving group {topic}/{name}");
        change.common.client.confirm(&doing, args.yes)?;
    }
    let seek = target.partitions(args.partition).dry_run(change.dry_run);
    let groups = change.common.client.connect().await?.groups();
    let sought = groups.seek(topic, name, seek).await?;
    let format = change.common.output.output;
    Ok(show::sought(
        format,
        &change.group,
        &sought,
        change.dry_run,
    )?)
}

async fn pause(args: PauseArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    let groups = change.common.client.connect().await?.groups();
    let paused = groups.pause_if(topic, name, args.duration, change.dry_run);
    let group = paused.await?;
    change.report(&change.done("pause", "paused"), &group)
}

async fn resume(change: &Change) -> anyhow::Result<()> {
    let GroupName { topic, name } = &change.group;
    let groups = change.common.client.connect().await?.groups();
    let group = groups.resume_if(topic, name, change.dry_run).await?;
    change.report(&change.done("resume", "resumed"), &group)
}

async fn in_flight(args: InflightArgs) -> anyhow::Result<()> {
    let groups = args.common.client.connect().await?.groups();
    let GroupName { topic, name } = &args.group;
    let held = groups.in_flight(topic, name, args.limit).await?;
    Ok(queue_output::in_flight(args.common.output.output, &held)?)
}

async fn unpark(args: UnparkArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    let groups = change.common.client.connect().await?.groups();
    let key = args.key.map(Into::into);
    let unparked = groups.unpark(topic, name, key, change.dry_run).await?;
    let format = change.common.output.output;
    let done = change.done("unpark", "unparked");
    Ok(show::unparked(format, &done, unparked)?)
}

async fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let change = &args.change;
    let GroupName { topic, name } = &change.group;
    if !change.dry_run {
        let doing = format!("deleting group {topic}/{name} with its positions");
        change.common.client.confirm(&doing, args.yes)?;
    }
    let groups = change.common.client.connect().await?.groups();
    // What is about to go, so that the output can say so.
    let group = groups.get(topic, name).await?;
    groups.delete_if(topic, name, change.dry_run).await?;
    change.report(&change.done("delete", "deleted"), &group)
}

impl Change {
    /// What was done, or would have been.
    fn done(&self, verb: &str, past: &str) -> String {
        if self.dry_run {
            format!("would {verb}")
        } else {
            past.to_owned()
        }
    }

    fn report(&self, done: &str, group: &Group) -> anyhow::Result<()> {
        Ok(show::report(self.common.output.output, done, group)?)
    }
}

impl std::convert::From<Policy> for StartPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Earliest => Self::Earliest,
            Policy::Latest => Self::Latest,
            Policy::Error => Self::Error,
        }
    }
}
