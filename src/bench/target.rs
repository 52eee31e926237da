//! What is measured: a daemon in this process with a private Postgres of its own, or one that runs elsewhere.

use std::net::SocketAddr;

use anyhow::Context;
use tempfile::TempDir;

use super::load;
use crate::{
    daemon,
    sandbox::{Database, Sandbox, SandboxOptions},
    settings::{EndpointSettings, EndpointUrl, Settings},
};

/// The endpoint of a daemon that has one.
pub(super) const ENDPOINT: &str = "nobody";

/// Ends what it started when stopped, or dropped.
#[derive(Debug)]
pub(super) struct Target {
    address: String,
    own: Option<Own>,
}

/// What we started. The daemon goes first.
#[derive(Debug)]
struct Own {
    daemon: daemon::Running,
    postgres: Sandbox,
    journal: TempDir,
}

impl Target {
    /// A daemon of our own, unless there is an address of another.
    pub(super) async fn start(address: Option<&str>) -> anyhow::Result<Self> {
        match address {
            Some(address) => Ok(Self { address: address.to_owned(), own: None }),
            None => Self::start_own("", false).await,
        }
    }

    /// A daemon of our own, whose table was changed by these statements; with [`ENDPOINT`], if wanted.
    pub(super) async fn start_own(changes: &str, with_endpoint: bool) -> anyhow::Result<Self> {
        let postgres = postgres(changes).await?;
        // Beside the working directory: a temporary file system in memory would sync for free.
        let journal = tempfile::Builder::new().prefix(".forebay-bench-").tempdir_in(".").context("make a directory for the journal")?;
        let mut settings = settings(&postgres, &journal);
        if with_endpoint {
            add_endpoint(&mut settings)?;
        }
        let daemon = daemon::start(settings).await.map_err(|failure| failure.during("start the daemon").error)?;
        let address = daemon.grpc_address().to_string();
        Ok(Self { address, own: Some(Own { daemon, postgres, journal }) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Rows of the table in our own Postgres.
    pub(super) async fn rows(&self) -> anyhow::Result<u64> {
        let own = self.own.as_ref().context("the rows of another's Postgres are not ours to count")?;
        let database = Database::connect(&own.postgres.url()).await?;
        let count = database.value(&format!("select count(*) from {}", load::COLLECTION)).await?;
        count.context("count gives a number")?.parse().context("count gives a number")
    }

    /// Stops what we started.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Some(Own { daemon, postgres, journal }) = self.own else { return Ok(()) };
        // What is left of a paused backlog goes with the journal.
        daemon.stop().await.map_err(|failure| failure.during("stop the daemon").error)?;
        drop(postgres);
        journal.close().context("remove the journal")
    }
}

/// A private Postgres with the table of the loads, changed by these statements.
pub(super) async fn postgres(changes: &str) -> anyhow::Result<Sandbox> {
    let postgres = tokio::task::spawn_blocking(|| Sandbox::create(SandboxOptions::default())).await.context("start a private Postgres")?;
    let postgres = postgres.context("start a private Postgres")?;
    Database::connect(&postgres.url()).await?.run(&format!("{}; {changes}", load::SCHEMA)).await.context("make the table")?;
    Ok(postgres)
}

/// Nobody listens there: every attempt fails, and everything is kept to be tried again.
fn add_endpoint(settings: &mut Settings) -> anyhow::Result<()> {
    let url = EndpointUrl::parse("http://127.0.0.1:9/").map_err(anyhow::Error::msg).context("make an endpoint")?;
    let secret = vec!["whsec_Zm9yZWJheSBiZW5jaCBmb3JlYmF5IGJlbmNo".to_owned().into()];
    let endpoint = EndpointSettings { url: Some(url), secret, allow_loopback: true, ..EndpointSettings::default() };
    settings.endpoints.insert(ENDPOINT.to_owned(), endpoint);
    settings.callbacks.pending_max = u64::MAX / 2;
    Ok(())
}

/// The defaults, on free ports, with room for any run.
fn settings(postgres: &Sandbox, journal: &TempDir) -> Settings {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings::default();
    settings.grpc.listen = any;
    settings.http.listen = any;
    settings.journal.directory = journal.path().to_owned();
    settings.postgres.url = Some(postgres.url().into());
    settings.backlog.objects_max = u64::MAX / 2;
    settings.backlog.bytes_max = u64::MAX / 2;
    settings.stop.drain_timeout = std::time::Duration::ZERO;
    settings.log.level = "warn".to_owned();
    settings
}
