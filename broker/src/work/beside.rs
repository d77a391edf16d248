//! What a round of a queue group starts and does not wait for: the group's task goes on leasing
//! and settling, and takes in what came of it between two rounds.
//!
//! Nothing in here touches the group's entries. A task beside the rounds owns what it needs, and
//! what it brings home goes into the next entry. It ends with the group's task.

use tokio::task::JoinSet;

use super::{deaths::Carried, driver::Driver, results::Delivered};

/// Partitions of a group whose dead letters are copied at the same time: each has a batch in
/// memory.
const COPYING: usize = 8;

/// What came of something.
pub(super) enum Done {
    /// Of copies of dead letters, by the lane's place.
    Copied(usize, Carried),
    /// Of results of steps.
    Results(Delivered),
}

/// What is on its way.
#[derive(Default)]
pub(super) struct Beside(JoinSet<Done>);

impl Beside {
    pub(super) fn start(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.0.spawn(work);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What came of one that has ended.
    pub(super) fn try_next(&mut self) -> Option<Done> {
        self.0.try_join_next().and_then(home)
    }

    /// Waits for the end of one; `None` if there is none.
    pub(super) async fn next(&mut self) -> Option<Done> {
        self.0.join_next().await.and_then(home)
    }
}

/// None of them is ever aborted but by the end of the node, so only a panic has no outcome.
fn home(joined: Result<Done, tokio::task::JoinError>) -> Option<Done> {
    let error = match joined {
        Ok(done) => return Some(done),
        Err(error) => error,
    };
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
    None
}

impl Driver {
    /// Takes in what came of something that was started.
    pub(super) fn came_of(&mut self, done: Done) {
        match done {
            Done::Copied(index, carried) => {
                let Some(lane) = self.lanes.get_mut(index) else {
                    return;
                };
                if let Err(refusal) = lane.copies.conclude(carried) {
                    tracing::warn!(group = self.group.name, partition = lane.number, %refusal,
                        "dead letters wait for their copies");
                }
            }
            Done::Results(delivered) => self.results_came(delivered),
        }
    }

    /// Starts copies of dead letters that wait.
    pub(super) fn copy_dead(&mut self) {
        let (now, lanes) = (self.now(), self.lanes.len());
        let copying = self
            .lanes
            .iter()
            .filter(|lane| lane.copies.are_on_their_way());
        let mut room = COPYING.saturating_sub(copying.count());
        for turn in 0..lanes {
            if room == 0 {
                return;
            }
            // Not always from the same one on: a busy lane must not hide the others.
            let index = (turn + self.turn) % lanes;
            let lane = &mut self.lanes[index];
            if let Some(carrying) = lane.copy_dead(&self.services, &self.group, &self.policy, now) {
                let carrying = async move { Done::Copied(index, carrying.await) };
                self.beside.start(carrying);
                room -= 1;
            }
        }
    }
}
