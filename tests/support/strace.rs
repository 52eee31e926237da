//! The daemon under strace, which watches its system calls, delays them, or lets them fail.

use std::{fs, path::Path, time::Duration};

use tokio::process::Command;

use super::{Daemon, Setup};

/// Starts the daemon under strace with these options; `-D` keeps the daemon our child, with its exit code. What is traced
/// goes to `trace`, with the paths of file descriptors.
pub(crate) fn spawn(setup: &Setup, trace: &Path, options: &[&str]) -> Daemon {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-y", "-qq"]).args(options).arg("-o").arg(trace);
    setup.spawn_by(strace)
}

/// Starts the daemon with every fdatasync returning so much later, and waits until it serves.
pub(crate) async fn with_slow_syncs(setup: &Setup, delay: Duration, trace: &Path) -> Daemon {
    let delay = format!("inject=fdatasync:delay_exit={}", delay.as_micros());
    let daemon = spawn(setup, trace, &["-e", "trace=fdatasync", "-e", &delay]);
    daemon.serving().await;
    daemon
}

/// Ends the strace of a daemon, which goes on without it.
pub(crate) fn let_go(daemon: &Daemon) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it has not been waited for");
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok()).filter(|&pid| pid > 0);
    let tracer = tracer.and_then(rustix::process::Pid::from_raw).expect("it is traced");
    rustix::process::kill_process(tracer, rustix::process::Signal::KILL).expect("strace is ours");
}
