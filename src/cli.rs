//! The command line: one file per subcommand; each has its arguments and a `run` that is told by its exit code.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use forebay::{
    exit::{Exit, Failure, OrExit},
    settings::{Loaded, Settings},
};
use tokio::signal::unix::{SignalKind, signal};

mod bench;
mod check;
mod daemon;
mod demo;
mod drain;
mod failed;
mod healthcheck;
mod journal;
mod lane;
mod limit;
mod pause;
mod resume;
mod schema;
mod serve;
mod signals;
mod status;

/// Acknowledges saves in about a millisecond, survives power loss, and writes each object to Postgres once.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Check(check::Arguments),
    Drain(drain::Arguments),
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    Failed(failed::Arguments),
    Healthcheck(healthcheck::Arguments),
    Journal(journal::Arguments),
    Lane(lane::Arguments),
    Limit(limit::Arguments),
    Pause(pause::Arguments),
    Resume(resume::Arguments),
    Schema(schema::Arguments),
    Status(status::Arguments),
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the answer is no, 64 usage, 65 damaged journal, 69 Postgres or the daemon is missing, \
                          70 internal, 73 journal directory, 74 journal I/O, 75 try again (journal locked, drain not empty), 78 settings.";

/// Where settings come from.
#[derive(Args)]
struct SettingsArguments {
    /// Settings file (TOML); every key is in config/forebay.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, as in --set "journal.directory=/var/lib/forebay"; ranks above the file and the environment.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

impl Cli {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        match self.command {
            Command::Serve(arguments) => serve::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Drain(arguments) => drain::run(&arguments),
            Command::Bench(arguments) => bench::run(arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Failed(arguments) => failed::run(&arguments),
            Command::Healthcheck(arguments) => healthcheck::run(&arguments),
            Command::Journal(arguments) => journal::run(&arguments),
            Command::Lane(arguments) => lane::run(&arguments),
            Command::Limit(arguments) => limit::run(&arguments),
            Command::Pause(arguments) => pause::run(&arguments),
            Command::Resume(arguments) => resume::run(&arguments),
            Command::Schema(arguments) => schema::run(&arguments),
            Command::Status(arguments) => status::run(&arguments),
        }
    }
}

/// What this process makes is its owner's alone: the journal holds rows, and the store makes its files as the mask says.
fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Runs what waits. A thread that hangs in a disk is left behind: waiting for it would keep the process from ending.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Internal, "start runtime")?;
    let ended = runtime.block_on(future);
    runtime.shutdown_background();
    ended
}

impl SettingsArguments {
    fn load(&self) -> Result<Settings, Failure> {
        self.load_with_origins().map(|loaded| loaded.settings)
    }

    fn load_with_origins(&self) -> Result<Loaded, Failure> {
        Loaded::load(self.config.as_deref(), environment(), &self.sets).or_exit(Exit::Settings, "read settings")
    }
}

/// Runs a tool that starts things of its own, which end with it: also when a signal asks us to leave.
fn run_to_end<T>(tool: impl Future<Output = anyhow::Result<T>>, act: &'static str) -> Result<T, Failure> {
    block_on(async {
        let mut terminate = signal(SignalKind::terminate()).or_exit(Exit::Internal, "listen for signals")?;
        tokio::select! {
            done = tool => done.or_exit(Exit::Internal, act),
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")).or_exit(Exit::No, act),
            _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")).or_exit(Exit::No, act),
        }
    })
}

/// The process environment. What isn't Unicode is no name of ours; as a value it shows its odd places.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// Where a daemon of this host that listens there is reached: "every interface" is not an address to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_interface_is_reached_by_loopback() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(reachable(at("0.0.0.0:7420")), at("127.0.0.1:7420"));
        assert_eq!(reachable(at("[::]:7420")), at("[::1]:7420"));
        assert_eq!(reachable(at("10.1.2.3:7420")), at("10.1.2.3:7420"));
    }
}
