//! A transaction that only reads.

use std::time::Duration;

use tokio_postgres::{
    Row,
    types::{FromSql, ToSql, Type},
};

use super::{
    Failure,
    lease::{Lease, within},
    session::Session,
    sqlstate::Phase,
};

/// One snapshot. Left without [`Reading::end`] (an error, a cancelled future) its connection is thrown away.
#[derive(Debug)]
pub(super) struct Reading {
    lease: Lease,
    call_timeout: Duration,
}

impl Reading {
    pub(super) async fn begin(mut lease: Lease, session: &Session) -> Result<Self, Failure> {
        lease.enter();
        within(session.call_timeout(), "begin a reading transaction", lease.batch_execute(session.begin_reading())).await?;
        Ok(Self { lease, call_timeout: session.call_timeout() })
    }

    pub(super) async fn rows(&self, query: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Failure> {
        within(self.call_timeout, "read", self.lease.query_typed(query, params)).await
    }

    pub(super) async fn end(mut self) -> Result<(), Failure> {
        within(self.call_timeout, "end a reading transaction", self.lease.batch_execute("commit")).await?;
        self.lease.leave();
        Ok(())
    }
}

/// A column of a row, in the type that our query gives it.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Failure> {
    row.try_get(column).map_err(|error| Failure::from_error(&error, Phase::BeforeCommit))
}
