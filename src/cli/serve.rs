//! `forebay serve`: the daemon.

use clap::Args;
use forebay::{
    daemon::{self, Listeners, Options},
    dev,
    exit::{Exit, Failure, OrExit},
    logs, open_files,
    settings::Settings,
};
use tempfile::TempDir;

use super::{SettingsArguments, signals};

/// Accepts saves and drains them to Postgres.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Starts a private throwaway Postgres with sample tables, and a journal that goes with it.
    #[arg(long)]
    dev: bool,
    /// Takes the position row over from whoever wrote it last: only when no other daemon has this journal.
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let settings = arguments.settings.load()?;
    super::keep_files_private();
    logs::start(&settings.log).or_exit(Exit::Internal, "start logs")?;
    open_files::allow_connections(settings.grpc.connections_max).or_exit(Exit::Settings, "allow grpc.connections_max")?;
    super::block_on(serve(settings, arguments))
}

async fn serve(mut settings: Settings, arguments: &Arguments) -> Result<Exit, Failure> {
    let stop = signals::stop().or_exit(Exit::Internal, "listen for signals")?;
    let reread = signals::reread().or_exit(Exit::Internal, "listen for signals")?;
    let private = if arguments.dev { Some(Private::start(&mut settings).await?) } else { None };
    if settings.postgres.url.is_none() {
        let error = anyhow::anyhow!("postgres.url is not set: set DATABASE_URL, or try `forebay serve --dev`");
        return Err(Failure { exit: Exit::Settings, error });
    }
    let listeners = Listeners::bind(&settings).await?;
    if let Some(private) = &private {
        private.print(&listeners);
    }
    let options = Options { take_over: arguments.take_over, reread, ..Options::default() };
    let left = daemon::run(settings, listeners, options, stop).await;
    // Before the last line: what follows it in the log would hide it.
    drop(private);
    let left = left.map_err(|failure| failure.during("serve"))?;
    tracing::info!(saves_left = left.saves, objects_left = left.objects, "stopped: what is left is in the journal");
    Ok(Exit::Success)
}

/// What `--dev` starts: a Postgres and a journal that end with the daemon.
struct Private {
    url: String,
    _postgres: forebay::sandbox::Sandbox,
    _journal: TempDir,
}

impl Private {
    async fn start(settings: &mut Settings) -> Result<Self, Failure> {
        let postgres = dev::start().await.or_exit(Exit::Unavailable, "start a private postgres")?;
        let journal = tempfile::Builder::new().prefix("forebay-dev-").tempdir().or_exit(Exit::JournalDirectory, "make a journal")?;
        let url = postgres.url();
        settings.postgres.url = Some(url.clone().into());
        settings.journal.directory = journal.path().join("journal");
        Ok(Self { url, _postgres: postgres, _journal: journal })
    }

    fn print(&self, listeners: &Listeners) {
        let (grpc, http) = listeners.addresses();
        println!("{}", dev::first_steps(&self.url, grpc, http));
    }
}
