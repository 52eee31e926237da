//! `forebay drain`: a journal whose host is gone, written to Postgres.

use std::path::PathBuf;

use clap::Args;
use forebay::{
    daemon::{self, Options},
    exit::{Exit, Failure, OrExit},
    logs,
};

use super::{SettingsArguments, signals};

/// Recovers a journal, accepts nothing, and writes all of it to Postgres. Exits 0 when Postgres says that it holds
/// everything, else 75.
#[derive(Args)]
pub(super) struct Arguments {
    /// The journal's directory.
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    #[command(flatten)]
    settings: SettingsArguments,
    /// Takes the position row over from whoever wrote it last.
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut settings = arguments.settings.load()?;
    settings.journal.directory.clone_from(&arguments.journal);
    super::keep_files_private();
    logs::start(&settings.log).or_exit(Exit::Internal, "start logs")?;
    let left = super::block_on(async {
        let stop = signals::stop().or_exit(Exit::Internal, "listen for signals")?;
        let options = Options { take_over: arguments.take_over, ..Options::default() };
        daemon::drain(settings, options, stop).await.map_err(|failure| failure.during("drain"))
    })?;
    tracing::info!(saves_left = left.saves, objects_left = left.objects, "drained: what is left is in the journal");
    Ok(if left.drained { Exit::Success } else { Exit::TryAgain })
}
