//! Statements on their way: sent one after the other without waiting for answers, answers read in the same order.

use std::{collections::VecDeque, future::Future, pin::Pin, task::Poll, time::Duration};

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
}

type Awaited<'c> = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send + 'c>>;

/// A window of statements whose answers are outstanding; `M` says what each answer is to be held against.
pub(super) struct Flight<'c, M> {
    client: &'c Client,
    limit: Duration,
    under_way: VecDeque<UnderWay<'c, M>>,
    bytes: usize,
}

struct UnderWay<'c, M> {
    meaning: M,
    bytes: usize,
    answer: Answered<'c>,
}

enum Answered<'c> {
    NotYet(Awaited<'c>),
    Already(Result<Answer, Error>),
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
        Self { client, limit, under_way: VecDeque::new(), bytes: 0 }
    }

    /// Whether something has to land before `bytes` more are sent.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        !self.under_way.is_empty() && (self.under_way.len() >= Self::STATEMENTS_MAX || self.bytes + bytes > Self::BYTES_MAX)
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
    async fn send(&mut self, meaning: M, bytes: usize, mut answer: Awaited<'c>) {
        let first = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        let answer = match first {
            Poll::Pending => Answered::NotYet(answer),
            Poll::Ready(result) => Answered::Already(result),
        };
        self.bytes += bytes;
        self.under_way.push_back(UnderWay { meaning, bytes, answer });
    }

    /// Waits for the oldest answer; `None` if none is outstanding.
    pub(super) async fn land(&mut self, phase: Phase) -> Option<Result<(M, Answer), Refusal<M>>> {
        let UnderWay { meaning, bytes, answer } = self.under_way.pop_front()?;
        self.bytes -= bytes;
        let result = match answer {
            Answered::Already(result) => Ok(result),
            Answered::NotYet(answer) => tokio::time::timeout(self.limit, answer).await,
        };
        Some(match result {
            Ok(Ok(answer)) => Ok((meaning, answer)),
            Ok(Err(error)) => Err(Refusal { meaning, failure: Failure::from_error(&error, phase) }),
            Err(_) => Err(Refusal { meaning, failure: Failure::timed_out(phase, self.limit, "write") }),
        })
    }
}

async fn answer<P: BorrowToSql>(client: &Client, statement: &str, params: Vec<(P, Type)>) -> Result<Answer, Error> {
    let rows: Vec<_> = client.query_typed_raw(statement, params).await?.try_collect().await?;
    let Some(row) = rows.first() else {
        // A row that is missing answers with numbers that nothing is held against.
        return Ok(Answer { counts: [-1, -1], superseded: Vec::new() });
    };
    let superseded = if row.len() > 2 { row.try_get(2)? } else { Vec::new() };
    Ok(Answer { counts: [row.try_get(0)?, row.try_get(1)?], superseded })
}
