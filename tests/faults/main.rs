//! Faults: the real binary killed, paused and given damaged files.
//!
//! One module per kind of fault. After every fault: nothing acknowledged is missing,
//! doubled or out of order; what cannot be served is refused in words; and once the fault
//! is over, everything works again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod clock;
mod damage;
mod dead_letters;
mod groups;
mod kill_nine;
mod members;
mod pause;
mod queues;
mod steps;
mod stopped_worker;
mod writers;
