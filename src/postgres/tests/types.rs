use super::*;

#[tokio::test]
async fn an_assignment_refuses_what_a_cast_would_cut() {
    let fixture = Fixture::new(
        "create domain short as varchar(3); create domain shorter as short check (value <> 'bad');
         create table t (id int4 primary key, a varchar(3), b char(3), c shorter, d bit(3), e varchar(3)[])",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let fits = r#"{"a": "abc", "b": "abc", "c": "abc", "d": "101", "e": ["abc"]}"#;
    lane.apply(&[Set("t", &["1"], fits)]).await.expect("applied");
    for (id, column, sqlstate) in [("1", "a", "22001"), ("2", "a", "22001"), ("1", "b", "22001"), ("1", "c", "22001"), ("1", "d", "22026")]
    {
        let long = format!(r#"{{"{column}": "{}"}}"#, if column == "d" { "1010" } else { "abcd" });
        let failure = lane.refused(&[Set("t", &[id], &long)]).await;
        assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::RowsOwn, Some(sqlstate)), "{column}");
        assert_eq!(failure.collection.as_deref(), Some("t"));
    }
    assert_eq!(lane.refused(&[Set("t", &["1"], r#"{"e": ["abcd"]}"#)]).await.sqlstate.as_deref(), Some("22001"));
    assert_eq!(lane.refused(&[Set("t", &["1"], r#"{"c": "bad"}"#)]).await.sqlstate.as_deref(), Some("23514"));
    // Blanks are cut silently by Postgres itself.
    lane.apply(&[Set("t", &["1"], r#"{"a": "abc   "}"#)]).await.expect("applied");
    assert_eq!(fixture.rows("select * from t").await, ["1|abc|abc|abc|101|{abc}"]);
}

#[tokio::test]
async fn scalars_arrive_to_the_last_digit() {
    let fixture = Fixture::new(
        "create type mood as enum ('sad', 'so so');
         create table t (id uuid primary key, i int8, n numeric, n2 numeric(10, 2), f float8, b bool, x bytea, m mood, ts timestamptz,
            d date, iv interval, ip inet, r int4range, c \"char\", mo money, bp bpchar, o oid, xm xml)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let body = r#"{"i": 9223372036854775807, "n": 12345678901234567890.12345678901234567890, "n2": "1.005", "f": "NaN", "b": true,
        "x": "\\xdeadBEEF", "m": "so so", "ts": "infinity", "d": "2024-02-29", "iv": "1 day 02:03:04.5", "ip": "::1/128", "r": "[1,5)",
        "c": "x", "mo": "12.34", "bp": "ab  ", "o": 4294967295, "xm": "<a/>"}"#;
    lane.apply(&[Set("t", &["00000000-0000-0000-0000-00000000000a"], body)]).await.expect("inserted");
    lane.apply(&[Set("t", &["00000000-0000-0000-0000-00000000000a"], body)]).await.expect("updated");
    let expected = "00000000-0000-0000-0000-00000000000a|9223372036854775807|12345678901234567890.12345678901234567890|1.01|NaN|t|\\xdeadbeef|\
                    so so|infinity|2024-02-29|1 day 02:03:04.5|::1|[1,5)|x|$12.34|ab  |4294967295|<a/>";
    assert_eq!(fixture.rows("select * from t").await, [expected]);
    let failure = lane.refused(&[Set("t", &["00000000-0000-0000-0000-00000000000b"], r#"{"i": 9223372036854775808}"#)]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::RowsOwn, Some("22003")));
}

#[tokio::test]
async fn json_keeps_its_text_and_null_is_sql_null() {
    let fixture = Fixture::new("create table t (id int4 primary key, j json, b jsonb)").await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[
        Set("t", &["1"], r#"{"j": {"z": 1.50, "a": [1, "\u00e9"]}, "b": {"z": 1.50, "a": 12345678901234567890}}"#),
        Set("t", &["2"], r#"{"j": null, "b": "text"}"#),
    ])
    .await
    .expect("applied");
    let expected = [r#"1|{"z": 1.50, "a": [1, "\u00e9"]}|{"a": 12345678901234567890, "z": 1.50}"#, r#"2|NULL|"text""#];
    assert_eq!(fixture.rows("select * from t order by id").await, expected);
}

#[tokio::test]
async fn arrays_and_composites_take_json_or_postgres_syntax() {
    let fixture = Fixture::new(
        "create schema other; create type other.point as (x int4, \"Label\" text);
         create domain tags as text[] check (cardinality(value) < 3);
         create table t (id int4 primary key, a int4[], m numeric[][], p other.point, ps other.point[], g tags)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let body =
        r#"{"a": [1, null, 3], "m": [[1.10, 2], [3, 4]], "p": {"x": 1, "Label": "a, \"b\""}, "ps": [{"x": 2}, null], "g": ["q", "w"]}"#;
    let text = r#"{"a": "{4,5}", "p": "(7,seven)", "g": []}"#;
    let nulls = r#"{"a": null, "m": null, "p": null, "ps": null, "g": null}"#;
    lane.apply(&[Set("t", &["1"], body), Set("t", &["2"], text), Set("t", &["3"], nulls)]).await.expect("inserted");
    lane.apply(&[Set("t", &["3"], body), Set("t", &["1"], nulls)]).await.expect("updated");
    let full = r#"{1,NULL,3}|{{1.10,2},{3,4}}|(1,"a, ""b""")|{"(2,)",NULL}|{q,w}"#;
    let expected = ["1|NULL|NULL|NULL|NULL|NULL".to_owned(), "2|{4,5}|NULL|(7,seven)|NULL|{}".to_owned(), format!("3|{full}")];
    assert_eq!(fixture.rows("select * from t order by id").await, expected);
    let failure = lane.refused(&[Set("t", &["1"], r#"{"g": ["a", "b", "c"]}"#)]).await;
    assert_eq!((failure.sqlstate.as_deref(), failure.constraint.as_deref()), (Some("23514"), Some("tags_check")));
    assert_eq!(lane.refused(&[Set("t", &["1"], r#"{"a": ["x"]}"#)]).await.sqlstate.as_deref(), Some("22P02"));
}

#[tokio::test]
async fn every_key_form_finds_its_row_again() {
    let fixture = Fixture::new(
        "create type mood as enum ('sad', 'so so'); create domain code as varchar(4);
         create table t (a int2, b int4, c int8, d uuid, e bool, f text, g code, h bytea, i date, j timestamp, k timestamptz, l mood,
            m numeric(6, 2), v int4, primary key (a, b, c, d, e, f, g, h, i, j, k, l, m))",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let key = [
        "-1",
        "2",
        "3",
        "00000000-0000-0000-0000-00000000000a",
        "true",
        "t \u{1F600}",
        "abcd",
        "\\x00ff",
        "2024-02-29",
        "2024-02-29 12:00:00.000001",
        "2024-02-29 12:00:00+00",
        "so so",
        "1.50",
    ];
    let written = lane.apply(&[Set("t", &key, r#"{"v": 1}"#)]).await.expect("inserted");
    assert_eq!(written.inserted, 1);
    let written = lane.apply(&[Set("t", &key, r#"{"v": 2}"#)]).await.expect("updated");
    assert_eq!(written.updated, 1);
    let written = lane.apply(&[Delete("t", &key)]).await.expect("deleted");
    assert_eq!(written.deleted, 1);
}

#[tokio::test]
async fn a_value_that_no_longer_fits_its_column_is_the_rows_own_fault() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4, at timestamptz)").await;
    let mut lane = fixture.lane(&[]).await;
    for body in [r#"{"a": [1]}"#, r#"{"at": "tomorrow"}"#] {
        let failure = lane.refused(&[Set("t", &["1"], body)]).await;
        assert_eq!(
            (failure.action, failure.sqlstate.as_deref(), failure.collection.as_deref()),
            (Action::RowsOwn, Some("22P02"), Some("t"))
        );
    }
}
