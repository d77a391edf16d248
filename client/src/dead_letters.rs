//! Dead letters: looked at, redriven, discarded.
//!
//! What lives here: the broker's `DeadLetters` service. Promises: looking leases and changes
//! nothing; a redrive or discard can be tried with `dry_run` first, says how far it is, and ends
//! when it is dropped; what it had not moved by then stays.

mod types;

use std::collections::VecDeque;

use aqueduct_proto::v1::{self, dead_letters_client::DeadLettersClient};
use futures::{Stream, stream};

pub use types::{DeadLetter, DeadLetterFilter, DeadLettersProgress, DeadReason, Discard, Redrive};

use crate::{Client, Error, client::MAX_TRANSPORT_MESSAGE, connection::Connection};

/// Dead letters of queue groups; see [`Client::dead_letters`].
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::{DeadLetterFilter, Redrive};
/// use futures::TryStreamExt as _;
/// let dead = client.dead_letters("orders", "billing");
/// let refused = DeadLetterFilter::new().error_contains("connection refused");
/// let mut letters = std::pin::pin!(dead.list(refused.clone()));
/// while let Some(letter) = letters.try_next().await? {
///     println!("{} after {} attempts: {}", letter.number, letter.attempts, letter.error);
/// }
/// let redriven = dead.redrive(Redrive::new().filter(refused)).await?.finish().await?;
/// println!("{} are on their way again", redriven.moved);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeadLetters {
    client: Client,
    topic: String,
    group: String,
}

impl Client {
    /// The dead letters of a queue group. The group need not exist any more.
    #[must_use]
    pub fn dead_letters(&self, topic: &str, group: &str) -> DeadLetters {
        DeadLetters {
            client: self.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
        }
    }
}

impl DeadLetters {
    fn service(&self) -> DeadLettersClient<Connection> {
        let connection = self.client.connection();
        DeadLettersClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    /// Dead letters in order of the partitions and offsets of their copies, a page at a time.
    /// Ends after an error, such as [`Error::NotFound`] for the group.
    pub fn list(
        &self,
        filter: DeadLetterFilter,
    ) -> impl Stream<Item = Result<DeadLetter, Error>> + Send + use<> {
        let state = Listing {
            dead: self.clone(),
            filter,
            page: VecDeque::new(),
            token: Some(String::new()),
        };
        stream::unfold(state, |mut listing| async move {
            let next = listing.next().await?;
            Some((next, listing))
        })
    }

    /// The dead letter whose copy lies there.
    ///
    /// # Errors
    /// [`Error::NotFound`], also if it was redriven or discarded.
    pub async fn get(&self, partition: u32, offset: u64) -> Result<DeadLetter, Error> {
        let request = v1::GetDeadLetterRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            partition,
            offset,
        };
        let mut service = self.service();
        let answer = self.client.call(service.get_dead_letter(request)).await;
        answer.map(DeadLetter::from_proto)
    }

    /// Begins to publish dead letters again, each exactly once: those that are there now.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the group or the target, [`Error::Conflict`] while another
    /// redrive or discard of the group runs, [`Error::Invalid`].
    pub async fn redrive(&self, redrive: Redrive) -> Result<DeadLettersRun, Error> {
        let request = v1::RedriveRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            filter: redrive.filter.to_proto(),
            ..redrive.request
        };
        let mut service = self.service();
        let reports = self.client.call(service.redrive(request)).await?;
        Ok(DeadLettersRun { reports })
    }

    /// Begins to give dead letters up for good: those that are there now.
    ///
    /// # Errors
    /// As [`DeadLetters::redrive`].
    pub async fn discard(&self, discard: Discard) -> Result<DeadLettersRun, Error> {
        let request = v1::DiscardRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            filter: discard.filter.to_proto(),
            ..discard.request
        };
        let mut service = self.service();
        let reports = self.client.call(service.discard(request)).await?;
        Ok(DeadLettersRun { reports })
    }
}

/// A listing on its way.
struct Listing {
    dead: DeadLetters,
    filter: DeadLetterFilter,
    page: VecDeque<v1::DeadLetter>,
    /// Where the next page begins; `None` after the last.
    token: Option<String>,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<DeadLetter, Error>> {
        loop {
            if let Some(letter) = self.page.pop_front() {
                return Some(Ok(DeadLetter::from_proto(letter)));
            }
            let request = v1::ListDeadLettersRequest {
                topic: self.dead.topic.clone(),
                group: self.dead.group.clone(),
                filter: self.filter.to_proto(),
                page_size: 1_000,
                page_token: self.token.take()?,
            };
            let mut service = self.dead.service();
            let page = service.list_dead_letters(request);
            match self.dead.client.call(page).await {
                Ok(page) => {
                    self.page = page.dead_letters.into();
                    let more = !page.next_page_token.is_empty();
                    self.token = more.then_some(page.next_page_token);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A redrive or discard that runs. Dropping it ends it.
#[derive(Debug)]
pub struct DeadLettersRun {
    reports: tonic::Streaming<v1::DeadLettersProgress>,
}

impl DeadLettersRun {
    /// How far it is now; `None` after the last report, which says `done`.
    ///
    /// # Errors
    /// What ended it early.
    pub async fn next(&mut self) -> Result<Option<DeadLettersProgress>, Error> {
        let report = self.reports.message().await;
        let report = report.map_err(|status| Error::from_status(&status))?;
        Ok(report.map(DeadLettersProgress::from_proto))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What ended it early.
    pub async fn finish(mut self) -> Result<DeadLettersProgress, Error> {
        let mut last = DeadLettersProgress::default();
        while let Some(progress) = self.next().await? {
            last = progress;
        }
        if last.done {
            Ok(last)
        } else {
            Err(Error::unavailable("the broker broke it off"))
        }
    }
}
