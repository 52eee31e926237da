use super::*;

/// Reads the position through a connection of its own, as after a reconnect.
async fn second_writer(lane: &Lane<'_>, owner: Uuid) -> Writer {
    let postgres = Postgres::new(&lane.fixture.settings, 1).expect("a URL");
    postgres.writer(lane.journal, "default", owner).await.expect("a writer")
}

#[tokio::test]
async fn without_a_schema_or_a_row_there_is_no_position() {
    let fixture = Fixture::new("").await;
    let mut writer = fixture.postgres.writer(Uuid::new_v4(), "default", Uuid::new_v4()).await.expect("a writer");
    assert_eq!(writer.read_position().await.expect("an answer"), None, "no schema");
    fixture.postgres.ensure_schema().await.expect("a schema");
    assert_eq!(writer.read_position().await.expect("an answer"), None, "no row");
    assert!(writer.is_usable());
}

#[tokio::test]
async fn a_lane_is_claimed_once_and_taken_over_only_as_it_was_read() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    let mut other = second_writer(&lane, Uuid::new_v4()).await;
    assert_eq!(other.claim(None, Sequence::ZERO).await, Err(ApplyError::Fence), "there is a row");
    let read = lane.position().await;
    lane.apply(&[]).await.expect("nothing to write");
    lane.position = Sequence::from_u64(5);
    let work = Work {
        collections: &lane.collections,
        after: Sequence::ZERO,
        through: lane.position,
        generation: None,
        failed: &[],
        closes: &[],
        statement_rows: steady(1),
        aside: None,
    };
    lane.writer.apply(&work).await.expect("an empty lane moves up");
    assert_eq!(other.claim(read, Sequence::ZERO).await, Err(ApplyError::Fence), "the row has moved since");
    let read = other.read_position().await.expect("an answer");
    assert_eq!(read, Some(PositionRow { owner: lane.owner, through: Sequence::from_u64(5) }));
    other.claim(read, Sequence::ZERO).await.expect("taken over");
    assert_eq!(lane.apply(&[]).await, Err(ApplyError::Fence), "the first owner is fenced");
    assert!(lane.writer.is_usable() && other.is_usable());
}

#[tokio::test]
async fn a_position_that_is_not_as_expected_lets_nothing_through() {
    let fixture = Fixture::new("create table t (id int4 primary key)").await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["1"], "{}")]).await.expect("applied");
    let position = lane.position;
    for wrong in [Sequence::ZERO, Sequence::from_u64(2)] {
        lane.position = wrong;
        assert_eq!(lane.apply(&[Set("t", &["2"], "{}")]).await, Err(ApplyError::Fence));
    }
    assert_eq!(fixture.rows("select * from t").await, ["1"]);
    lane.position = position;
    lane.apply(&[Set("t", &["2"], "{}")]).await.expect("the connection still works");
    assert_eq!(fixture.rows("select * from t").await, ["1", "2"]);
}

#[tokio::test]
async fn a_flight_that_waited_behind_its_own_retry_is_fenced() {
    let fixture = Fixture::new("create table t (id int4 primary key, n int4)").await;
    let mut lane = fixture.lane(&[]).await;
    let lock = Database::connect(fixture.settings.url().expect("a URL")).await.expect("a connection");
    lock.run("begin; select * from forebay.lane_position for update").await.expect("a lock");
    let (mut zombie, owner) = (second_writer(&lane, lane.owner).await, lane.owner);
    let late = lane.generation(&[Set("t", &["1"], r#"{"n": 1}"#)]);
    let work = |generation| Work {
        collections: &lane.collections,
        after: Sequence::ZERO,
        through: Sequence::from_u64(1),
        generation: Some(generation),
        failed: &[],
        closes: &[],
        statement_rows: steady(10),
        aside: None,
    };
    let (late_work, retry_work) = (work(&late), work(&late));
    let release = async {
        // Both wait for the row now.
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while fixture.rows(waiting).await != ["2"] {
            tokio::task::yield_now().await;
        }
        lock.run("commit").await.expect("released");
    };
    let (first, second, ()) = tokio::join!(zombie.apply(&late_work), lane.writer.apply(&retry_work), release);
    let fenced = [&first, &second].iter().filter(|result| **result == &Err(ApplyError::Fence)).count();
    assert_eq!(fenced, 1, "{first:?} {second:?}");
    assert_eq!(lane.position().await, Some(PositionRow { owner, through: Sequence::from_u64(1) }));
}
