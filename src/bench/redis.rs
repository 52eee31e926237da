//! What write-behind on top of Redis rests on: SET with the append-only file synced before every answer, by a `redis-server` of our
//! own, if the system has one.
//!
//! Redis has acknowledged then, and nothing is in Postgres yet: what remains to be built behind it isn't measured.

use std::{
    env, fs,
    ops::Range,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    Load, RivalReport, load,
    rival::{self, Calls, Connection},
};
use crate::{child::free_address, sandbox::Guard};

const PROGRAM: &str = "redis-server";
/// What to do without it.
pub(super) const REMEDY: &str = "no `redis-server` on PATH: install it, e.g. `apt-get install redis-server`";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A run of `forebay bench redis`.
#[derive(Clone, Copy, Debug)]
pub struct RedisOptions {
    /// Connections, each waiting for its answers.
    pub connections: usize,
    /// What is saved: its key and its body.
    pub load: Load,
    /// SETs that one write sends before their answers are awaited.
    pub pipeline: u64,
    /// How long.
    pub time: Duration,
}

/// Saves the load into a Redis of our own.
///
/// # Errors
/// No `redis-server`, or an answer other than OK.
pub async fn redis(options: RedisOptions) -> anyhow::Result<RivalReport> {
    ensure!(options.connections > 0, "--connections is 0: nobody would save");
    ensure!(options.pipeline > 0, "--pipeline is 0: nothing would be saved");
    let server = Server::start().await?;
    let mut connections = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        connections.push(Writer::connect(&server.address, options.load).await.context("connect to Redis")?);
    }
    rival::run(connections, Calls { load: options.load, saves_per_call: options.pipeline, time: options.time }).await
}

/// Where the program is, if there is one.
pub(super) fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(PROGRAM)).find(|program| program.is_file())
}

/// Ends when dropped, or (the guard) with us; its directory goes with it.
struct Server {
    process: Child,
    guard: Guard,
    address: String,
    directory: TempDir,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let program = program().context(REMEDY)?;
        let address = free_address().context("find a free port")?;
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        // Where Forebay's journal would be: a temporary file system in memory would sync for free.
        let directory = tempfile::Builder::new().prefix(".forebay-redis-").tempdir_in(".").context("make a directory for Redis")?;
        let directory_path = fs::canonicalize(directory.path()).context("find the directory of Redis")?;
        let mut guard = Guard::spawn(&directory_path, None).context("start the guard of Redis")?;
        let mut command = Command::new(program);
        command.args(["--bind", host, "--port", port, "--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command.arg("--dir").arg(&directory_path).args(["--logfile", "log"]);
        // A Ctrl-C meant for us must not stop it under us.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("start Redis")?;
        guard.watch(process.id());
        let mut server = Self { process, guard, address, directory };
        server.answers().await?;
        Ok(server)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            if let Some(status) = self.process.try_wait().context("watch Redis")? {
                bail!("Redis ended with {status}:\n{}", self.log());
            }
            ensure!(start.elapsed() < START_TIMEOUT, "Redis doesn't answer within {START_TIMEOUT:?}:\n{}", self.log());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is kept: a kill is as good as a stop. One that has ended by itself can't be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.guard.forget();
    }
}

struct Writer {
    stream: BufReader<TcpStream>,
    load: Load,
    /// Commands on their way out, and a line of what came.
    commands: Vec<u8>,
    line: Vec<u8>,
}

impl Writer {
    async fn connect(address: &str, load: Load) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), load, commands: Vec::new(), line: Vec::new() })
    }
}

impl Connection for Writer {
    async fn save(&mut self, saves: Range<u64>) -> anyhow::Result<()> {
        self.commands.clear();
        for n in saves.clone() {
            let key = format!("{}:{}", load::COLLECTION, self.load.key(n));
            encode(&[b"SET", key.as_bytes(), &load::body(n)], &mut self.commands);
        }
        self.stream.write_all(&self.commands).await.context("write to Redis")?;
        for _ in saves {
            self.line.clear();
            self.stream.read_until(b'\n', &mut self.line).await.context("read from Redis")?;
            accepted(&self.line)?;
        }
        Ok(())
    }
}

/// A command in Redis' protocol: an array of strings, each after its length.
fn encode(parts: &[&[u8]], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        into.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        into.extend_from_slice(part);
        into.extend_from_slice(b"\r\n");
    }
}

/// Whether a line is the answer to a SET that is on disk.
fn accepted(line: &[u8]) -> anyhow::Result<()> {
    match line {
        b"+OK\r\n" => Ok(()),
        [] => bail!("Redis closed the connection"),
        other => bail!("Redis answers {}", String::from_utf8_lossy(other).trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut bytes = Vec::new();
        encode(&[b"SET", b"players:7", b"{\r\n}"], &mut bytes);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$9\r\nplayers:7\r\n$4\r\n{\r\n}\r\n");
    }

    #[test]
    fn only_ok_says_that_a_save_is_on_disk() {
        assert!(accepted(b"+OK\r\n").is_ok());
        for (line, told) in [
            (&b"-MISCONF disk full\r\n"[..], "Redis answers -MISCONF disk full"),
            (b"+OK", "Redis answers +OK"),
            (b"+QUEUED\r\n", "Redis answers +QUEUED"),
            (b"", "Redis closed the connection"),
        ] {
            assert_eq!(accepted(line).expect_err("no OK").to_string(), told);
        }
    }

    /// The answers come in pieces that end anywhere.
    #[tokio::test]
    async fn every_save_of_a_pipeline_needs_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let redis = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let expected = 3 * "*3\r\n$3\r\nSET\r\n$9\r\nplayers:0\r\n$300\r\n\r\n".len() + 900 + "919".len() + "838".len() - 2;
            stream.read_exact(&mut vec![0; expected]).await.expect("three commands");
            for piece in ["+O", "K\r\n+OK\r", "\n-no\r\n"] {
                stream.write_all(piece.as_bytes()).await.expect("written");
                stream.flush().await.expect("sent");
            }
        });
        let mut writer = Writer::connect(&address, Load::Hot).await.expect("a connection");
        assert_eq!(writer.save(0..3).await.expect_err("the third was refused").to_string(), "Redis answers -no");
        redis.await.expect("it was asked three times");
    }
}
