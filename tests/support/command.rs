//! The program's own command line, asked of a running daemon.

use std::process::Output;

use serde_json::Value;

use super::{Daemon, forebay};

/// `forebay ARGUMENTS`, asked of this daemon.
pub(crate) async fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    let target = daemon.grpc().await.to_string();
    forebay().args(arguments).args(["--target", &target]).output().await.expect("it runs")
}

/// What it printed; panics unless it ended with this code.
pub(crate) async fn cli(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let output = run(daemon, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The same, one JSON object a line.
pub(crate) async fn lines(daemon: &Daemon, arguments: &[&str], code: i32) -> Vec<Value> {
    let text = cli(daemon, arguments, code).await;
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}
