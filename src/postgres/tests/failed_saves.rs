//! Rows of `forebay.failed_save`: written, closed, listed, discarded and forgotten.

use super::*;
use crate::failed::{Close, FailedFilter, FailedPage, FailedQuery, FailedState, SaveKind};

fn seq(n: u64) -> Sequence {
    Sequence::from_u64(n)
}

fn failed(sequence: u64) -> FailedSave {
    FailedSave {
        sequence: seq(sequence),
        collection: "t".to_owned(),
        key: vec![sequence.to_string()],
        kind: SaveKind::Set,
        body: Some(r#"{"a": 1}"#.to_owned()),
        added: Vec::new(),
        sqlstate: Some("23505".to_owned()),
        constraint: Some("t_a_key".to_owned()),
        message: "duplicate key".to_owned(),
        detail: Some("Key (a)=(1) already exists.".to_owned()),
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    }
}

fn close(sequence: u64, state: FailedState, by: u64) -> Close {
    Close { sequence: seq(sequence), state, by: seq(by) }
}

fn query(filter: FailedFilter) -> FailedQuery {
    FailedQuery { filter, after: Sequence::ZERO, newest_first: false, bodies: true, rows_max: 100, bytes_max: 1 << 20 }
}

fn sequences(page: &FailedPage) -> Vec<u64> {
    page.rows.iter().map(|row| row.sequence.get()).collect()
}

impl Lane<'_> {
    async fn write(&mut self, through: u64, generation: Option<&Generation>, failed: &[FailedSave], closes: &[Close]) {
        let (after, through) = (self.position, seq(through));
        let work =
            Work { collections: &self.collections, after, through, generation, failed, closes, statement_rows: steady(2), aside: None };
        self.writer.apply(&work).await.expect("applied");
        self.position = through;
    }

    async fn fail(&mut self, saves: &[FailedSave]) {
        self.write(saves.last().expect("some").sequence.get(), None, saves, &[]).await;
    }

    async fn page(&self, query: &FailedQuery) -> FailedPage {
        self.fixture.postgres.list_failed(self.journal, query).await.expect("a page")
    }

    async fn open(&self) -> Vec<u64> {
        let known = self.fixture.postgres.known_failed(self.journal).await.expect("rows");
        known.open.iter().map(|row| row.sequence.get()).collect()
    }
}

#[tokio::test]
async fn they_are_written_with_the_position_and_keep_every_digit() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    let body = r#"{"n": 1.50000000000000000000, "z": 1, "a": "\u00e9"}"#;
    let added = vec!["z".to_owned(), "a \"quoted\" one".to_owned()];
    let set = FailedSave { key: vec!["1".to_owned(), "it's, {\"x\"}".to_owned()], body: Some(body.to_owned()), added, ..failed(3) };
    let delete = FailedSave {
        sequence: seq(4),
        kind: SaveKind::Delete,
        body: None,
        added: Vec::new(),
        sqlstate: None,
        constraint: None,
        ..set.clone()
    };
    let append = FailedSave { sequence: seq(5), kind: SaveKind::Append, key: Vec::new(), added: Vec::new(), detail: None, ..set.clone() };
    lane.fail(&[set, delete, append]).await;
    assert_eq!(lane.position().await.map(|row| row.through), Some(seq(5)));
    let columns = "sequence, lane, collection, key, kind, body, added, sqlstate, constraint_name, message, detail, \
                   extract(epoch from accepted_at), closed_at";
    let rows = fixture.rows(&format!("select {columns} from forebay.failed_save order by 1")).await;
    let key = r#"{1,"it's, {\"x\"}"}"#;
    let added = r#"{z,"a \"quoted\" one"}"#;
    let (detail, times) = ("Key (a)=(1) already exists.", "1700000000.123000|NULL");
    let expected = [
        format!("3|default|t|{key}|set|{body}|{added}|23505|t_a_key|duplicate key|{detail}|{times}"),
        format!("4|default|t|{key}|delete|NULL|{{}}|NULL|NULL|duplicate key|{detail}|{times}"),
        format!("5|default|t|{{}}|append|{body}|{{}}|23505|t_a_key|duplicate key|NULL|{times}"),
    ];
    assert_eq!(rows, expected);
    assert_eq!(lane.open().await, [3, 4, 5]);
    let page = lane.page(&FailedQuery { newest_first: true, rows_max: 2, ..query(FailedFilter::default()) }).await;
    assert_eq!((sequences(&page), page.more), (vec![5, 4], true));
    let (append, delete) = (&page.rows[0], &page.rows[1]);
    let oldest = lane.page(&FailedQuery { rows_max: 1, ..query(FailedFilter::default()) }).await;
    assert_eq!(oldest.rows[0].added, ["z", "a \"quoted\" one"]);
    assert_eq!((append.kind, append.key.len(), append.body.as_deref(), append.detail.as_deref()), (SaveKind::Append, 0, Some(body), None));
    assert_eq!(
        (delete.kind, delete.key.len(), delete.body.as_deref(), delete.detail.as_deref()),
        (SaveKind::Delete, 2, None, Some(detail))
    );
    assert_eq!(append.accepted_at, failed(5).accepted_at);
    assert_eq!(fixture.postgres.known_failed(Uuid::new_v4()).await, Ok(KnownFailed::default()));
}

