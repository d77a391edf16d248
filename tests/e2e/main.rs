//! End to end: the real binary, each feature once, as a user meets it.
//!
//! One module per feature. Every test has its own broker on its own directory and a free
//! loopback port. Bad input has a module of its own (`refusals`): nothing a client sends
//! may end the process, and every refusal is a clear error.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access_log;
mod attempts;
mod cli;
mod cli_groups;
mod cli_queues;
mod cli_times;
mod cli_tools;
mod client;
mod config;
mod connections;
mod contract;
mod dead_letters;
mod dead_letters_kill;
mod disk_limit;
mod fixture;
mod gathering;
mod group_client;
mod group_life;
mod group_load;
mod group_start;
mod groups;
mod http;
mod http_limits;
mod http_pages;
mod log_tools;
mod main_job_groups;
mod orders;
mod producers;
mod publishing;
mod pulling;
mod python;
mod queue_abuse;
mod queue_api;
mod queue_changes;
mod queue_client;
mod queue_disk;
mod queue_refusals;
mod queue_scene;
mod queue_times;
mod queues;
mod reading;
mod redrive;
mod refusals;
mod schedules;
mod scrape;
mod server;
mod shell_worker;
mod slow_grpc;
mod space;
mod steering;
mod step_client;
mod steps;
mod tools_contract;
mod topics;
mod traces;
mod workers;
