//! The daemon as a process of its own, for what must kill it or weigh it: this program, `serve`.

use std::{
    collections::VecDeque,
    io,
    net::TcpListener,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::client::{Client, RetryPolicy};

/// It may have millions of saves to recover.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// To see the end of a recovery to within milliseconds.
const POLL_WAIT: Duration = Duration::from_millis(5);
/// A page of metrics, and a figure that a daemon that serves is about to tell.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);
const RECOVERY_SECONDS: &str = "forebay_recovery_seconds";
/// Of what the daemon prints, kept for when it fails.
const LINES_MAX: usize = 20;

/// Killed when dropped; its journal goes with it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    client: Client,
    start: StartOptions,
    lines: Lines,
}

/// The same for every start.
#[derive(Debug)]
struct StartOptions {
    postgres: String,
    grpc: String,
    http: String,
    journal: TempDir,
    settings: Vec<(&'static str, String)>,
}

type Lines = Arc<Mutex<VecDeque<String>>>;

impl Daemon {
    /// Starts it with the default settings and waits until it serves.
    pub(crate) async fn start(postgres: &str) -> anyhow::Result<Self> {
        Self::start_with(postgres, Vec::new()).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(postgres: &str, settings: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        // Beside the working directory: a temporary file system in memory would sync for free.
        let journal = tempfile::Builder::new().prefix(".forebay-child-").tempdir_in(".").context("make a directory for the journal")?;
        let (grpc, http) = (free_address().context("find a free port")?, free_address().context("find a free port")?);
        let start = StartOptions { postgres: postgres.to_owned(), grpc, http, journal, settings };
        let retry = RetryPolicy { wait_min: POLL_WAIT, wait_max: POLL_WAIT, total_max: START_TIMEOUT, ..RetryPolicy::default() };
        let client = Client::builder(&start.grpc).retry(retry).connect_lazy().context("connect to the daemon")?;
        let lines = Lines::default();
        let child = start.spawn(&lines)?;
        let mut daemon = Self { child, client, start, lines };
        daemon.serves().await?;
        Ok(daemon)
    }

    pub(crate) fn address(&self) -> String {
        self.start.grpc.clone()
    }

    /// Where its metrics are.
    pub(crate) fn http(&self) -> &str {
        &self.start.http
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Bytes of memory that it holds.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = self.process()?.status().context("read the daemon's memory")?;
        Ok(status.vmrss.context("the kernel tells no VmRSS")? * 1_024)
    }

    /// Processor time that it took since its start. (Its own metric has whole seconds.)
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = self.process()?.stat().context("read the daemon's processor time")?;
        Ok(Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64))
    }

    fn process(&self) -> anyhow::Result<procfs::process::Process> {
        let id = self.child.id().context("the daemon has ended by itself")?;
        procfs::process::Process::new(id.try_into()?).context("look at the daemon's process")
    }

    /// How long the last start took by the daemon's own account: from opening the journal to accepting saves.
    pub(crate) async fn recovery(&self) -> anyhow::Result<Duration> {
        let told = async {
            loop {
                // It serves a moment before it tells.
                match self.metric(RECOVERY_SECONDS).await?.filter(|&seconds| seconds > 0.0) {
                    Some(seconds) => return anyhow::Ok(Duration::from_secs_f64(seconds)),
                    None => tokio::time::sleep(POLL_WAIT).await,
                }
            }
        };
        timeout(METRICS_TIMEOUT, told).await.context("the daemon doesn't tell its recovery")?
    }

    /// A metric without labels.
    async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let page = self.metrics().await?;
        value_of(name, &page).map(|value| value.parse().with_context(|| format!("{name} is a number"))).transpose()
    }

    /// Its page of metrics.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(&self.start.http).await.context("connect to the daemon's http port")?;
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.start.http);
        stream.write_all(request.as_bytes()).await.context("ask for the daemon's metrics")?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.context("read the daemon's metrics")?;
        Ok(page)
    }

    /// SIGKILL, and a new start at once. How long that took to serve.
    pub(crate) async fn kill_and_start(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().await.context("kill the daemon")?;
        let start = Instant::now();
        self.child = self.start.spawn(&self.lines)?;
        self.serves().await?;
        Ok(start.elapsed())
    }

    /// SIGKILL, and its journal goes too.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the daemon")
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the daemon has ended by itself")?;
        kill_process(id, Signal::TERM).context("stop the daemon")?;
        let status = timeout(STOP_TIMEOUT, self.child.wait()).await.context("the daemon doesn't stop")?.context("stop the daemon")?;
        if status.success() { Ok(()) } else { bail!("the daemon ended with {status}:\n{}", self.said()) }
    }

    /// Waits until it does more than listen: recovery is over, the catalog is known.
    async fn serves(&mut self) -> anyhow::Result<()> {
        let answer = tokio::select! {
            answer = timeout(START_TIMEOUT, self.client.list_collections()) => answer,
            status = self.child.wait() => bail!("the daemon ended with {}:\n{}", status?, said(&self.lines)),
        };
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => bail!("the daemon doesn't serve: {error}\n{}", self.said()),
            Err(_) => bail!("the daemon doesn't serve within {START_TIMEOUT:?}:\n{}", self.said()),
        }
    }

    fn said(&self) -> String {
        said(&self.lines)
    }
}

impl StartOptions {
    fn spawn(&self, lines: &Lines) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        // Settings meant for another daemon must not reach this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY__")) {
            command.env_remove(name);
        }
        command.arg("serve").env("DATABASE_URL", &self.postgres);
        let journal = self.journal.path().display().to_string();
        for (key, value) in [("grpc.listen", &self.grpc), ("http.listen", &self.http), ("journal.directory", &journal)] {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the daemon")?;
        keep(child.stdout.take(), lines);
        keep(child.stderr.take(), lines);
        Ok(child)
    }
}

/// Keeps the last lines of what comes; ends with the process.
fn keep(output: Option<impl AsyncRead + Send + Unpin + 'static>, lines: &Lines) {
    let Some(output) = output else { return };
    let lines = Arc::clone(lines);
    tokio::spawn(async move {
        let mut output = BufReader::new(output).lines();
        while let Ok(Some(line)) = output.next_line().await {
            let mut lines = lines.lock().expect("no holder panics");
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
}

/// The value of a metric, named with all its labels, on a page of them.
pub(crate) fn value_of<'a>(name: &str, page: &'a str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn said(lines: &Lines) -> String {
    lines.lock().expect("no holder panics").make_contiguous().join("\n")
}

/// Below the ephemeral ports: on one of those, a client that tries again and again to reach a killed daemon may end up
/// connected to itself.
pub(crate) fn free_address() -> io::Result<String> {
    const ATTEMPTS: usize = 200;
    (0..ATTEMPTS)
        .map(|_| format!("127.0.0.1:{}", fastrand::u16(20_000..32_000)))
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no port between 20000 and 31999 is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# HELP forebay_ready ...\nforebay_ready_seconds 3\nforebay_ready{lane=\"a\"} 2\nforebay_ready 1\n";
        assert_eq!(value_of("forebay_ready", page), Some("1"));
        assert_eq!(value_of("forebay_ready{lane=\"a\"}", page), Some("2"));
        assert_eq!(value_of("forebay_read", page), None);
    }
}
