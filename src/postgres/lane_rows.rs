//! All position rows of a journal at once: a changed layout of lanes takes effect in one transaction.

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{
    Action, Failure, PositionRow,
    lease::{Lease, within},
    position::as_int8,
    reading::get,
    session::Session,
};
use crate::save::Sequence;

/// The lanes of one layout follow those of another.
#[derive(Clone, Debug)]
pub struct LaneChange<'a> {
    /// The journal.
    pub journal: Uuid,
    /// The rows of the layout before: as they were when everything was settled, or further.
    pub before: &'a [(String, PositionRow)],
    /// The lanes of the new layout.
    pub lanes: &'a [&'a str],
    /// What their rows say: whose they are, and where they begin. Above every row of the layout before.
    pub row: PositionRow,
    /// Every token of this journal: another's row is another daemon's.
    pub known: &'a [Uuid],
    /// Whoever has the rows.
    pub take_over: bool,
}

/// How the rows stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneRows {
    /// As the new layout wants them.
    Changed,
    /// Another daemon has this one.
    Foreign(PositionRow),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Write,
    Stop(LaneRows),
    Halt(String),
}

/// Locks every row of the journal, so that no transaction of an old lane comes between.
const LOOK: &str = "select lane, owner::text, through from forebay.lane_position where journal_id = $1::uuid order by lane for update";
/// Rows of lanes that are gone move too: whoever still expects them as they were is fenced.
const MOVE: &str = "update forebay.lane_position set owner = $2::uuid, through = $3, version = version + 1, updated_at = now() where journal_id = $1::uuid";
const ADD: &str = "insert into forebay.lane_position (journal_id, lane, owner, through) \
     select $1::uuid, lane, $2::uuid, $3 from unnest($4) as lane on conflict do nothing";

/// Looks, writes what is to be written, commits, and looks again: however often it is cut short, it can be called again.
pub(super) async fn change(mut lease: Lease, session: &Session, change: &LaneChange<'_>) -> Result<LaneRows, Failure> {
    for _ in 0..2 {
        lease.enter();
        let limit = session.call_timeout();
        within(limit, "begin", lease.batch_execute(session.begin_writing())).await?;
        let next = judge(&look(&lease, session, change.journal).await?, change);
        if next == Next::Write {
            write(&lease, session, change).await?;
        }
        within(limit, "change the lanes", lease.batch_execute("commit")).await?;
        lease.leave();
        match next {
            Next::Write => {}
            Next::Stop(rows) => return Ok(rows),
            Next::Halt(why) => return Err(halt(&why)),
        }
    }
    Err(Failure::local(Action::Reconnect, "Postgres rolled back instead of committing"))
}

async fn look(lease: &Lease, session: &Session, journal: Uuid) -> Result<Vec<(String, PositionRow)>, Failure> {
    let journal = journal.to_string();
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&journal, Type::TEXT)];
    let rows = within(session.call_timeout(), "lock the position rows", lease.query_typed(LOOK, &params)).await?;
    let read = |row: &tokio_postgres::Row| {
        let owner =
            Uuid::parse_str(get(row, 1)?).map_err(|error| Failure::local(Action::Halt, format!("a position row's owner: {error}")))?;
        let through = Sequence::from_u64(get::<i64>(row, 2)?.cast_unsigned());
        Ok((get::<&str>(row, 0)?.to_owned(), PositionRow { owner, through }))
    };
    rows.iter().map(read).collect()
}

async fn write(lease: &Lease, session: &Session, change: &LaneChange<'_>) -> Result<(), Failure> {
    let (journal, owner, through) = (change.journal.to_string(), change.row.owner.to_string(), as_int8(change.row.through));
    let params: [(&(dyn ToSql + Sync), Type); 4] =
        [(&journal, Type::TEXT), (&owner, Type::TEXT), (&through, Type::INT8), (&change.lanes, Type::TEXT_ARRAY)];
    within(session.call_timeout(), "move the position rows", lease.query_typed(MOVE, &params[..3])).await?;
    within(session.call_timeout(), "add position rows", lease.query_typed(ADD, &params)).await?;
    Ok(())
}

fn judge(rows: &[(String, PositionRow)], change: &LaneChange<'_>) -> Next {
    let row = |lane: &str| rows.iter().find(|(name, _)| name == lane).map(|(_, row)| *row);
    if change.lanes.iter().all(|lane| row(lane).is_some_and(|row| row.through >= change.row.through)) {
        return Next::Stop(LaneRows::Changed);
    }
    for (lane, before) in change.before {
        let Some(found) = row(lane) else { return Next::Halt(format!("the row of lane {lane} is missing")) };
        if found.owner != before.owner && !change.take_over {
            return match change.known.contains(&found.owner) {
                true => Next::Halt(format!("the row of lane {lane} has the token of an earlier start")),
                false => Next::Stop(LaneRows::Foreign(found)),
            };
        }
        if found.through < before.through {
            return Next::Halt(format!("the row of lane {lane} says {}, which was {}", found.through, before.through));
        }
    }
    Next::Write
}

fn halt(why: &str) -> Failure {
    let message = format!("the lanes have changed, and forebay.lane_position is from before everything was drained: {why}");
    Failure { remedy: earlier_remedy().into(), ..Failure::local(Action::Halt, message) }
}

/// What helps when Postgres has gone back behind a change of lanes.
pub fn earlier_remedy() -> &'static str {
    "bring the newest state of the database back; or write what it has lost again (`forebay journal export` shows what the journal \
     still holds), then set `through` of every row of this journal to where its lane begins"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: u128, through: u64) -> PositionRow {
        PositionRow { owner: Uuid::from_u128(owner), through: Sequence::from_u64(through) }
    }

    fn next(rows: &[(&str, PositionRow)], take_over: bool) -> Next {
        let before = [("default".to_owned(), row(1, 50)), ("hot".to_owned(), row(2, 60))];
        let known = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        let (journal, lanes) = (Uuid::from_u128(0), ["default", "cold"]);
        let change = LaneChange { journal, before: &before, lanes: &lanes, row: row(4, 100), known: &known, take_over };
        judge(&rows.iter().map(|(lane, row)| ((*lane).to_owned(), *row)).collect::<Vec<_>>(), &change)
    }

    #[test]
    fn rows_are_written_only_over_those_that_were_drained() {
        assert_eq!(next(&[("default", row(1, 50)), ("hot", row(2, 60))], false), Next::Write);
        assert_eq!(next(&[("default", row(1, 70)), ("hot", row(2, 60))], false), Next::Write, "an idle lane may have moved up");
        assert!(matches!(next(&[("default", row(1, 49)), ("hot", row(2, 60))], false), Next::Halt(_)), "gone back in time");
        assert!(matches!(next(&[("default", row(3, 50)), ("hot", row(2, 60))], false), Next::Halt(_)), "before the last start");
        assert!(matches!(next(&[("default", row(1, 50))], false), Next::Halt(_)), "a row is missing");
        let foreign = [("default", row(1, 50)), ("hot", row(9, 60))];
        assert_eq!(next(&foreign, false), Next::Stop(LaneRows::Foreign(row(9, 60))));
        assert_eq!(next(&foreign, true), Next::Write);
    }

    #[test]
    fn rows_that_are_written_are_left_alone() {
        let changed = Next::Stop(LaneRows::Changed);
        assert_eq!(next(&[("default", row(4, 100)), ("cold", row(4, 100)), ("hot", row(4, 100))], false), changed);
        assert_eq!(next(&[("default", row(5, 300)), ("cold", row(6, 200)), ("hot", row(4, 100))], false), changed, "the lanes go on");
    }
}
