//! Reading one object and loading many.

use super::*;
use crate::proto::{self, GetResponse, LoadResponse};

/// A page that ends at its last row.
fn page(keys: &[&str], rows_loaded: u64) -> Result<LoadResponse, Status> {
    let row = |key: &&str| proto::LoadedRow { key: vec![(*key).to_owned()], json: Some(b"{}".to_vec()), ..Default::default() };
    let resume_token = (*keys.last().expect("a row")).to_owned();
    Ok(LoadResponse { rows: keys.iter().map(row).collect(), resume_token, rows_loaded, rows_estimated: 100 })
}

fn away() -> Result<LoadResponse, Status> {
    Err(error(Code::Unavailable, "POSTGRES_UNAVAILABLE", None))
}

async fn keys(load: &mut Load, rows: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < rows {
        match load.next().await.expect("loaded") {
            Some(row) => keys.push(row.key.concat()),
            None => break,
        }
    }
    keys
}

#[tokio::test]
async fn an_object_is_read_as_it_will_be() {
    let fake = Fake::start().await;
    let unknown_columns = vec!["level".to_owned()];
    let there = GetResponse { found: true, json: br#"{"name":"Ann"}"#.to_vec(), pending: true, unknown_columns: unknown_columns.clone() };
    fake.state().objects.insert("42".to_owned(), there);
    let client = client(fake.address).await;
    let object = client.get("players", ["42"]).await.expect("read").expect("there");
    assert_eq!(object, Object { json: r#"{"name":"Ann"}"#.into(), pending: true, unknown_columns });
    assert_eq!(client.get("players", ["43"]).await.expect("read"), None);
}

#[tokio::test]
async fn a_load_goes_on_after_breaks_and_counts_all_of_it() {
    let fake = Fake::start().await;
    fake.state().loads = VecDeque::from([vec![page(&["1", "2"], 2), page(&["3"], 3), away()], vec![away()], vec![page(&["4", "5"], 2)]]);
    let mut load = client(fake.address).await.load("players", LoadOptions { page_size: 2, ..LoadOptions::default() });
    assert_eq!(keys(&mut load, 9).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(load.progress(), Progress { rows_loaded: 5, rows_estimated: 100 });
    assert_eq!(fake.state().resumed_from, ["", "3", "3"]);
    assert_eq!(load.next().await.expect("it has ended"), None);
}

#[tokio::test]
async fn a_load_can_be_taken_up_without_missing_a_row() {
    let fake = Fake::start().await;
    fake.state().loads = VecDeque::from([vec![page(&["1", "2"], 2), page(&["3", "4"], 4)]]);
    let mut load = client(fake.address).await.load("players", LoadOptions { resume_token: "0".to_owned(), ..LoadOptions::default() });
    let mut tokens = vec![load.resume_token().to_owned()];
    while load.next().await.expect("loaded").is_some() {
        tokens.push(load.resume_token().to_owned());
    }
    assert_eq!(tokens, ["0", "0", "2", "2", "4"]);
}

#[tokio::test]
async fn a_row_that_is_gone_is_told_without_an_object() {
    let fake = Fake::start().await;
    let gone = proto::LoadedRow { key: vec!["1".to_owned()], pending: true, ..Default::default() };
    fake.state().loads = VecDeque::from([vec![Ok(LoadResponse { rows: vec![gone], ..Default::default() })]]);
    let rows: Vec<_> = client(fake.address).await.load("players", LoadOptions::default()).into_stream().collect().await;
    let rows: Vec<_> = rows.into_iter().map(|row| row.expect("loaded")).collect();
    assert_eq!(rows, [LoadedRow { key: vec!["1".to_owned()], object: None }]);
}

#[tokio::test]
async fn a_load_that_is_refused_ends_with_the_reason() {
    let fake = Fake::start().await;
    fake.state().errors = VecDeque::from([error(Code::InvalidArgument, "INVALID_REQUEST", None)]);
    let mut load = client(fake.address).await.load("log", LoadOptions::default());
    assert!(matches!(load.next().await, Err(Error::Refused(_))));
}