#[tokio::test]
async fn they_are_closed_by_the_transaction_that_writes_what_closes_them() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4)").await;
    let mut lane = fixture.lane(&[]).await;
    lane.fail(&[1, 2, 3, 4].map(failed)).await;
    fixture
        .database
        .run("update forebay.failed_save set closed_at = now(), closed_reason = 'discarded' where sequence = 4")
        .await
        .expect("SQL");
    let generation = lane.generation(&[Set("t", &["1"], r#"{"a": 1}"#)]);
    let closes = [close(1, FailedState::Retried, 5), close(2, FailedState::Overtaken, 5), close(4, FailedState::Overtaken, 5)];
    lane.write(5, Some(&generation), &[], &closes).await;
    let rows = "select f.sequence, f.closed_reason, f.closed_by, f.xmin = t.xmin from forebay.failed_save f, t order by 1";
    assert_eq!(fixture.rows(rows).await, ["1|retried|5|t", "2|overtaken|5|t", "3|NULL|NULL|f", "4|discarded|NULL|f"]);
    assert_eq!(lane.open().await, [3]);
    // An operator insists on what was overtaken; what is retried stays so.
    let closes = [close(1, FailedState::Overtaken, 6), close(2, FailedState::Retried, 6)];
    lane.write(6, None, &[], &closes).await;
    let page = lane.page(&query(FailedFilter::default())).await;
    let closed = page.rows.iter().map(|row| (row.state(), row.closed.as_ref().and_then(|closed| closed.by)));
    let expected = [
        (FailedState::Retried, Some(seq(5))),
        (FailedState::Retried, Some(seq(6))),
        (FailedState::Open, None),
        (FailedState::Discarded, None),
    ];
    assert_eq!(closed.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn they_are_listed_by_what_they_are_and_how_they_stand() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    lane.fail(&[
        FailedSave { collection: "u".to_owned(), ..failed(1) },
        FailedSave { sqlstate: None, constraint: None, ..failed(2) },
        FailedSave { constraint: Some("other".to_owned()), ..failed(3) },
        failed(4),
    ])
    .await;
    lane.write(5, None, &[], &[close(4, FailedState::Overtaken, 5)]).await;
    fixture.database.run("update forebay.failed_save set failed_at = 'epoch' where sequence = 3").await.expect("SQL");
    let base = FailedFilter::default();
    let long_ago = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let cases = [
        (base.clone(), vec![1, 2, 3, 4]),
        (FailedFilter { collection: Some("t".to_owned()), ..base.clone() }, vec![2, 3, 4]),
        (FailedFilter { sqlstate: Some("23505".to_owned()), ..base.clone() }, vec![1, 3, 4]),
        (FailedFilter { constraint: Some("other".to_owned()), ..base.clone() }, vec![3]),
        (FailedFilter { failed_until: long_ago, ..base.clone() }, vec![3]),
        (FailedFilter { failed_from: long_ago, ..base.clone() }, vec![1, 2, 4]),
        (FailedFilter { states: vec![FailedState::Open], ..base.clone() }, vec![1, 2, 3]),
        (FailedFilter { states: vec![FailedState::Overtaken, FailedState::Retried], ..base.clone() }, vec![4]),
        (FailedFilter { sequences: Some(vec![seq(2), seq(4), seq(9)]), ..base.clone() }, vec![2, 4]),
        (FailedFilter { sequences: Some(Vec::new()), ..base.clone() }, vec![]),
        (FailedFilter { collection: Some("t".to_owned()), states: vec![FailedState::Open], failed_from: long_ago, ..base }, vec![2]),
    ];
    for (filter, expected) in cases {
        let page = lane.page(&query(filter.clone())).await;
        assert_eq!((sequences(&page), page.more), (expected, false), "{filter:?}");
    }
    let page = lane.page(&FailedQuery { bodies: false, ..query(FailedFilter::default()) }).await;
    assert!(page.rows.iter().all(|row| row.body.is_none() && row.detail.is_none()), "data only for those who ask for it");
}

#[tokio::test]
async fn pages_are_stable_and_bounded_by_rows_and_bytes() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    let large = |sequence| FailedSave { body: Some(format!(r#"{{"a": "{}"}}"#, "x".repeat(1_000))), ..failed(sequence) };
    lane.fail(&[large(1), large(2), large(3), failed(4), failed(5)]).await;
    let mut query = FailedQuery { bytes_max: 1_500, ..query(FailedFilter::default()) };
    let mut seen = Vec::new();
    for expected in [vec![1], vec![2], vec![3, 4, 5], vec![6]] {
        let page = lane.page(&query).await;
        assert_eq!(sequences(&page), expected);
        query.after = page.rows.last().expect("a row").sequence;
        if seen.is_empty() {
            // While somebody reads, one more fails and one that was read is closed.
            lane.fail(&[failed(6)]).await;
            lane.write(7, None, &[], &[close(1, FailedState::Overtaken, 7)]).await;
            query.rows_max = 3;
        }
        seen.extend(expected);
        assert_eq!(page.more, seen.len() < 6);
    }
    assert!(lane.page(&query).await.rows.is_empty());
}

#[tokio::test]
async fn the_open_ones_are_discarded_with_a_reason_and_never_those_that_are_excepted() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    lane.fail(&[failed(1), FailedSave { collection: "u".to_owned(), ..failed(2) }, failed(3), failed(4)]).await;
    lane.write(5, None, &[], &[close(1, FailedState::Retried, 5)]).await;
    let filter = FailedFilter { collection: Some("t".to_owned()), ..FailedFilter::default() };
    let except = [seq(3)];
    let discard = || fixture.postgres.discard_failed(lane.journal, &filter, &except, "no use");
    assert_eq!(discard().await, Ok(vec![(seq(4), "t".to_owned())]));
    assert_eq!(discard().await, Ok(Vec::new()));
    assert_eq!(lane.open().await, [2, 3]);
    let rows = fixture
        .rows("select closed_reason, closed_note, closed_by from forebay.failed_save where sequence in (1, 4) order by sequence")
        .await;
    assert_eq!(rows, ["retried|NULL|5", "discarded|no use|NULL"]);
}

#[tokio::test]
async fn closed_ones_beyond_those_that_are_kept_are_forgotten_and_the_horizon_tells_up_to_where() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    lane.fail(&[1, 2, 3, 4, 5, 6].map(failed)).await;
    let closes = [1, 2, 4, 5, 6].map(|sequence| close(sequence, FailedState::Overtaken, 7));
    lane.write(7, None, &[], &closes).await;
    let journal = lane.journal;
    let forget = |kept| fixture.postgres.forget_failed(journal, kept, seq(8));
    let horizon = "select journal_id, through from forebay.failed_horizon";
    let numbers = |numbers: &[u64]| Ok(numbers.iter().map(|&number| seq(number)).collect::<Vec<_>>());
    assert_eq!(forget(5).await, numbers(&[]));
    assert!(fixture.rows(horizon).await.is_empty());
    assert_eq!(fixture.postgres.forget_failed(Uuid::new_v4(), 0, seq(8)).await, numbers(&[]), "another journal's rows stay");
    assert_eq!(fixture.postgres.forget_failed(journal, 3, seq(0)).await, numbers(&[]), "nobody was told of them");
    assert_eq!(forget(3).await, numbers(&[1, 2]));
    let sequences = "select sequence from forebay.failed_save order by 1";
    assert_eq!(fixture.rows(sequences).await, ["3", "4", "5", "6"], "an open one stays however old it is");
    assert_eq!(fixture.rows(horizon).await, [format!("{}|2", lane.journal)]);
    let known = fixture.postgres.known_failed(journal).await.expect("rows");
    let closed = ClosedFailed { collection: "t".to_owned(), state: FailedState::Overtaken, sequences: [4, 5, 6].map(seq).to_vec() };
    assert_eq!((known.closed, known.horizon), (vec![closed], seq(2)));
    assert_eq!((forget(0).await, fixture.rows(sequences).await), (numbers(&[4, 5, 6]), vec!["3".to_owned()]));
    lane.write(8, None, &[], &[close(3, FailedState::Overtaken, 8)]).await;
    assert_eq!(forget(0).await, numbers(&[3]));
    assert_eq!(forget(0).await, numbers(&[]));
    assert_eq!(fixture.rows(horizon).await, [format!("{}|6", lane.journal)], "it never goes back");
}

#[tokio::test]
async fn before_there_is_a_table_there_are_none_and_a_table_of_another_version_is_named() {
    let fixture = Fixture::new("").await;
    let journal = Uuid::new_v4();
    assert_eq!(fixture.postgres.known_failed(journal).await, Ok(KnownFailed::default()));
    assert_eq!(fixture.postgres.list_failed(journal, &query(FailedFilter::default())).await, Ok(FailedPage::default()));
    assert_eq!(fixture.postgres.discard_failed(journal, &FailedFilter::default(), &[], "none").await, Ok(Vec::new()));
    assert_eq!(fixture.postgres.forget_failed(journal, 0, seq(8)).await, Ok(Vec::new()));
    fixture.postgres.ensure_schema().await.expect("a schema");
    fixture.database.run("alter table forebay.failed_save drop column closed_note").await.expect("DDL");
    let failure = fixture.postgres.known_failed(journal).await.expect_err("a column is missing");
    assert_eq!(failure.action, Action::Halt);
    assert!(failure.message.contains("closed_note") && failure.remedy.contains("forebay schema"), "{failure}");
}

#[tokio::test]
async fn outcomes_come_with_the_position_and_closed_ones_too() {
    let fixture = Fixture::new("").await;
    let mut lane = fixture.lane(&[]).await;
    lane.fail(&[failed(1), FailedSave { collection: "u".to_owned(), ..failed(2) }, failed(3), failed(5)]).await;
    lane.write(7, None, &[], &[close(1, FailedState::Overtaken, 7)]).await;
    let ask = async |lane: &Lane<'_>, which: Which<'_>| {
        let outcomes = fixture.postgres.outcomes(lane.journal, ("default", lane.owner), which).await.expect("outcomes");
        (outcomes.through.get(), outcomes.failed.iter().map(|failed| failed.sequence.get()).collect::<Vec<_>>())
    };
    assert_eq!(ask(&lane, Which::Of(&[1, 2, 4].map(seq))).await, (7, vec![1, 2]));
    assert_eq!(ask(&lane, Which::Of(&[seq(6)])).await, (7, vec![]), "the position is told where nothing failed");
    let collections = ["t".to_owned()];
    let next = |after, rows_max| Which::Next { after: seq(after), collections: &collections, rows_max };
    assert_eq!(ask(&lane, next(0, 2)).await, (7, vec![1, 3]));
    assert_eq!(ask(&lane, next(3, 2)).await, (7, vec![5]));
    assert_eq!(ask(&lane, next(5, 2)).await, (7, vec![]));
    for (journal, owner) in [(Uuid::new_v4(), lane.owner), (lane.journal, Uuid::new_v4())] {
        let other = fixture.postgres.outcomes(journal, ("default", owner), Which::Of(&[seq(1)])).await;
        assert_eq!(other, Ok(LaneOutcomes::default()), "another journal's, or another daemon's, are none of ours");
    }
}
