//! The programs that measure, found and run.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::{Measured, Program, Subject};
use crate::bench::redis;

/// Where its build puts it, from the root of the checkout.
const CEILING: &str = "benches/ceiling/target/release/ceiling";

const BUILD_CEILING: &str =
    "benches/ceiling isn't built: `cargo build --release --manifest-path benches/ceiling/Cargo.toml`, or name it with `--ceiling`";

pub(super) struct Programs {
    forebay: PathBuf,
    ceiling: Option<PathBuf>,
    has_redis: bool,
}

impl Programs {
    /// Looks for the ceiling, if it isn't given, in the checkout that this program was built in and in the one that we are in.
    pub(super) fn find(ceiling: Option<PathBuf>) -> anyhow::Result<Self> {
        let forebay = env::current_exe().context("find this program")?;
        if let Some(program) = &ceiling {
            ensure!(program.is_file(), "--ceiling: {} is no program", program.display());
        }
        let here = env::current_dir().context("find the working directory")?;
        let ceiling = ceiling.or_else(|| forebay.ancestors().chain(here.ancestors()).find_map(ceiling_below));
        Ok(Self { forebay, ceiling, has_redis: redis::program().is_some() })
    }

    /// What there is to do about a program that is missing.
    pub(super) fn remedy(&self, program: Program) -> Option<&'static str> {
        let missing = match program {
            Program::Forebay => false,
            Program::Redis => !self.has_redis,
            Program::Ceiling => self.ceiling.is_none(),
        };
        missing.then_some(if program == Program::Redis { redis::REMEDY } else { BUILD_CEILING })
    }

    /// Runs a subject once. What it says on stderr is passed on.
    pub(super) async fn measure(&self, subject: &Subject, time: Duration) -> anyhow::Result<Measured> {
        let process = self.command(subject, time).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start it")?;
        let mut ender = Ender(process.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let output = process.wait_with_output().await.context("read what it prints")?;
        ender.0 = None;
        ensure!(output.status.success(), "it ended with {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let measured: Measured = serde_json::from_str(text.lines().last().unwrap_or_default()).context("read what it printed")?;
        ensure!(measured.errors == 0, "{} saves failed, the figures would mislead", measured.errors);
        Ok(measured)
    }

    fn command(&self, subject: &Subject, time: Duration) -> Command {
        let (program, bench): (_, &[_]) = match (subject.program, &self.ceiling) {
            (Program::Ceiling, Some(ceiling)) => (ceiling, &[]),
            _ => (&self.forebay, &["bench"]),
        };
        let mut command = Command::new(program);
        command.args(bench).args(subject.arguments.split_whitespace());
        if subject.program != Program::Ceiling {
            command.arg("--json");
        }
        if subject.is_timed() {
            command.arg("--seconds").arg(time.as_secs().to_string());
        }
        command
    }
}

fn ceiling_below(root: &Path) -> Option<PathBuf> {
    Some(root.join(CEILING)).filter(|program| program.is_file())
}

/// Asks a process to end if we leave before it has: unlike a kill this lets it clean up what it started.
struct Ender(Option<Pid>);

impl Drop for Ender {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // It may have ended at this moment: nobody but us collects it, so its id is no other's.
            let _ = kill_process(id, Signal::TERM);
        }
    }
}
