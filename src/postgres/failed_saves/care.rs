//! What happens to failed saves outside the drain: an operator gives them up, and closed ones are forgotten in time. Each is a
//! short transaction of its own.

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::list::{Conditions, int8, sequence};
use crate::{
    failed::{FailedFilter, FailedState},
    postgres::{
        Failure,
        lease::{Lease, within},
        reading::get,
        session::Session,
    },
    save::Sequence,
};

/// Rows of one statement: it holds their locks, and whoever applies a later save of them waits.
const CHUNK: i64 = 1_000;

/// Closes a chunk of the open ones that the filter chooses, but none of `except`, oldest first; gives number and collection of
/// each. Empty: there are no more.
pub(in crate::postgres) async fn discard(
    lease: Lease,
    session: &Session,
    journal: Uuid,
    filter: &FailedFilter,
    except: &[Sequence],
    reason: &str,
) -> Result<Vec<(Sequence, String)>, Failure> {
    let mut conditions = Conditions::of(journal);
    conditions.choose(&FailedFilter { states: vec![FailedState::Open], ..filter.clone() });
    let except = conditions.param(except.iter().map(|&sequence| int8(sequence)).collect::<Vec<_>>(), Type::INT8_ARRAY);
    conditions.and(&format!("f.sequence <> all(${except})"));
    let reason = conditions.param(reason.to_owned(), Type::TEXT);
    let text = format!(
        "with chosen as (select f.sequence from forebay.failed_save f where {} order by f.sequence limit {CHUNK} for update) \
         update forebay.failed_save f set closed_at = now(), closed_reason = 'discarded', closed_note = ${reason} \
         from chosen where f.journal_id = $1::uuid and f.sequence = chosen.sequence returning f.sequence, f.collection",
        conditions.text
    );
    let rows = run(lease, session, "discard failed saves", &text, &conditions).await?;
    rows.iter().map(|row| Ok((sequence(row, 0)?, get(row, 1)?))).collect()
}

/// Removes a chunk of the closed ones beyond the newest `kept`, lowest sequences first, and notes up to where: tickets at or
/// below it can't be told any more. Gives their numbers. Empty: there are no more.
pub(in crate::postgres) async fn forget(lease: Lease, session: &Session, journal: Uuid, kept: u64) -> Result<Vec<Sequence>, Failure> {
    let mut conditions = Conditions::of(journal);
    conditions.and("f.closed_at is not null");
    let kept = conditions.param(i64::try_from(kept).unwrap_or(i64::MAX), Type::INT8);
    let text = format!(
        "with surplus as (select count(*) - ${kept} as n from forebay.failed_save f where {0}), \
         gone as (delete from forebay.failed_save where journal_id = $1::uuid and sequence in (select f.sequence \
         from forebay.failed_save f where {0} order by f.sequence limit (select greatest(least(n, {CHUNK}), 0) from surplus)) \
         returning sequence), \
         noted as (insert into forebay.failed_horizon as h (journal_id, through) select $1::uuid, max(sequence) from gone \
         having count(*) > 0 on conflict (journal_id) do update set through = greatest(h.through, excluded.through) returning 1) \
         select sequence from gone",
        conditions.text
    );
    let rows = run(lease, session, "forget closed failed saves", &text, &conditions).await?;
    rows.iter().map(|row| sequence(row, 0)).collect()
}

/// One statement, committed. Left early, its connection is thrown away.
async fn run(
    mut lease: Lease,
    session: &Session,
    act: &'static str,
    statement: &str,
    conditions: &Conditions,
) -> Result<Vec<Row>, Failure> {
    let limit = session.call_timeout();
    lease.enter();
    within(limit, "begin", lease.batch_execute(session.begin_writing())).await?;
    let rows = within(limit, act, lease.query_typed(statement, &conditions.borrowed())).await?;
    within(limit, "commit", lease.batch_execute("commit")).await?;
    lease.leave();
    Ok(rows)
}
