//! `aqueduct sub -g GROUP --exec COMMAND`: a worker whose handler is a command.
//!
//! Each job runs `sh -c COMMAND` in a process group of its own, with the message as its standard
//! input and the rest as variables (see [`super::exec_job`]). Its lease is renewed while
//! it runs; if it is lost all the same, the whole process group is killed. SIGTERM and Ctrl-C take
//! no new jobs and wait for those that run; a second one does not wait.

use std::{
    io::Write as _,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aqueduct_client::{Client, Failure, Job, Message, QueueEvent};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    exec_job::{self, LastLine},
    output, values,
};

/// How long standard error is listened to after the command has ended: something that it left
/// behind may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Longest output that becomes a result, bytes: the broker's limit for a step, less its key.
const LONGEST_RESULT: usize = 7 << 20;

/// What only a shell worker takes.
#[derive(Clone, Debug, Args)]
pub(super) struct ExecArgs {
    /// With -g: run this shell command for each message of the queue group (created if it is not
    /// there), with the message as its input. Exit code 0: done, 65: dead letter, else: again
    #[arg(long, value_name = "COMMAND", requires = "group",
          conflicts_with_all = ["member", "instance", "start", "no_commit", "commit_interval", "count"])]
    exec: Option<String>,
    /// With --exec: commands at a time
    #[arg(short, long, value_name = "COUNT", default_value_t = 1, requires = "exec",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// With --exec: what a command with exit code 0 writes to its standard output is published to
    /// this topic, in one step with its message being done; nothing if it writes nothing
    #[arg(long, value_name = "TOPIC", requires = "exec")]
    results: Option<String>,
    /// With --exec: a command that takes longer is killed, and the attempt failed
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "exec")]
    job_timeout: Option<Duration>,
    /// With --exec: how long running commands may go on after SIGTERM. Default: 30s
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "exec")]
    grace: Option<Duration>,
}

impl ExecArgs {
    /// The command, if one was given.
    pub(super) fn command(&self) -> Option<&str> {
        self.exec.as_deref()
    }
}

/// How many commands run, and since when it is so.
#[derive(Clone)]
struct Busy(Arc<Mutex<(u64, Instant)>>);

/// A command runs.
struct Running(Busy);

impl Busy {
    fn count(&self, change: impl FnOnce(u64) -> u64) {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *busy = (change(busy.0), Instant::now());
    }

    fn begin(&self) -> Running {
        self.count(|running| running + 1);
        Running(self.clone())
    }

    /// Waits until nothing has run for so long.
    async fn idled(&self, idle: Option<Duration>) {
        let Some(idle) = idle else {
            return std::future::pending().await;
        };
        loop {
            let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = idle.saturating_sub(since.elapsed());
            if running == 0 && left.is_zero() {
                return;
            }
            tokio::time::sleep(left.max(Duration::from_millis(20))).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.count(|running| running.saturating_sub(1));
    }
}

/// Works until a signal, an error, or nothing has come for `idle`.
pub(super) async fn run(
    client: &Client,
    args: &ExecArgs,
    (topic, group): (&str, &str),
    server: &str,
    idle: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let command: Arc<str> = args.command().unwrap_or_default().into();
    let names = Arc::new((topic.to_owned(), group.to_owned(), server.to_owned()));
    let results: Option<Arc<str>> = args.results.as_deref().map(Arc::from);
    let busy = Busy(Arc::new(Mutex::new((0, Instant::now()))));
    let touched = busy.clone();
    let mut worker = client
        .worker(topic, group)
        .client_id("aqueduct sub --exec")
        .concurrency(usize::from(args.jobs))
        .on_event(tell);
    if let Some(limit) = args.job_timeout {
        worker = worker.timeout(limit);
    }
    let worker = worker.handler(move |job| {
        let (command, names, busy) = (command.clone(), names.clone(), touched.clone());
        let results = results.clone();
        async move {
            let _running = busy.begin();
            run_job(&command, &names, job, results.as_deref()).await
        }
    });
    let mut worker = worker.start().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = worker.ended() => return ended.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = busy.idled(idle) => {}
    }
    let grace = args.grace.unwrap_or(Duration::from_secs(30));
    tokio::select! {
        ended = worker.shutdown(grace) => ended?,
        // Dropped, the worker kills what runs; the broker notices that it is gone.
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(event: &QueueEvent) {
    let text = match event {
        QueueEvent::Disconnected { error } => format!("disconnected: {error}; trying again"),
        QueueEvent::LeaseLost {
            partition, offset, ..
        } => format!("lease of {partition}:{offset} lost"),
        _ => return,
    };
    output::note(&text);
}

/// Kills what still runs when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error means that nothing is left of it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the command for one job. Dropped, it kills it.
async fn run_job(
    command: &str,
    names: &(String, String, String),
    job: Job,
    results: Option<&str>,
) -> Result<(), Failure> {
    let (topic, group, server) = names;
    let stdout = match results {
        Some(_) => Stdio::piped(),
        None => Stdio::inherit(),
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("AQUEDUCT_SERVER", server)
        .envs(exec_job::variables((topic, group), &job))
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut running = Group(id.and_then(Pid::from_raw));
    let Ended {
        status,
        last_line,
        output,
    } = attend(&mut child, &job).await?;
    running.0 = None;
    exec_job::outcome(status, &last_line)?;
    let output = output.map_err(Failure::retry)?;
    if let Some(topic) = results.filter(|_| !output.is_empty()) {
        if output.len() > LONGEST_RESULT {
            let why = format!("its output is longer than {LONGEST_RESULT} bytes");
            return Err(Failure::retry(why));
        }
        let result = Message::new(output);
        job.publish(
            topic,
            match &job.key {
                Some(key) => result.key(key.clone()),
                None => result,
            },
        );
    }
    Ok(())
}

/// How a command ended.
struct Ended {
    status: std::process::ExitStatus,
    last_line: String,
    /// What it wrote for the topic of results, up to a byte more than may be; or why that is not
    /// all of it.
    output: Result<Vec<u8>, String>,
}

/// Gives the message in, passes standard error on, and waits for the end.
async fn attend(child: &mut Child, job: &Job) -> std::io::Result<Ended> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let stdout = child.stdout.take();
    let mut line = LastLine::default();
    let mut output = Err("its output was not at its end when it had ended".to_owned());
    let gather = async {
        let mut bytes = Vec::new();
        let read = match stdout {
            Some(stdout) => {
                let mut bounded = stdout.take(LONGEST_RESULT as u64 + 1);
                bounded.read_to_end(&mut bytes).await
            }
            None => Ok(0),
        };
        output = match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("its output cannot be read: {error}")),
        };
    };
    let feed = async {
        if let (Some(mut stdin), Some(value)) = (stdin, &job.value) {
            // A command need not read its input.
            let _ = stdin.write_all(value).await;
        }
    };
    let listen = async {
        if let Some(stderr) = stderr {
            pass_on(stderr, &mut line).await;
        }
    };
    let status = {
        let all = async { tokio::join!(feed, listen, gather) };
        tokio::pin!(all);
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                let _ = timeout(LAST_WORDS, &mut all).await;
                status
            }
            _ = &mut all => child.wait().await?,
        }
    };
    Ok(Ended {
        status,
        last_line: line.text(),
        output,
    })
}

async fn pass_on(mut from: impl AsyncRead + Unpin, line: &mut LastLine) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        line.add(bytes);
        // Where nobody reads it, the last line still goes to the broker.
        let _ = std::io::stderr().write_all(bytes);
    }
}
