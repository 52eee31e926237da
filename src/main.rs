//! The program: arguments, then what they ask for, then an exit code.

use std::process::ExitCode;

use clap::Parser;
use forebay::exit::{Exit, Failure};

mod cli;

// The default allocator of musl is slow under threads, and glibc's keeps what a burst took.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let exit = match cli::Cli::try_parse() {
        Ok(cli) => cli.run().unwrap_or_else(|failure| report(&failure)),
        Err(usage) => explain(&usage),
    };
    exit.into()
}

fn report(failure: &Failure) -> Exit {
    eprintln!("error: {failure}");
    failure.exit
}

/// Help and version go to standard output and are no error; everything else clap says is about usage.
fn explain(usage: &clap::Error) -> Exit {
    // Nobody is left to tell if the terminal is gone.
    let _ = usage.print();
    if usage.use_stderr() { Exit::Usage } else { Exit::Success }
}
