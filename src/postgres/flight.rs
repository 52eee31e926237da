//! Statements on their way: sent one after the other without waiting for answers, answers read in the same order.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use tokio_postgres::{
    Client, Error,
    types::{BorrowToSql, Type},
};

use super::{Failure, sqlstate::Phase};

/// Every statement of ours answers with one row, or (simple queries) with none.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What it counts.
    pub(super) counts: [i64; 2],
    /// Where a version guards the rows: the numbers, from 1, of those that were superseded.
    pub(super) superseded: Vec<i64>,
    /// How long Postgres was at it: from the answer before it, or from when it was sent if that came later, to its own. That
    /// is Lindley's recursion for a server that takes one after the other; it costs no way there and back.
    pub(super) took: Duration,
}

type Awaited<'c> = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send + 'c>>;

/// A window of statements whose answers are outstanding; `M` says what each answer is to be held against.
pub(super) struct Flight<'c, M> {
    client: &'c Client,
    limit: Duration,
    under_way: VecDeque<UnderWay<'c, M>>,
    bytes: usize,
    /// When the last answer came that was landed.
    answered: Instant,
}

struct UnderWay<'c, M> {
    meaning: M,
    bytes: usize,
    sent: Instant,
    answer: Answered<'c>,
}

enum Answered<'c> {
    NotYet(Awaited<'c>),
    Already(Result<Answer, Error>, Instant),
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Refusal<M> {
    /// What was asked.
    pub(super) meaning: M,
    /// What came.
    pub(super) failure: Failure,
}

impl<'c, M> Flight<'c, M> {
    /// Statements of which Postgres has not answered the first may wait in its socket: enough to hide the way there and back.
    const STATEMENTS_MAX: usize = 64;
    /// What they may hold of our memory.
    const BYTES_MAX: usize = 8 << 20;

    /// `limit` is how long one answer may take once all before it have come.
    pub(super) fn new(client: &'c Client, limit: Duration) -> Self {
        Self { client, limit, under_way: VecDeque::new(), bytes: 0, answered: Instant::now() }
    }

    /// Whether something has to land before `bytes` more are sent.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        !self.under_way.is_empty() && (self.under_way.len() >= Self::STATEMENTS_MAX || self.bytes + bytes > Self::BYTES_MAX)
    }

    /// What is outstanding, oldest first.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &M> {
        self.under_way.iter().map(|sent| &sent.meaning)
    }

    /// Sends a simple query.
    pub(super) async fn send_simple(&mut self, meaning: M, statements: &'c str) {
        let client = self.client;
        self.send(meaning, 0, Box::pin(async move { client.batch_execute(statements).await.map(|()| Answer::default()) })).await;
    }

    /// Sends one statement with its parameters: unnamed, so that any pooler may be in between.
    pub(super) async fn send_typed<P>(&mut self, meaning: M, statement: &str, bytes: usize, params: Vec<(P, Type)>)
    where
        P: BorrowToSql + Send + 'c,
    {
        let (client, statement) = (self.client, statement.to_owned());
        self.send(meaning, bytes, Box::pin(async move { answer(client, &statement, params).await })).await;
    }

    /// The first poll puts the message into the connection's queue; so what is polled in order is sent in order.
    async fn send(&mut self, meaning: M, bytes: usize, answer: Awaited<'c>) {
        self.bytes += bytes;
        self.under_way.push_back(UnderWay { meaning, bytes, sent: Instant::now(), answer: Answered::NotYet(answer) });
        std::future::poll_fn(|context| {
            if let Some(last) = self.under_way.back_mut() {
                last.answer.look(context);
            }
            // So that it is known when each came: busy as we are making the next ones, nobody waits for them.
            for earlier in &mut self.under_way {
                if !earlier.answer.look(context) {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for the oldest answer; `None` if none is outstanding.
    pub(super) async fn land(&mut self, phase: Phase) -> Option<Result<(M, Answer), Refusal<M>>> {
        let UnderWay { meaning, bytes, sent, answer } = self.under_way.pop_front()?;
        self.bytes -= bytes;
        let (result, at) = match answer {
            Answered::Already(result, at) => (Ok(result), at),
            Answered::NotYet(answer) => (tokio::time::timeout(self.limit, answer).await, Instant::now()),
        };
        let took = at.saturating_duration_since(sent.max(self.answered));
        self.answered = at;
        Some(match result {
            Ok(Ok(answer)) => Ok((meaning, Answer { took, ..answer })),
            Ok(Err(error)) => Err(Refusal { meaning, failure: Failure::from_error(&error, phase) }),
            Err(_) => Err(Refusal { meaning, failure: Failure::timed_out(phase, self.limit, "write") }),
        })
    }
}

impl Answered<'_> {
    fn is_there(&self) -> bool {
        matches!(self, Self::Already(..))
    }

    /// Asks for the answer without waiting: `true` if it has come.
    fn look(&mut self, context: &mut Context<'_>) -> bool {
        if let Self::NotYet(answer) = self
            && let Poll::Ready(result) = answer.as_mut().poll(context)
        {
            *self = Self::Already(result, Instant::now());
        }
        self.is_there()
    }
}

async fn answer<P: BorrowToSql>(client: &Client, statement: &str, params: Vec<(P, Type)>) -> Result<Answer, Error> {
    let rows: Vec<_> = client.query_typed_raw(statement, params).await?.try_collect().await?;
    let Some(row) = rows.first() else {
        // A row that is missing answers with numbers that nothing is held against.
        return Ok(Answer { counts: [-1, -1], ..Answer::default() });
    };
    let superseded = if row.len() > 2 { row.try_get(2)? } else { Vec::new() };
    Ok(Answer { counts: [row.try_get(0)?, row.try_get(1)?], superseded, ..Answer::default() })
}
