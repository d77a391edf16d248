//! The example of the orders: real worker programs and a broker, killed at random; at the end
//! each order is in the ledger exactly once or a dead letter with the right count.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use aqueduct_tests::{
    cli::finish,
    input::access_lines,
    process::{PATIENCE, example},
    seed::Seed,
};
use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::Fixture;

/// Lines of the log that are used.
const ORDERS: usize = 600;
const KILLS: u32 = 12;

struct Shop {
    broker: Fixture,
    log: PathBuf,
    ledger: PathBuf,
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("aqueduct-client", "orders"))
}

impl Shop {
    fn new(orders: usize) -> Shop {
        let broker = Fixture::new();
        let log = broker.directory.path().join("access.log");
        let lines: Vec<String> = access_lines().into_iter().cycle().take(orders).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let ledger = broker.directory.path().join("ledger");
        Shop {
            broker,
            log,
            ledger,
        }
    }

    fn command(&self, arguments: &[&Path]) -> Command {
        let mut command = Command::new(program());
        let server = self.broker.process.address().to_string();
        command.args(arguments).env("AQUEDUCT_SERVER", server);
        command
    }

    fn sell(&self) {
        finish(&mut self.command(&["sell".as_ref(), &self.log])).ok();
    }

    fn worker(&self) -> Worker {
        let mut command = self.command(&["work".as_ref(), &self.ledger]);
        Worker(command.stdout(Stdio::null()).spawn().unwrap())
    }

    /// Orders in the ledger.
    fn done(&self) -> usize {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("done")).count()
    }

    /// What `check` says: orders, done, dead letters.
    fn check(&self) -> Vec<usize> {
        let mut command = self.command(&["check".as_ref(), &self.log, &self.ledger]);
        let finished = finish(&mut command).ok();
        let last = finished.stdout.lines().last().unwrap_or_default();
        let words = last.split(' ').filter_map(|word| word.parse().ok());
        words.collect()
    }
}

/// A worker program. Dropped, it is killed.
struct Worker(Child);

impl Worker {
    fn terminate(mut self) {
        let id = i32::try_from(self.0.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_order_is_done_once_or_dead_while_workers_and_broker_are_killed() {
    let mut shop = Shop::new(ORDERS);
    let mut random = Seed::from_env().rng();
    shop.sell();
    let mut workers = vec![shop.worker(), shop.worker()];
    let mut kills = 0;
    let start = std::time::Instant::now();
    while kills < KILLS {
        std::thread::sleep(Duration::from_millis(random.random_range(50..400)));
        assert!(start.elapsed() < PATIENCE, "{} are done", shop.done());
        // Killed before they have done anything they would only wear out attempts.
        if shop.done() < (kills as usize + 1) * ORDERS / 20 {
            continue;
        }
        match random.random_range(0..3) {
            0 => shop.broker.process.restart(),
            one => workers[one - 1] = shop.worker(),
        }
        kills += 1;
    }
    let counts = shop.check();
    let [orders, done, dead, wrong] = counts[..] else {
        panic!("{counts:?}");
    };
    assert_eq!((orders, wrong), (ORDERS, 0));
    assert!(
        done + dead >= orders && dead >= ORDERS * 3 / 100,
        "{counts:?}"
    );
    // Selling the same log again changes nothing.
    shop.sell();
    assert_eq!(shop.check(), counts);
    workers.into_iter().for_each(Worker::terminate);
}
