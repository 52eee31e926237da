//! The real program, started as a child process, and what the tests ask of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay::proto::{admin_service_client::AdminServiceClient, save_service_client::SaveServiceClient};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};
use tonic::transport::{Channel, Endpoint};

pub(crate) mod audited;
pub(crate) mod command;
mod database;
pub(crate) mod disk;
pub(crate) mod http2;
pub(crate) mod lanes;
pub(crate) mod load;
pub(crate) mod pooler;
pub(crate) mod proxy;
pub(crate) mod receiver;
mod replica;
pub(crate) mod samples;
pub(crate) mod saves;
pub(crate) mod strace;
pub(crate) mod watcher;

pub(crate) use database::{Database, Rows as DatabaseRows, rows as database_rows};
pub(crate) use disk::Disk;
pub(crate) use load::Load;
pub(crate) use replica::{Backup, Replica, hosts};

/// What any daemon may say of a machine that is busy with something else.
const OF_THE_MACHINE: [&str; 2] =
    ["a journal sync was slow", "postgres doesn't answer: starting with the catalog that the journal remembers"];

/// How long anything may take before the test calls it a hang. Never a measure of speed.
pub(crate) const HANG: Duration = Duration::from_secs(180);

/// How to start the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Where its journal lives.
    pub(crate) journal: PathBuf,
    /// `postgres.url`; none leaves it unset.
    pub(crate) url: Option<String>,
    /// `--set` flags, by key.
    pub(crate) sets: BTreeMap<String, String>,
    /// Warnings and errors of the log that the test provokes; all others fail it.
    pub(crate) expected_in_log: Vec<String>,
    /// Other flags of `serve`.
    pub(crate) flags: Vec<String>,
}

impl Setup {
    /// The defaults of the tests: free ports, no window to wait for.
    pub(crate) fn new(journal: &Path, url: &str) -> Self {
        let sets = [
            ("grpc.listen", "127.0.0.1:0"),
            ("http.listen", "127.0.0.1:0"),
            ("log.format", "json"),
            ("lanes.default.window", "0 ms"),
            ("journal.free_bytes_min", "0"),
            ("postgres.allow_fsync_off", "true"),
        ];
        Self {
            journal: journal.to_owned(),
            url: Some(url.to_owned()),
            sets: sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            expected_in_log: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// Changes a setting.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.sets.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A warning or error that this test provokes.
    pub(crate) fn expect_in_log(mut self, message: &str) -> Self {
        self.expected_in_log.push(message.to_owned());
        self
    }

    /// The command line.
    pub(crate) fn command(&self) -> Command {
        let mut command = forebay();
        command.arg("serve").args(&self.flags);
        command.arg("--set").arg(format!("journal.directory={}", self.journal.display()));
        for (key, value) in &self.sets {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        if let Some(url) = &self.url {
            command.env("DATABASE_URL", url);
        }
        command
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) async fn start(&self) -> Daemon {
        let daemon = self.spawn();
        daemon.serving().await;
        daemon
    }

    /// Starts the daemon by way of another program, which takes its command line as arguments and becomes it.
    pub(crate) fn spawn_by(&self, mut launcher: Command) -> Daemon {
        let plain = self.command();
        let plain = plain.as_std();
        launcher.arg(plain.get_program()).args(plain.get_args());
        for (key, value) in plain.get_envs() {
            match value {
                Some(value) => launcher.env(key, value),
                None => launcher.env_remove(key),
            };
        }
        launcher.kill_on_drop(true);
        Daemon::run(launcher, self.expected_in_log.clone())
    }

    /// Starts the daemon and doesn't wait.
    pub(crate) fn spawn(&self) -> Daemon {
        Daemon::run(self.command(), self.expected_in_log.clone())
    }
}

/// The program under test, with nothing of this process's environment that could change it.
pub(crate) fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.stdin(Stdio::null()).kill_on_drop(true).env_remove("DATABASE_URL").env_remove("STATE_DIRECTORY");
    command
}

/// A running daemon. Dropped without [`Daemon::stop`] it is killed.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Log>,
    reader: tokio::task::JoinHandle<()>,
    expected: Vec<String>,
}

/// How a daemon ended.
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its log, a JSON object a line (or the line as text).
    pub(crate) log: Vec<Value>,
}

struct Log {
    lines: Mutex<Vec<Value>>,
    changed: watch::Sender<usize>,
}

impl Log {
    fn push(&self, line: &str) {
        let line = serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()));
        let mut lines = self.lines.lock().expect("no test panics while it holds the log");
        lines.push(line);
        self.changed.send_replace(lines.len());
    }

    fn find(&self, message: &str) -> Option<Value> {
        let lines = self.lines.lock().expect("no test panics while it holds the log");
        lines.iter().find(|line| line["message"] == message).cloned()
    }
}

