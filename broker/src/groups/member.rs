//! What a member can do: join, take deliveries, commit, give back, pull, leave.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    admin::NewGroup,
    commit::{self, CommitWish, Committed, Held},
    pull::{PullSpec, Pulled},
    requests::Request,
    session::{Answering, Commits, Happening, Link, MemberSession},
    terms::Joining,
};
use crate::{
    error::Refusal,
    lanes::Credit,
    limits,
    metadata::groups::{Group, StartAt},
    services::Services,
};

/// After the request side has ended: how long the other side may take to show that the whole
/// stream was cut off and not closed.
const CUT_OFF: Duration = Duration::from_millis(10);

/// Who joins which group.
#[derive(Debug, Clone)]
pub(crate) struct JoinSpec {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) joining: Joining,
    /// Where a group that has to be created begins.
    pub(crate) start: StartAt,
    pub(crate) must_exist: bool,
}

/// A member has joined by a stream.
pub(crate) struct Opened {
    pub(crate) member_id: String,
    pub(crate) created: bool,
    pub(crate) session_ms: u64,
}

/// What goes to a member.
pub(crate) struct Deliveries {
    session: MemberSession,
    commits: Commits,
    credit: Arc<Credit>,
    raw: bool,
    _alive: Arc<()>,
}

impl Deliveries {
    /// The next thing to tell; `None` at the end.
    ///
    /// # Errors
    /// If the member has lost its place, or the group is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Happening>, Refusal> {
        let (credit, commits) = (&self.credit, &mut self.commits);
        self.session.next(self.raw, credit, commits).await
    }
}

/// What comes from a member.
pub(crate) struct Requests {
    held: Arc<Held>,
    link: Weak<Link>,
    credit: Arc<Credit>,
    answers: mpsc::Sender<Answering>,
    alive: Weak<()>,
}

impl Requests {
    /// The member lives.
    pub(crate) fn touch(&self) {
        self.held.touch();
    }

    pub(crate) fn add_credit(&self, messages: u64, bytes: u64) {
        self.credit.add(messages, bytes);
    }

    /// Hands commits on; their answer comes with the deliveries. Waits while too many are on
    /// their way.
    pub(crate) async fn commit(&self, wishes: Vec<CommitWish>) {
        let Ok(place) = self.answers.reserve().await else {
            return;
        };
        if let Err(refusal) = commit::check_count("commit.commits", wishes.len()) {
            let refused = wishes.into_iter().take(1).map(|wish| Committed {
                partition: wish.partition,
                position: 0,
                refusal: Some(refusal.clone()),
            });
            let refused = refused.collect();
            return place.send(Box::pin(std::future::ready(refused)));
        }
        let live = self.held.live();
        let committing = commit::begin(&self.held, &wishes).await;
        place.send(Box::pin(committing.finish(live)));
    }

    /// The member gives partitions back. What it committed before is on its way already, and
    /// lies before the next owner's claim.
    pub(crate) async fn release(&self, partitions: Vec<u32>) {
        self.held.lose(&partitions);
        if let Some(link) = self.link.upgrade() {
            let conn = link.conn;
            link.send(Request::Released { conn, partitions }).await;
        }
    }

    /// The member has closed its side. A stream that was cut off can look the same, but then
    /// the other side ends as well.
    pub(crate) async fn close(self) {
        tokio::time::sleep(CUT_OFF).await;
        if self.alive.upgrade().is_none() {
            return;
        }
        if let Some(link) = self.link.upgrade() {
            let conn = link.conn;
            link.send(Request::Gone { conn, closed: true }).await;
        }
    }
}

impl Services {
    /// Joins by a stream.
    ///
    /// # Errors
    /// If a name cannot be, the topic or the group does not exist, or there is no room.
    pub(crate) async fn join(
        self: &Arc<Self>,
        spec: JoinSpec,
        raw: bool,
    ) -> Result<(Opened, Deliveries, Requests), Refusal> {
        let (group, created, joining) = self.prepare(spec).await?;
        let joined = self
            .ask(&group, |answer| Request::Join { joining, answer })
            .await?;
        let session = joined.session;
        let (answers, queue) = mpsc::channel(limits::MAX_COMMIT_REQUESTS_IN_FLIGHT);
        let credit = Arc::new(Credit::new(0, 0));
        let alive = Arc::new(());
        let requests = Requests {
            held: session.held().clone(),
            link: Arc::downgrade(session.link()),
            credit: credit.clone(),
            answers,
            alive: Arc::downgrade(&alive),
        };
        let deliveries = Deliveries {
            session,
            commits: Commits::new(queue),
            credit,
            raw,
            _alive: alive,
        };
        let opened = Opened {
            member_id: joined.member_id,
            created,
            session_ms: joined.session_ms,
        };
        Ok((opened, deliveries, requests))
    }

