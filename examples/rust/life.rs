//! A server that keeps its state in memory: loads it at start, changes it, saves it later and stops. On the sample tables of
//! `forebay serve --dev`: `cargo run --example life [HOST:PORT]`.

use std::{collections::HashMap, time::Duration};

use forebay::client::{Client, Durability, Error, LaterOptions, LoadOptions, Save, SaveLater, SaveOptions, TicketState};

const PATIENCE: Duration = Duration::from_secs(30);

/// Players by key, each a row as JSON.
type Players = HashMap<String, String>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7420".to_owned());
    let client = Client::connect(target).await?;
    sign_up(&client).await?;
    let mut players = load(&client).await?;
    let later = client.save_later(LaterOptions::default().on_not_saved(|not_saved| eprintln!("{not_saved}")));
    play(&mut players, &later).await;
    pay(&client).await?;
    read(&client).await?;
    stop(later).await;
    let through = client.flush(&[], PATIENCE).await?;
    println!("Postgres holds everything through {through}");
    Ok(())
}

/// Durable when they return; a ticket tells later what became of a save.
async fn sign_up(client: &Client) -> Result<(), Error> {
    let guild = client.save(Save::set("guilds", ["3"], r#"{"name": "The Third"}"#)).await?;
    println!("the guild is {:?} now", client.ticket(&guild).await?.state);
    let ann = Save::set("players", ["7"], r#"{"name": "Ann", "guild_id": 3}"#);
    let sword = Save::set("items", ["7", "1"], r#"{"kind": "sword"}"#);
    for ticket in client.save_batch([ann, sword], true).await? {
        println!("{ticket}: {:?}", client.await_ticket(&ticket, PATIENCE).await?.state);
    }
    // No such guild: accepted, and then Postgres won't take it.
    let lost = client.save(Save::set("players", ["8"], r#"{"name": "Bo", "guild_id": 4}"#)).await?;
    let status = client.await_ticket(&lost, PATIENCE).await?;
    if let (TicketState::Failed, Some(failure)) = (status.state, status.failure) {
        println!("{lost} failed: {failure}");
    }
    Ok(())
}

/// At start: never older than what was acknowledged before, whether it is in Postgres yet or not.
async fn load(client: &Client) -> Result<Players, Error> {
    let (mut players, mut load) = (Players::new(), client.load("players", LoadOptions::default()));
    while let Some(row) = load.next().await? {
        // A row may come twice: the later one counts.
        let key = row.key.join("/");
        match row.object {
            Some(object) => players.insert(key, String::from_utf8_lossy(&object.json).into_owned()),
            None => players.remove(&key),
        };
    }
    println!("loaded {} players of about {}", players.len(), load.progress().rows_estimated);
    Ok(players)
}

/// Changes in memory go into the queue and on: nobody waits for the disk, unless the queue is full.
async fn play(players: &mut Players, later: &SaveLater) {
    for level in 2..=1_000 {
        for (key, player) in &mut *players {
            *player = format!(r#"{{"level": {level}}}"#);
            if let Err(not_saved) = later.send(Save::set("players", [key.as_str()], player.clone())).await {
                eprintln!("{not_saved}");
            }
        }
    }
}

/// What must not be told before it is in Postgres, and must not count twice.
async fn pay(client: &Client) -> Result<(), Error> {
    let gold = Save::set("players", ["7"], r#"{"gold": 7.50}"#).adding(["gold"]);
    let options = SaveOptions { durability: Durability::Persisted, request_id: "payment 1".to_owned(), ..SaveOptions::default() };
    match client.save_with(gold, options).await {
        Ok(saved) => println!("the payment is {:?}", saved.state),
        Err(Error::Failed(failed)) => println!("{} failed: {}", failed.ticket, failed.failure),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// One's own saves are seen at once.
async fn read(client: &Client) -> Result<(), Error> {
    client.save(Save::set("guilds", ["3"], r#"{"motto": "ours"}"#)).await?;
    match client.get("guilds", ["3"]).await? {
        Some(guild) => println!("guild 3, pending {}: {}", guild.pending, String::from_utf8_lossy(&guild.json)),
        None => println!("there is no guild 3"),
    }
    Ok(())
}

/// What waits is sent; what could not be saved is given back, to be written to a file, say.
async fn stop(later: SaveLater) {
    for not_saved in later.close(PATIENCE).await {
        eprintln!("{not_saved}");
    }
}