impl Daemon {
    /// Starts a program that is, or becomes, the daemon.
    pub(crate) fn run(mut command: Command, expected: Vec<String>) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Log { lines: Mutex::default(), changed: watch::Sender::new(0) });
        let writer = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                writer.push(&line);
            }
        });
        Self { child, log, reader, expected }
    }

    /// Waits for a log line.
    pub(crate) async fn logged(&self, message: &str) -> Value {
        let mut changed = self.log.changed.subscribe();
        let wait = async {
            loop {
                if let Some(line) = self.log.find(message) {
                    return line;
                }
                assert!(!self.reader.is_finished(), "{message:?} is not in the log, which has ended: {:#?}", self.lines());
                // The end of the log is no change: look again now and then.
                let _ = tokio::time::timeout(Duration::from_millis(200), changed.changed()).await;
            }
        };
        match tokio::time::timeout(HANG, wait).await {
            Ok(fields) => fields,
            Err(_) => panic!("{message:?} is not in the log: {:#?}", self.lines()),
        }
    }

    /// Waits for a log line that holds this text.
    pub(crate) async fn logged_like(&self, text: &str) {
        eventually(text, || async { self.lines().iter().any(|line| line.to_string().contains(text)).then_some(()) }).await;
    }

    /// Waits until it serves.
    pub(crate) async fn serving(&self) {
        self.logged("serving").await;
    }

    /// Waits until it serves, or until its log ends because it did: whether it serves.
    pub(crate) async fn serves(&self) -> bool {
        eventually("it serves or ends", || async {
            if self.log.find("serving").is_some() { Some(true) } else { self.reader.is_finished().then_some(false) }
        })
        .await
    }

    /// The log so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.lines_from(0)
    }

    /// The same without its first lines.
    pub(crate) fn lines_from(&self, first: usize) -> Vec<Value> {
        self.log.lines.lock().expect("no test panics while it holds the log")[first..].to_vec()
    }

    async fn address(&self, part: &str) -> SocketAddr {
        let fields = self.logged("listening").await;
        fields[part].as_str().and_then(|text| text.parse().ok()).expect("the address is logged")
    }

    /// Where it serves gRPC.
    pub(crate) async fn grpc(&self) -> SocketAddr {
        self.address("grpc").await
    }

    /// Where it serves HTTP.
    pub(crate) async fn http(&self) -> SocketAddr {
        self.address("http").await
    }

    /// A connection to its gRPC port.
    pub(crate) async fn channel(&self) -> Channel {
        channel(self.grpc().await).await
    }

    /// A client of its SaveService.
    pub(crate) async fn client(&self) -> SaveServiceClient<Channel> {
        SaveServiceClient::new(self.channel().await).max_encoding_message_size(64 << 20)
    }

    /// A client of its AdminService.
    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the daemon is ours to signal");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(self) -> Ended {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(self) -> Ended {
        self.signal(rustix::process::Signal::KILL);
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = tokio::time::timeout(HANG, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("the daemon hangs: {:#?}", self.lines())).expect("it can be waited for");
        (&mut self.reader).await.expect("the log is read to its end");
        let ended = Ended { code: status.code(), log: self.lines() };
        ended.has_no_warning_but(&self.expected);
        ended
    }
}

impl Ended {
    /// Every warning and error of the log is one that the test expects, or speaks of the machine that it runs on.
    fn has_no_warning_but(&self, expected: &[String]) {
        let known = |text: &str| expected.iter().map(String::as_str).chain(OF_THE_MACHINE).any(|known| text.contains(known));
        for line in &self.log {
            let loud = matches!(line["level"].as_str(), Some("WARN" | "ERROR")) || line.is_string();
            let text = line.to_string();
            assert!(!loud || known(&text), "unexpected in the log: {text}");
        }
    }

    /// Whether it has logged this.
    pub(crate) fn has_logged(&self, message: &str) -> bool {
        self.log.iter().any(|line| line["message"] == message)
    }

    /// The last log line.
    pub(crate) fn last(&self) -> &Value {
        self.log.last().expect("it has logged something")
    }
}

/// A connection to a gRPC port.
pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await.expect("the daemon listens")
}

/// A directory for a journal.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("forebay-test-").tempdir().expect("a temporary directory")
}

/// A port to come back to: below the ephemeral ones, where a client that tries again and again while nobody listens may connect
/// to itself.
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(free).expect("a port is free")
}

/// The seed of a random test: `FOREBAY_SEED`, or drawn; printed, so that a failure can be replayed.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = number("FOREBAY_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{test}: FOREBAY_SEED={seed}");
    seed
}

/// How often a campaign runs: its variable, or the short number of CI.
pub(crate) fn runs(variable: &str, short: u64) -> u64 {
    number(variable).unwrap_or(short)
}

/// A number from a variable, if that is set.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var_os(variable)?.into_string().expect("a variable of the tests is text");
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Waits until `check` gives something; panics with `what` if it never does.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, wait).await.unwrap_or_else(|_| panic!("never happens: {what}"))
}

/// The body of a GET; panics unless it is answered.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> String {
    http(address, path).await.1
}

/// Status code and body of a GET.
pub(crate) async fn http(address: SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the HTTP port listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is read");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no HTTP: {answer}"));
    (code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A client, if the daemon takes the connection and answers on it.
pub(crate) async fn try_client(address: SocketAddr) -> Option<SaveServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").timeout(Duration::from_secs(2));
    let mut client = SaveServiceClient::new(endpoint.connect().await.ok()?);
    client.list_collections(forebay::proto::ListCollectionsRequest::default()).await.ok()?;
    Some(client)
}
