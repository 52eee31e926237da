//! The position row: up to where Postgres holds everything of a lane, and whose lane it is.

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{Action, Failure, lease::within, reading::get, session::Session};
use crate::save::Sequence;

/// What the position row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRow {
    /// The token of the daemon that writes this lane.
    pub owner: Uuid,
    /// Postgres holds every save of the lane up to here.
    pub through: Sequence,
}

/// The first statement of every transaction: raises 22012 unless the row is exactly as expected, and locks it. (Compared in the
/// client, a delayed transaction that was sent as one flight would get through.)
pub(super) const FENCE: &str = "select 1 / count(*), 0::int8 from (select 1 from forebay.lane_position \
     where journal_id = $1::uuid and lane = $2 and owner = $3::uuid and through = $4::int8 for update) as s";

/// The last one before COMMIT; answers (0, rows).
pub(super) const ADVANCE: &str = "with moved as (update forebay.lane_position set through = $5::int8, version = version + 1, updated_at = now() \
     where journal_id = $1::uuid and lane = $2 and owner = $3::uuid and through = $4::int8 returning 1) select 0::int8, count(*) from moved";

/// Read after COMMIT, whose tag the driver drops; answers (through, whether the owner is $3). No row: it is gone.
pub(super) const READ_BACK: &str =
    "select through, (owner = $3::uuid)::int::int8 from forebay.lane_position where journal_id = $1::uuid and lane = $2";

/// The first row of a lane; answers (0, rows).
pub(super) const FIRST_CLAIM: &str = "with made as (insert into forebay.lane_position (journal_id, lane, owner, through) \
     values ($1::uuid, $2, $3::uuid, $4::int8) on conflict do nothing returning 1) select 0::int8, count(*) from made";

/// Another owner ($5) for a row that is as it was read; answers (0, rows).
pub(super) const CLAIM: &str = "with taken as (update forebay.lane_position set owner = $5::uuid, version = version + 1, updated_at = now() \
     where journal_id = $1::uuid and lane = $2 and owner = $3::uuid and through = $4::int8 returning 1) select 0::int8, count(*) from taken";

/// What names a lane's row, as parameters.
#[derive(Clone, Debug)]
pub(super) struct LaneKey {
    pub(super) journal: String,
    pub(super) lane: String,
}

/// `int8` holds every sequence below run 2^23.
pub(super) fn as_int8(sequence: Sequence) -> i64 {
    sequence.get().cast_signed()
}

pub(super) async fn read(client: &Client, session: &Session, key: &LaneKey) -> Result<Option<PositionRow>, Failure> {
    let query = "select owner::text, through from forebay.lane_position where journal_id = $1::uuid and lane = $2";
    let params: [(&(dyn ToSql + Sync), Type); 2] = [(&key.journal, Type::TEXT), (&key.lane, Type::TEXT)];
    let row = within(session.call_timeout(), "read the position row", client.query_typed_opt(query, &params)).await?;
    let Some(row) = row else { return Ok(None) };
    let owner: &str = get(&row, 0)?;
    let owner = Uuid::parse_str(owner).map_err(|error| Failure::local(Action::Halt, format!("the position row's owner: {error}")))?;
    Ok(Some(PositionRow { owner, through: Sequence::from_u64(get::<i64>(&row, 1)?.cast_unsigned()) }))
}
