//! A database of its own for each test, and a server of its own for those that stop it.

use std::{
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay::sandbox::{Sandbox, SandboxOptions, StopMode};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The server of all tests that leave it alone. Its guard ends it after this process.
static SHARED: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::create(quick()).expect("a private Postgres starts"));

/// Without fsync: these tests kill the daemon, never the disk under Postgres. The daemon is told that this is meant.
fn quick() -> SandboxOptions {
    SandboxOptions { fsync: false, ..SandboxOptions::default() }
}

/// A database that one test uses.
pub(crate) struct Database {
    url: String,
    own: Option<Sandbox>,
}

/// Rows as text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

impl Database {
    /// A database in the shared server, with `schema` in it.
    pub(crate) async fn with(schema: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let sandbox = tokio::task::block_in_place(|| &*SHARED);
        let url = sandbox.create_database(&name).await.expect("a database is made");
        let database = Self { url, own: None };
        database.execute(schema).await;
        database
    }

    /// A database in a server of its own, which the test may stop.
    pub(crate) async fn alone(schema: &str) -> Self {
        Self::alone_with(schema, &[]).await
    }

    /// The same with settings of the server's.
    pub(crate) async fn alone_with(schema: &str, settings: &[(&str, String)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let options = SandboxOptions { settings, ..quick() };
        let sandbox = tokio::task::block_in_place(|| Sandbox::create(options)).expect("a private Postgres starts");
        let database = Self { url: sandbox.url(), own: Some(sandbox) };
        database.execute(schema).await;
        database
    }

    /// The database `postgres` of a server of its own.
    pub(super) fn of(sandbox: Sandbox) -> Self {
        Self { url: sandbox.url(), own: Some(sandbox) }
    }

    /// The server of a database that stands alone.
    pub(super) fn sandbox(&self) -> &Sandbox {
        self.own.as_ref().expect("only a database that stands alone is copied")
    }

    /// The port of the server.
    pub(crate) fn port(&self) -> u16 {
        self.sandbox().port()
    }

    /// The server's files.
    pub(crate) fn data_directory(&self) -> PathBuf {
        self.sandbox().data_directory()
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The same database for another role.
    pub(crate) fn url_as(&self, role: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").expect("a url");
        let (_, host) = rest.split_once('@').expect("a url with a user");
        format!("{scheme}://{role}@{host}")
    }

    fn server(&mut self) -> &mut Sandbox {
        self.own.as_mut().expect("only a database that stands alone is stopped")
    }

    /// Stops the server as a crash would.
    pub(crate) fn stop_postgres(&mut self) {
        tokio::task::block_in_place(|| self.server().stop(StopMode::Immediate)).expect("Postgres stops");
    }

    /// Stops the server as an administrator would: sessions are ended, everything is written.
    pub(crate) fn shut_postgres_down(&mut self) {
        tokio::task::block_in_place(|| self.server().stop(StopMode::Fast)).expect("Postgres stops");
    }

    /// SIGKILL to the postmaster.
    pub(crate) fn kill_postgres(&mut self) {
        tokio::task::block_in_place(|| self.server().kill()).expect("Postgres is killed");
    }

    /// Starts it again, on the same port.
    pub(crate) fn start_postgres(&mut self) {
        tokio::task::block_in_place(|| self.server().start()).expect("Postgres starts");
    }

    /// A connection.
    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.expect("the server takes connections");
        tokio::spawn(connection);
        client
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.expect("the statements run");
    }

    /// Runs a query; values as text.
    pub(crate) async fn rows(&self, sql: &str) -> Rows {
        let messages = self.client().await.simple_query(sql).await.expect("the query runs");
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
            _ => None,
        });
        rows.collect()
    }

    /// A query of one row and column, as a number.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        let rows = self.rows(sql).await;
        rows[0][0].as_ref().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{sql}: {rows:?}"))
    }
}

/// Rows as the tests write them: `None` is NULL.
pub(crate) fn rows<const C: usize, const R: usize>(rows: [[Option<&str>; C]; R]) -> Rows {
    rows.iter().map(|row| row.iter().map(|value| value.map(str::to_owned)).collect()).collect()
}