    /// Commits, then answers messages or waits for them; joins at the first call.
    ///
    /// # Errors
    /// As [`Services::join`], and if the member has lost its place meanwhile.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        spec: JoinSpec,
        wishes: Vec<CommitWish>,
        pull: PullSpec,
    ) -> Result<(String, Vec<Committed>, Pulled), Refusal> {
        commit::check_count("commits", wishes.len())?;
        let (group, _, joining) = self.prepare(spec).await?;
        let session = self
            .ask(&group, |answer| Request::Pull { joining, answer })
            .await?;
        let held = session.held();
        let committed = commit::begin(held, &wishes).await;
        let committed = committed.finish(held.live()).await;
        let pulled = session.pull(self, pull).await?;
        Ok((session.member_id.clone(), committed, pulled))
    }

    async fn prepare(self: &Arc<Self>, spec: JoinSpec) -> Result<(Group, bool, Joining), Refusal> {
        self.check_draining()?;
        let JoinSpec {
            topic,
            group,
            mut joining,
            start,
            must_exist,
        } = spec;
        check_words("member_id", &joining.member_id)?;
        check_words("instance_id", &joining.instance_id)?;
        check_words("client_id", &joining.client_id)?;
        if joining.member_id.is_empty() {
            joining.member_id = format!("m-{:016x}", rand::random::<u64>());
            joining.is_new = true;
        }
        let new = NewGroup {
            topic,
            name: group,
            start,
            ..NewGroup::default()
        };
        let (group, created) = if must_exist {
            (self.group(&new.topic, &new.name)?, false)
        } else {
            self.group_or_new(new).await?
        };
        Ok((group, created, joining))
    }

    /// The member goes, and its partitions move at once.
    ///
    /// # Errors
    /// If there is no such member or group.
    pub(crate) async fn leave(
        self: &Arc<Self>,
        topic: &str,
        group: &str,
        member_id: String,
    ) -> Result<(), Refusal> {
        let group = self.group(topic, group)?;
        self.ask(&group, |answer| Request::Leave { member_id, answer })
            .await
    }

    /// Commits for a member, or (without one) for a group that has none.
    ///
    /// # Errors
    /// If the group or the member does not exist; what is wrong with single commits stands in
    /// their results.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        (topic, group): (&str, &str),
        member_id: String,
        wishes: Vec<CommitWish>,
    ) -> Result<Vec<Committed>, Refusal> {
        commit::check_count("commits", wishes.len())?;
        let group = self.group(topic, group)?;
        let live = self.topics.get(&group.topic)?;
        if !member_id.is_empty() {
            let find = |answer| Request::Find { member_id, answer };
            let held = self.ask(&group, find).await?;
            held.touch();
            return Ok(commit::begin(&held, &wishes).await.finish(live).await);
        }
        let partitions = wishes.iter().map(|wish| wish.partition).collect();
        let memberless = |answer| Request::Memberless { partitions, answer };
        let epochs = self.ask(&group, memberless).await?;
        let wishes: Vec<_> = wishes.into_iter().zip(epochs).collect();
        let committing = commit::begin_memberless(&live, group.id, &wishes).await;
        Ok(committing.finish(live).await)
    }
}

/// What a member says of itself: bounded, and fit to be shown.
pub(crate) fn check_words(field: &str, text: &str) -> Result<(), Refusal> {
    let limit = limits::MAX_MEMBER_NAME_BYTES;
    if text.len() > limit {
        let why = format!("{} bytes, the limit is {limit}", text.len());
        return Err(Refusal::invalid(field, why));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "it has control characters"));
    }
    Ok(())
}
