//! Asking a running daemon: its address, and a client that gives up soon.

use std::{future::Future, time::Duration};

use clap::Args;
use forebay::{
    client::{Client, Error},
    exit::{Exit, Failure, OrExit},
};

use super::{SettingsArguments, reachable};

/// A person waits: a daemon of this host answers in milliseconds or not at all.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which daemon.
#[derive(Args)]
pub(super) struct DaemonArguments {
    /// Its gRPC address; without it the one that the settings say.
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
    #[command(flatten)]
    settings: SettingsArguments,
}

impl DaemonArguments {
    /// What the daemon answers to one call.
    pub(super) fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        act: &'static str,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        self.ask_within(CALL_TIMEOUT, act, call)
    }

    /// The same, each call of which may take so long.
    pub(super) fn ask_within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        call_timeout: Duration,
        act: &'static str,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => reachable(self.settings.load()?.grpc.listen).to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Internal, "start runtime")?;
        runtime.block_on(async {
            let builder = Client::builder(&target).connect_timeout(CALL_TIMEOUT).call_timeout(call_timeout);
            let client = builder.connect().await.or_exit(Exit::Unavailable, "connect to the daemon")?;
            call(client).await.map_err(|error| Failure { exit: exit_of(&error), error: anyhow::Error::new(error).context(act) })
        })
    }
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Refused(_) | Error::Failed(_) | Error::Blocked(_) => Exit::No,
        Error::Busy(_) => Exit::TryAgain,
        Error::Unavailable(_) | Error::OutcomeUnknown(_) => Exit::Unavailable,
    }
}
