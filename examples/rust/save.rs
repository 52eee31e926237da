//! Saves to the sample tables of `forebay serve --dev`: `cargo run --example save [HOST:PORT]`.

use std::time::Duration;

use forebay::client::{Client, Error, Save};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7420".to_owned());
    let client = Client::connect(target).await?;
    one_by_one(&client).await?;
    a_batch(&client).await?;
    a_stream(&client).await?;
    let through = client.flush(&[], Duration::from_secs(60)).await?;
    println!("Postgres holds everything through {through}");
    Ok(())
}

/// Durable when `save` returns. Each save awaits the one before: so they are in order.
async fn one_by_one(client: &Client) -> Result<(), Error> {
    let ticket = client.save(Save::set("guilds", ["3"], r#"{"name": "The Third"}"#)).await?;
    println!("guild 3: {ticket}");
    let ticket = client.save(Save::set("players", ["7"], r#"{"name": "Bo", "guild_id": 3}"#)).await?;
    println!("player 7: {ticket}");
    // A save that can't be accepted says what is wrong with it.
    match client.save(Save::set("players", ["8"], r#"{"nam": "Cy"}"#)).await {
        Err(Error::Refused(answer)) => println!("player 8 is refused: {answer}"),
        other => println!("player 8: {other:?}"),
    }
    Ok(())
}

/// One sync for all of them and, as it is atomic, one transaction.
async fn a_batch(client: &Client) -> Result<(), Error> {
    let items = ["sword", "shield", "lamp"].iter().enumerate();
    let saves = items.map(|(slot, kind)| Save::set("items", ["7".to_owned(), slot.to_string()], format!(r#"{{"kind": "{kind}"}}"#)));
    for ticket in client.save_batch(saves, true).await? {
        println!("item: {ticket}");
    }
    Ok(())
}

/// Many in flight, in order, and sent again after a broken connection without being saved twice.
async fn a_stream(client: &Client) -> Result<(), Error> {
    let stream = client.save_stream();
    for level in 1..=1_000 {
        stream.send(Save::set("players", ["7"], format!(r#"{{"level": {level}}}"#))).await?;
    }
    stream.send(Save::delete("items", ["7", "2"])).await?;
    let finished = stream.finish().await?;
    println!("stream: {} saves answered, {} not saved", finished.through, finished.not_saved.len());
    Ok(())
}
