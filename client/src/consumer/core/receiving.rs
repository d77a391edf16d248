//! What the broker says, and what it means: pure.

use super::*;

impl Core {
    /// Takes a response. An error ends the connection.
    pub(in crate::consumer) fn receive(&mut self, kind: Kind, now: Duration) -> Result<(), Error> {
        match kind {
            Kind::Opened(_) => {}
            Kind::Assigned(assigned) => {
                for assignment in assigned.assignments {
                    self.assigned(&assignment);
                }
            }
            Kind::Revoking(revoking) => self.revoking(revoking, now),
            Kind::Lost(lost) => self.lost(lost),
            Kind::Batches(batches) => self.batches(batches),
            Kind::CaughtUp(caught_up) => self.event(GroupEvent::CaughtUp {
                partition: caught_up.partition,
                next_offset: caught_up.next_offset,
            }),
            Kind::CommitResults(results) => return self.results(results, now),
            Kind::Records(_) => {
                return Err(Error::internal("records came where batches were asked for"));
            }
        }
        Ok(())
    }

    fn assigned(&mut self, assignment: &v1::Assignment) {
        let v1::Assignment {
            partition,
            epoch,
            position,
            ..
        } = *assignment;
        self.drop_slot(partition);
        let slot = Slot {
            epoch,
            next: position,
            received: position,
            progress: Progress::new(position),
            release_by: None,
            refused: false,
        };
        self.slots.insert(partition, slot);
        let skipped = assignment.skipped.as_ref();
        self.event(GroupEvent::Assigned {
            partition,
            position,
            skipped: skipped.map(|range| range.from..range.to),
        });
    }

    fn revoking(&mut self, revoking: v1::Revoking, now: Duration) {
        let deadline = revoking
            .deadline
            .map_or(Duration::ZERO, crate::times::duration_from_proto);
        // A tenth is left for the last commit.
        let release_by = now + deadline.mul_f64(0.9);
        for partition in &revoking.partitions {
            self.drop_buffered(*partition);
            if let Some(slot) = self.slots.get_mut(partition) {
                slot.release_by = Some(release_by);
            }
        }
        self.event(GroupEvent::Revoking {
            partitions: revoking.partitions,
            deadline,
        });
    }

    fn lost(&mut self, lost: v1::Lost) {
        for partition in &lost.partitions {
            self.drop_slot(*partition);
        }
        let v1::Lost { partitions, reason } = lost;
        if reason == "OVERRUN" {
            self.errors.push_back(Error::overrun(&partitions));
        }
        self.event(GroupEvent::Lost { partitions, reason });
    }

    fn batches(&mut self, arrived: v1::Batches) {
        let v1::Batches {
            partition, batches, ..
        } = arrived;
        let bytes = batches.iter().map(|batch| batch.len() as u64).sum();
        let mut nowhere = 0;
        let slot = self.slots.get_mut(&partition);
        let (epoch, received) = match slot {
            Some(slot) if slot.release_by.is_none() && !self.closing => {
                (Some(slot.epoch), &mut slot.received)
            }
            _ => (None, &mut nowhere),
        };
        let messages = batches::count(&batches, received);
        let amount = Amount { messages, bytes };
        let Some(epoch) = epoch else {
            return self.flow.taken(amount);
        };
        self.buffer.push_back(Buffered {
            partition,
            epoch,
            batches,
            next: 0,
            amount,
        });
    }

    fn results(&mut self, results: v1::CommitResults, now: Duration) -> Result<(), Error> {
        let asked = mem::take(&mut self.in_flight);
        if asked.len() != results.results.len() {
            let (got, wanted) = (results.results.len(), asked.len());
            return Err(Error::internal(format!(
                "{got} results for {wanted} commits"
            )));
        }
        for (asked, result) in asked.into_iter().zip(results.results) {
            match result.error {
                None => self.confirmed(&asked, result.position),
                Some(error) => self.refused(&asked, Error::from_rpc(error), now),
            }
        }
        Ok(())
    }

    fn confirmed(&mut self, asked: &Asked, position: u64) {
        let Asked {
            partition, epoch, ..
        } = *asked;
        let slot = self.slots.get_mut(&partition);
        if let Some(slot) = slot.filter(|slot| slot.epoch == epoch) {
            slot.progress.confirm(position);
            slot.refused = false;
        }
        let covered = |ticket: &Ticket| ticket.offset <= position;
        self.answer(partition, epoch, covered, || Ok(position));
    }

    fn refused(&mut self, asked: &Asked, error: Error, now: Duration) {
        let Asked {
            partition,
            epoch,
            offset,
        } = *asked;
        self.hold_until = now + AFTER_REFUSAL;
        self.refused = self.closing;
        let slot = self.slots.get_mut(&partition);
        if let Some(slot) = slot.filter(|slot| slot.epoch == epoch) {
            slot.progress.ask_again();
            slot.refused = true;
        }
        let covered = |ticket: &Ticket| ticket.offset <= offset;
        self.answer(partition, epoch, covered, || Err(error.clone()));
        self.event(GroupEvent::CommitFailed {
            partition,
            offset,
            error,
        });
    }

    fn answer(
        &mut self,
        partition: u32,
        epoch: u64,
        covered: impl Fn(&Ticket) -> bool,
        answer: impl Fn() -> Result<u64, Error>,
    ) {
        let answers = &mut self.output.answers;
        self.tickets.retain(|number, ticket| {
            let same = ticket.partition == partition && ticket.epoch == epoch;
            let answered = same && covered(ticket);
            if answered {
                answers.push((*number, answer()));
            }
            !answered
        });
    }

    fn drop_buffered(&mut self, partition: u32) {
        let flow = &mut self.flow;
        self.buffer.retain(|it| {
            let stays = it.partition != partition;
            if !stays {
                flow.taken(it.amount);
            }
            stays
        });
    }

    /// Forgets an assignment; whoever waits for a commit of it is told.
    pub(super) fn drop_slot(&mut self, partition: u32) {
        self.drop_buffered(partition);
        if let Some(slot) = self.slots.remove(&partition) {
            let fenced = || Err(Error::commit_fenced(partition));
            self.answer(partition, slot.epoch, |_| true, fenced);
        }
    }

    /// The connection broke: whatever was assigned must be assigned again, from what the broker
    /// has as position.
    pub(in crate::consumer) fn disconnected(&mut self, error: &Error) {
        self.in_flight.clear();
        self.in_hand = None;
        self.buffer.clear();
        self.flow.restart();
        let unknown = format!("no answer to the commit: {}", error.message());
        let numbers = mem::take(&mut self.tickets).into_keys();
        let answers = numbers.map(|number| (number, Err(Error::unknown(unknown.clone()))));
        self.output.answers.extend(answers);
        let partitions: Vec<u32> = mem::take(&mut self.slots).into_keys().collect();
        let error = error.clone();
        self.event(GroupEvent::Disconnected { error });
        if !partitions.is_empty() {
            let reason = "DISCONNECTED".to_owned();
            self.event(GroupEvent::Lost { partitions, reason });
        }
    }
}
