//! `forebay journal`: a journal that no daemon has open.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use forebay::{
    daemon,
    exit::{Exit, Failure, OrExit},
    journal::{self, OpenError, Report, Salvaged, Scope},
};

/// Looks into a journal that no daemon has open, and saves what is left of a damaged one.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Reads all of it and says what is wrong, if anything is. Changes nothing. Exits 0 if it is sound, else 65.
    Verify {
        /// Its directory.
        journal: PathBuf,
    },
    /// Prints every save it holds, in order, a JSON object a line. Bodies are data of yours: mind where they go.
    Export {
        /// Its directory.
        journal: PathBuf,
    },
    /// Writes everything that verifies into a new journal, and says what is lost. The old one stays as it is.
    Salvage {
        /// The damaged journal's directory.
        journal: PathBuf,
        /// The new journal's directory.
        into: PathBuf,
        /// Saves that are in Postgres, too: for a database that was itself put back in time.
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.action {
        Action::Verify { journal } => {
            let report = journal::verify(journal).map_err(|error| failure(error, "verify"))?;
            print!("{}", verified(&report));
            Ok(if report.is_sound() { Exit::Success } else { Exit::DamagedJournal })
        }
        Action::Export { journal } => {
            let mut out = BufWriter::new(io::stdout().lock());
            let saves = journal::export(journal, &mut out).map_err(|error| failure(error, "export"))?;
            out.flush().or_exit(Exit::Internal, "write")?;
            eprintln!("{saves} saves");
            Ok(Exit::Success)
        }
        Action::Salvage { journal, into, all } => {
            let scope = if *all { Scope::All } else { Scope::Unsettled };
            let salvaged = journal::salvage(journal, into, scope).map_err(|error| failure(error, "salvage"))?;
            print!("{}", told(&salvaged));
            Ok(Exit::Success)
        }
    }
}

fn verified(report: &Report) -> String {
    let verdict = if report.is_sound() { "sound" } else { "damaged: `forebay journal salvage` saves what verifies" };
    format!("{report}\n{verdict}\n")
}

fn told(salvaged: &Salvaged) -> String {
    let Salvaged { saves, settled, lost, journal } = salvaged;
    let mut text = format!("{saves} saves are in the new journal {journal}; {settled} were left out, as Postgres holds them\n");
    for (first, last) in lost {
        text.push_str(&format!("lost: sequences {first} to {last}\n"));
    }
    text
}

fn failure(error: OpenError, act: &'static str) -> Failure {
    daemon::journal_failure(error).during(act)
}
