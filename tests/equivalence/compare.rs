//! The rows of all tables, and how two sets of them differ.

use std::fmt::Write;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::schema::{APPEND_ORDER, TABLES};

/// Of each table of [`TABLES`] its rows as JSON: by key, those of append tables in the order in which they were inserted.
pub(super) type Rows = Vec<Vec<String>>;

/// What is in `public`.
pub(super) async fn rows(client: &Client) -> Rows {
    let queries = TABLES
        .iter()
        .map(|table| format!("select to_jsonb(t) - '{APPEND_ORDER}' from public.{} t order by {};", table.name, table.order()));
    let messages = client.simple_query(&queries.collect::<String>()).await.expect("the tables can be read");
    let mut tables = vec![Vec::new()];
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => tables.last_mut().expect("it is never empty").push(row.get(0).expect("a row").to_owned()),
            SimpleQueryMessage::CommandComplete(_) => tables.push(Vec::new()),
            _ => {}
        }
    }
    tables.truncate(TABLES.len());
    tables
}

/// The rows that only one side has; `None` if both have the same.
pub(super) fn difference(direct: &Rows, forebay: &Rows) -> Option<String> {
    let mut text = String::new();
    for (table, (direct, forebay)) in TABLES.iter().zip(direct.iter().zip(forebay)) {
        for (side, only) in [("directly", without(direct, forebay)), ("forebay ", without(forebay, direct))] {
            only.iter().for_each(|row| writeln!(text, "    {side} {} {row}", table.name).expect("text grows"));
        }
        if without(direct, forebay).is_empty() && without(forebay, direct).is_empty() && direct != forebay {
            writeln!(text, "    order of {}:\n    directly {direct:?}\n    forebay  {forebay:?}", table.name).expect("text grows");
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Rows of `these` that are not in `those`, each as often as it is missing.
fn without<'r>(these: &'r [String], those: &[String]) -> Vec<&'r String> {
    let mut those: Vec<_> = those.iter().collect();
    let mut missing = Vec::new();
    for row in these {
        match those.iter().position(|&other| other == row) {
            Some(at) => drop(those.swap_remove(at)),
            None => missing.push(row),
        }
    }
    missing
}

#[test]
fn a_row_that_is_missing_doubled_or_out_of_order_is_a_difference() {
    let tables = |rows: &[&str]| -> Rows { TABLES.iter().map(|_| rows.iter().map(|&row| row.to_owned()).collect()).collect() };
    assert_eq!(difference(&tables(&["a", "b"]), &tables(&["a", "b"])), None);
    for (direct, forebay, told) in [(&["a", "b"][..], &["a"][..], "directly guilds b"), (&["a"], &["a", "a"], "forebay  guilds a")] {
        let difference = difference(&tables(direct), &tables(forebay)).expect("they differ");
        assert!(difference.contains(told), "{difference}");
    }
    assert!(difference(&tables(&["a", "b"]), &tables(&["b", "a"])).is_some_and(|text| text.contains("order of guilds")));
}
