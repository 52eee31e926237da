//! How fast saves can be acknowledged on this machine by gRPC and one synced file, with nothing else in the way.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

mod callers;
mod journal;
mod server;

mod proto {
    tonic::include_proto!("ceiling.v1");
}

type Failure = Box<dyn std::error::Error + Send + std::marker::Sync>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The raw limit that `forebay bench save` is measured against.
#[derive(Parser)]
struct Args {
    /// Answer at once, or after the file's fdatasync.
    #[arg(long, value_enum, default_value_t = Sync::Raw)]
    sync: Sync,
    /// One save a call; one save a message of a stream; a hundred saves a message.
    #[arg(long, value_enum, default_value_t = Load::Unary)]
    load: Load,
    /// Callers at once, or streams.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    callers: u64,
    /// How long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Where the file goes: on the disk that the daemon's journal would use.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Sync {
    Echo,
    Raw,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Load {
    Unary,
    Stream,
    Batch,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Stream => "stream",
            Self::Batch => "batch",
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    // Without a name from the start: nothing is left behind, however we end.
    let file = tempfile::tempfile_in(&args.dir)?;
    let address = server::start(journal::start(file, args.sync == Sync::Raw)).await?;
    let result = callers::run(address, args.load, args.callers, Duration::from_secs(args.seconds)).await?;
    let latency = |quantile| match args.load {
        Load::Unary => result.latencies.value_at_quantile(quantile).to_string(),
        Load::Stream | Load::Batch => "null".to_owned(),
    };
    println!(
        r#"{{"load":"{}","callers":{},"saves_per_second":{:.0},"p50_us":{},"p99_us":{}}}"#,
        args.load.name(),
        args.callers,
        result.saves_per_second,
        latency(0.5),
        latency(0.99),
    );
    Ok(())
}
