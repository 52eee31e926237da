use super::*;

const WHOLE: PageSize = PageSize { rows_max: 1_000, bytes_max: 1 << 20 };

impl Lane<'_> {
    fn row(&self) -> LaneRow {
        LaneRow { journal: self.journal, lane: "default".into(), owner: self.owner }
    }

    async fn read_page(&self, name: &str, range: &KeyRange, size: PageSize) -> Rows {
        let collection = self.collections.named(name).expect("a collection");
        self.fixture.postgres.rows_by_range(&self.row(), collection, range, size).await.expect("rows")
    }

    async fn read_keys(&self, name: &str, keys: &[Key], range: &KeyRange, size: PageSize) -> Rows {
        let collection = self.collections.named(name).expect("a collection");
        self.fixture.postgres.rows_by_keys(&self.row(), collection, (keys, range), size).await.expect("rows")
    }
}

fn keys<const N: usize>(keys: [&[&str]; N]) -> Vec<Key> {
    keys.iter().map(|parts| Key::from_parts(parts.iter().copied())).collect()
}

fn told(rows: &Rows) -> Vec<(Vec<&str>, Option<&str>)> {
    rows.rows.iter().map(|row| (row.key.parts().collect(), row.json.as_deref())).collect()
}

#[tokio::test]
async fn rows_come_with_the_position_of_their_moment() {
    let fixture = Fixture::new("create table t (id int4 primary key, a text, n int4 default 7, s bigserial)").await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["1"], r#"{"a": "x"}"#), Set("t", &["2"], r#"{"a": null}"#)]).await.expect("applied");
    let rows = lane.read_keys("t", &keys([&["2"], &["3"], &["1"]]), &KeyRange::default(), WHOLE).await;
    assert_eq!((rows.position, rows.keys_done, rows.more), (lane.position, 3, false));
    assert_eq!(rows.defaulted, ["n", "s"]);
    let expected =
        [(vec!["2"], Some(r#"{"id":2,"a":null,"n":7,"s":2}"#)), (vec!["3"], None), (vec!["1"], Some(r#"{"id":1,"a":"x","n":7,"s":1}"#))];
    assert_eq!(told(&rows), expected);
    let none = lane.read_page("t", &KeyRange { from: keys([&["9"]]).pop(), ..KeyRange::default() }, WHOLE).await;
    assert_eq!((none.position, none.rows, none.more), (lane.position, Vec::new(), false));
}

#[tokio::test]
async fn a_range_is_read_page_by_page_in_the_order_of_postgres() {
    let fixture = Fixture::new("create table t (a text collate \"C\", b int4, v text, primary key (a, b))").await;
    let mut lane = fixture.lane(&[]).await;
    fixture
        .database
        .run("insert into t select x, n, repeat('v', 10) from unnest(array['b', 'B', 'a']) x, generate_series(1, 4) n")
        .await
        .expect("rows");
    lane.apply(&[]).await.expect("nothing");
    let mut range = KeyRange { from: keys([&["B", "2"]]).pop(), to: keys([&["b", "1"]]).pop(), after: None };
    let mut found = Vec::new();
    loop {
        let page = lane.read_page("t", &range, PageSize { rows_max: 3, bytes_max: 1 << 20 }).await;
        found.extend(page.rows.iter().map(|row| row.key.parts().collect::<Vec<_>>().join("")));
        range.after = page.rows.last().map(|row| row.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(found, ["B2", "B3", "B4", "a1", "a2", "a3", "a4", "b1"]);
    let wanted = keys([&["a", "9"], &["A", "1"], &["b", "1"], &["b", "2"]]);
    let inside = lane.read_keys("t", &wanted, &KeyRange { after: None, ..range }, WHOLE).await;
    assert_eq!(told(&inside).into_iter().map(|(key, _)| key.join("")).collect::<Vec<_>>(), ["a9", "b1"]);
}

#[tokio::test]
async fn a_page_holds_no_more_bytes_than_it_may_but_at_least_a_row() {
    let fixture = Fixture::new("create table t (id int4 primary key, v text)").await;
    let mut lane = fixture.lane(&[]).await;
    fixture.database.run("insert into t select n, repeat('v', 1000) from generate_series(1, 10) n").await.expect("rows");
    lane.apply(&[]).await.expect("nothing");
    for (bytes_max, rows) in [(1, 1), (2_500, 2), (1 << 20, 10)] {
        let size = PageSize { rows_max: 100, bytes_max };
        let page = lane.read_page("t", &KeyRange::default(), size).await;
        assert_eq!((page.rows.len(), page.more), (rows, rows < 10), "{bytes_max}");
        let wanted: Vec<_> = (1..=10).map(|n: i32| Key::from_parts([n.to_string().as_str()])).collect();
        let page = lane.read_keys("t", &wanted, &KeyRange::default(), size).await;
        assert_eq!((page.rows.len(), page.keys_done), (rows, rows), "{bytes_max}");
    }
}

#[tokio::test]
async fn a_position_row_that_is_not_ours_tells_nothing() {
    let fixture = Fixture::new("create table t (id int4 primary key)").await;
    let lane = fixture.lane(&[]).await;
    let collection = lane.collections.named("t").expect("a collection");
    let ask = async |row: LaneRow| fixture.postgres.rows_by_range(&row, collection, &KeyRange::default(), WHOLE).await;
    let other = ask(LaneRow { owner: Uuid::new_v4(), ..lane.row() }).await;
    assert!(matches!(other, Err(RowsError::Position(why)) if why.contains("another")), "{other:?}");
    let missing = ask(LaneRow { lane: "second".into(), ..lane.row() }).await;
    assert_eq!(missing, Err(RowsError::Position("missing")));
    fixture.database.run("alter table t rename to u").await.expect("renamed");
    let gone = ask(lane.row()).await.expect_err("there is no such table");
    assert!(gone.may_be_outdated(), "{gone}");
    fixture.database.run("alter table u rename to t").await.expect("renamed");
    ask(lane.row()).await.expect("the connection still works");
    assert_eq!(fixture.postgres.readers(), 1);
}

#[tokio::test]
async fn every_key_form_is_read_back_as_it_is_and_printed_alike() {
    let fixture = Fixture::new(
        "create type mood as enum ('sad', 'so so'); create domain code as varchar(4); create domain humour as mood;
         create table t (a int2, b int4, c int8, d uuid, e bool, f text, g code, h bytea, i date, j timestamp, k timestamptz, l mood,
            m numeric(6, 2), n humour, primary key (a, b, c, d, e, f, g, h, i, j, k, l, m, n))",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let id = "00000000-0000-0000-0000-00000000000a";
    let first = [
        "-1",
        "2",
        "3",
        id,
        "true",
        "t \"\u{1F600}",
        "abcd",
        "\\x00ff",
        "2024-02-29",
        "2024-02-29 12:00:00.000001",
        "2024-02-29 12:00:00.5+00",
        "so so",
        "1.50",
        "sad",
    ];
    let last =
        ["-1", "2", "3", id, "true", "t \"\u{1F600}", "abcd", "\\x00ff", "infinity", "infinity", "-infinity", "sad", "-0.05", "so so"];
    lane.apply(&[Set("t", &first, "{}"), Set("t", &last, "{}")]).await.expect("applied");
    let wanted = keys([&last, &first]);
    let rows = lane.read_keys("t", &wanted, &KeyRange::default(), WHOLE).await;
    let collection = lane.collections.named("t").expect("a collection");
    for row in &rows.rows {
        let parts = collection.key_columns().zip(row.key.parts());
        let members = parts.map(|(column, part)| (column.name.as_str(), column.key_form.as_ref().expect("a form").json(part)));
        assert_eq!(row.json.as_deref(), Some(Body::of_members(0, members).as_str()));
    }
    let page = lane.read_page("t", &KeyRange { after: Some(wanted[1].clone()), ..KeyRange::default() }, WHOLE).await;
    assert_eq!(page.rows.iter().map(|row| &row.key).collect::<Vec<_>>(), [&wanted[0]], "its keys are canonical");
}

#[tokio::test]
async fn a_page_comes_through_the_index_and_nothing_is_sorted_for_it() {
    let fixture =
        Fixture::new("create type mood as enum ('sad', 'glad'); create table t (a text, b mood, c int8, v text, primary key (a, b, c))")
            .await;
    let lane = fixture.lane(&[]).await;
    fixture
        .database
        .run("insert into t select 'a' || n % 7, 'sad', n, 'x' from generate_series(1, 5000) n; analyze t")
        .await
        .expect("rows");
    let collection = lane.collections.named("t").expect("a collection");
    let range = KeyRange { from: None, to: keys([&["a9", "glad", "9"]]).pop(), after: keys([&["a3", "sad", "9"]]).pop() };
    let plan = crate::postgres::rows::explain(&fixture.postgres, &lane.row(), collection, &range).await;
    // The one at the end is of the page's rows, which come sorted.
    let below = plan.split("CTE r").nth(1).and_then(|plan| plan.split("Nested Loop").next()).unwrap_or(&plan).to_owned();
    assert!(plan.contains("Index Scan") && plan.contains("t_pkey"), "{plan}");
    assert!(!below.contains("Sort"), "{plan}");
}

#[tokio::test]
async fn columns_named_like_what_our_statements_name_are_read() {
    let fixture =
        Fixture::new("create table t (u int4, c1 text, t text, p text, r text, x text, n text, json text, place text, k1 text, o1 text, primary key (u, c1))")
            .await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["1", "a"], r#"{"t": "T", "p": "P", "n": "N", "json": "J", "k1": "K"}"#)]).await.expect("applied");
    let json = r#"{"u":1,"c1":"a","t":"T","p":"P","r":null,"x":null,"n":"N","json":"J","place":null,"k1":"K","o1":null}"#;
    let range = KeyRange { from: keys([&["1", "a"]]).pop(), to: keys([&["2", "b"]]).pop(), after: None };
    let rows = lane.read_keys("t", &keys([&["1", "a"], &["1", "b"]]), &range, WHOLE).await;
    assert_eq!(told(&rows), [(vec!["1", "a"], Some(json)), (vec!["1", "b"], None)]);
    assert_eq!(told(&lane.read_page("t", &range, WHOLE).await), [(vec!["1", "a"], Some(json))]);
}

#[tokio::test]
async fn keys_are_in_a_range_by_the_collation_of_their_column() {
    let fixture = Fixture::new(
        "create type mood as enum ('sad', 'glad'); create domain humour as mood;
         create table t (a text collate \"en-x-icu\", b humour, primary key (a, b))",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["B", "sad"], "{}")]).await.expect("applied");
    let range = KeyRange { from: keys([&["a", "sad"]]).pop(), to: keys([&["Z", "glad"]]).pop(), after: None };
    // Under the collation a < A < b < B < Z < Zz; of the type, sad < glad. Only one of them has a row.
    let wanted =
        keys([&["B", "sad"], &["b", "sad"], &["X", "glad"], &["a", "glad"], &["A", "sad"], &["Z", "glad"], &["Zz", "sad"], &["1", "glad"]]);
    let inside = lane.read_keys("t", &wanted, &range, WHOLE).await;
    assert_eq!(inside.rows.iter().map(|row| &row.key).collect::<Vec<_>>(), wanted[..6].iter().collect::<Vec<_>>());
    assert_eq!(lane.read_page("t", &range, WHOLE).await.rows.iter().map(|row| &row.key).collect::<Vec<_>>(), [&wanted[0]]);
}
