//! One endpoint: what is due is tried, a few at a time, until it is answered or given up.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::StatusCode;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Delivery,
    connection::{Answer, Connection, Unreachable, Used},
    retry,
    shared::{Pending, Shared},
    target::Target,
};
use crate::settings::CallbackSettings;

/// Attempts at once: enough for a receiver far away, few for a small one.
const ATTEMPTS_MAX: usize = 8;

/// Tells one endpoint outcomes.
#[derive(Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    /// `None`: the settings don't have it any more.
    target: Option<Arc<Target>>,
    timeout: Duration,
    give_up: Duration,
    inbox: mpsc::UnboundedReceiver<Pending>,
    ended: mpsc::UnboundedSender<String>,
    /// By when it is due, then in the order in which they came.
    waiting: BTreeMap<(Instant, u64), Pending>,
    attempts: JoinSet<Attempted>,
    /// Connections that may be used again, kept while something waits.
    idle: Vec<Connection>,
    /// The last attempt failed.
    failing: bool,
}

/// How an attempt ended.
#[derive(Debug)]
struct Attempted {
    pending: Pending,
    outcome: Outcome,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Outcome {
    Answered(Answer),
    TimedOut,
    Unreachable(String),
}

impl Endpoint {
    pub(super) fn new(
        shared: Arc<Shared>,
        target: Option<Target>,
        settings: &CallbackSettings,
        inbox: mpsc::UnboundedReceiver<Pending>,
        ended: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            shared,
            target: target.map(Arc::new),
            timeout: settings.timeout,
            give_up: settings.give_up,
            inbox,
            ended,
            waiting: BTreeMap::new(),
            attempts: JoinSet::new(),
            idle: Vec::new(),
            failing: false,
        }
    }

    /// Runs until it is dropped: attempts under way are cut short, and made again after the next start.
    pub async fn run(mut self) {
        loop {
            let due = self.begin_due();
            tokio::select! {
                pending = self.inbox.recv() => match pending {
                    Some(pending) => self.wait(pending, Duration::ZERO),
                    None => return,
                },
                Some(attempted) = self.attempts.join_next() => self.attempted(attempted.expect("an attempt doesn't panic")),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Begins what is due, as far as there is room; tells when the next one is.
    fn begin_due(&mut self) -> Option<Instant> {
        while self.attempts.len() < ATTEMPTS_MAX {
            let (&(due, _), _) = self.waiting.first_key_value()?;
            if due > Instant::now() {
                return Some(due);
            }
            let (_, pending) = self.waiting.pop_first()?;
            self.begin(pending);
        }
        // An attempt that ends makes room.
        None
    }

    fn begin(&mut self, pending: Pending) {
        if self.shared.disabled.load(Ordering::Relaxed) {
            // Said once, when it was disabled.
            self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return self.end(&pending);
        }
        if pending.age() >= self.give_up {
            self.shared.counts.too_old.fetch_add(1, Ordering::Relaxed);
            let Delivery { id, ticket, .. } = &pending.delivery;
            tracing::warn!(endpoint = self.shared.name, id, ticket, "a callback is given up: it is older than callbacks.give_up");
            return self.end(&pending);
        }
        let (target, limit) = (self.target.clone(), self.timeout);
        let connection = self.idle.pop();
        self.attempts.spawn(async move {
            let attempt = timeout(limit, attempt(target.as_deref(), connection, &pending.delivery, limit));
            let (outcome, connection) = match attempt.await {
                Ok(Ok((answer, used))) => (Outcome::Answered(answer), used.reusable().await),
                Ok(Err(unreachable)) => (Outcome::Unreachable(unreachable), None),
                Err(_) => (Outcome::TimedOut, None),
            };
            Attempted { pending, outcome, connection }
        });
    }

    fn attempted(&mut self, Attempted { mut pending, outcome, connection }: Attempted) {
        self.idle.extend(connection);
        if self.waiting.is_empty() && self.inbox.is_empty() {
            self.idle.clear();
        }
        let gone = matches!(outcome, Outcome::Answered(Answer { status: StatusCode::GONE, .. }));
        let counts = &self.shared.counts;
        let (count, asked, error) = match outcome {
            Outcome::Answered(Answer { status, .. }) if status.is_success() => {
                counts.delivered.fetch_add(1, Ordering::Relaxed);
                self.works();
                return self.end(&pending);
            }
            Outcome::Answered(Answer { status, retry_after }) => (&counts.refused, retry_after, format!("it answered {status}")),
            Outcome::TimedOut => (&counts.timed_out, None, format!("no answer within {} s", self.timeout.as_secs_f64())),
            Outcome::Unreachable(error) => (&counts.unreachable, None, error),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.failing(&pending.delivery, error);
        if gone {
            self.disable();
        }
        pending.failed = pending.failed.saturating_add(1);
        let wait = retry::wait(pending.failed, asked, fastrand::f64());
        self.wait(pending, wait);
    }

    fn works(&mut self) {
        self.shared.note_error(String::new());
        if std::mem::take(&mut self.failing) {
            tracing::info!(endpoint = self.shared.name, "callbacks are delivered again");
        }
    }

    /// Said once, until it works again.
    fn failing(&mut self, delivery: &Delivery, error: String) {
        let (endpoint, id) = (&self.shared.name, &delivery.id);
        match std::mem::replace(&mut self.failing, true) {
            false => tracing::warn!(endpoint, id, error, "a callback was not delivered: trying again"),
            true => tracing::debug!(endpoint, id, error, "a callback was not delivered"),
        }
        self.shared.note_error(error);
    }

    fn wait(&mut self, pending: Pending, wait: Duration) {
        self.waiting.insert((Instant::now() + wait, pending.number), pending);
    }

    /// It doesn't want to be told any more: everything that waits is due to be given up.
    fn disable(&mut self) {
        if !self.shared.disabled.swap(true, Ordering::Relaxed) {
            tracing::error!(
                endpoint = self.shared.name,
                pending = self.shared.pending(),
                "the endpoint answered 410: its callbacks are given up until the next start"
            );
        }
        for (_, pending) in std::mem::take(&mut self.waiting) {
            self.wait(pending, Duration::ZERO);
        }
    }

    fn end(&self, pending: &Pending) {
        self.shared.ended(pending);
        // A daemon that no longer listens finds it again after the next start.
        let _ = self.ended.send(pending.delivery.id.clone());
    }
}

/// One attempt. A connection that was idle may have been closed meanwhile: then on a new one.
async fn attempt(
    target: Option<&Target>,
    idle: Option<Connection>,
    delivery: &Delivery,
    limit: Duration,
) -> Result<(Answer, Used), String> {
    let target = target.ok_or_else(|| "the settings have no endpoint of this name".to_owned())?;
    if let Some(connection) = idle.filter(Connection::is_open)
        && let Ok(answered) = connection.post(target, delivery).await
    {
        return Ok(answered);
    }
    let connection = Connection::open(target, limit).await.map_err(|Unreachable(why)| why)?;
    connection.post(target, delivery).await.map_err(|Unreachable(why)| why)
}
