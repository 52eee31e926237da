//! `forebay serve --dev`: a private throwaway Postgres with sample tables, and a first save to copy.

use std::net::SocketAddr;

use crate::sandbox::{Database, Sandbox, SandboxError, SandboxOptions};

/// Sample tables: enough to see keys, foreign keys, partial sets and an append collection at work.
pub const TABLES: &str = "
    create table guilds (id int primary key, name text not null, motto text default 'none yet');
    create table players (
        id bigint primary key,
        guild_id int references guilds (id),
        name text not null,
        level int not null default 1,
        gold numeric(20, 2) not null default 0,
        seen timestamptz,
        extra jsonb
    );
    create table items (player_id bigint references players (id), slot int, kind text not null, primary key (player_id, slot));
    insert into guilds (id, name) values (1, 'The First');
";

/// A private Postgres with the sample tables; it ends with the value.
///
/// # Errors
/// No server binaries, or they don't start.
pub async fn start() -> Result<Sandbox, SandboxError> {
    let sandbox = tokio::task::spawn_blocking(|| Sandbox::create(SandboxOptions::default())).await.expect("starting doesn't panic")?;
    Database::connect(&sandbox.url()).await?.run(TABLES).await?;
    Ok(sandbox)
}

/// What to do first, to copy.
pub fn first_steps(url: &str, grpc: SocketAddr, http: SocketAddr) -> String {
    format!(
        "
a throwaway Postgres with the tables guilds, players and items:
  psql {url}

a first save, in Python (pip install grpcio protobuf; in examples/python):
  python3 -c 'import forebay; forebay.Client(\"{grpc}\").save(\"players\", 42, {{\"name\": \"Ann\", \"guild_id\": 1}})'
  psql {url} -c 'select * from players'

what it does:
  forebay status --target {grpc}
  curl http://{http}/metrics

Ctrl-C ends all of it.
"
    )
}
