//! The private Postgres of `serve --dev`, `demo`, `bench` and the tests: a throwaway cluster made from the server binaries
//! that the system has.
//!
//! It lives in a temporary directory of its own, listens on loopback only and trusts every connection. It never touches a
//! cluster that is already there. It ends with us, whatever ends us: dropping it stops it, and a guard process (a shell
//! that reads a pipe of ours) does so when we are killed, or leave without dropping (a static in a test binary).
//!
//! Everything here blocks, for up to a few seconds; [`Database`] alone is async. In async code use
//! `tokio::task::spawn_blocking` where that matters.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

mod binaries;
mod database;
mod guard;
mod user;

pub use database::Database;
pub(crate) use guard::Guard;
pub use tokio_postgres::{Statement, types::ToSql};

use self::{binaries::Binaries, user::User};

/// How a sandbox is made.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The server's `fsync`; without it (tests) a commit costs nothing, and `full_page_writes` is off too.
    pub fsync: bool,
    /// The port to listen on; without it a free one.
    pub port: Option<u16>,
    /// Further lines of `postgresql.conf`, name and value.
    pub settings: Vec<(String, String)>,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self { fsync: true, port: None, settings: Vec::new() }
    }
}

/// Why there is no private Postgres. `Display` says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The system has no server binaries.
    #[error("no Postgres server binaries found (looked at {looked_at}): install them, e.g. `apt-get install postgresql`")]
    NoBinaries {
        /// Where they were looked for.
        looked_at: String,
    },
    /// We are root, Postgres refuses to run as root, and there is no one else to run it as.
    #[error("Postgres refuses to run as root and this system has neither a user `postgres` nor `nobody`: start as another user")]
    NoUser,
    /// A file or process of the sandbox.
    #[error("{act}: {source}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` or the server ended with an error.
    #[error("{program} failed ({status}):\n{output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// The server didn't accept connections in time.
    #[error("the private Postgres did not become ready within {waited:?}:\n{output}")]
    NotReady {
        /// How long we waited.
        waited: Duration,
        /// The end of its log.
        output: String,
    },
    /// A statement of [`Database`].
    #[error("{0}")]
    Sql(String),
}

impl SandboxError {
    fn io(act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }
}

/// How a running sandbox is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// As a crash that Postgres notices: no checkpoint, the next start recovers.
    Immediate,
}

/// A private Postgres, running from [`Sandbox::create`] until it is stopped or dropped.
#[derive(Debug)]
pub struct Sandbox {
    binaries: Binaries,
    user: Option<User>,
    port: u16,
    server: Option<Child>,
    // Fields drop in this order: the guard is told to go before the directory is removed.
    guard: Guard,
    directory: TempDir,
}

impl Sandbox {
    const READY_TIMEOUT: Duration = Duration::from_secs(60);
    const STOP_TIMEOUT: Duration = Duration::from_secs(30);
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    /// Another process may take a free port before we do.
    const PORT_ATTEMPTS: usize = 8;

    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn create(options: SandboxOptions) -> Result<Self, SandboxError> {
        let mut sandbox = Self::empty()?;
        sandbox.initialize(&options)?;
        sandbox.start_on_free_port(options.port)?;
        Ok(sandbox)
    }

    /// What `postgres --version` says of the server that would run.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn version() -> Result<String, SandboxError> {
        let output = Binaries::find()?.command("postgres", None).arg("--version").output();
        let output = output.map_err(SandboxError::io("run a program of Postgres"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A copy of a running server as it is now, not started: a standby that will follow it, or a backup that stands for itself.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn copy_of(origin: &Self, standby: bool) -> Result<Self, SandboxError> {
        let sandbox = Self::empty()?;
        let mut command = sandbox.binaries.command("pg_basebackup", sandbox.user);
        command.args(["--dbname", &origin.url(), "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(sandbox.data_directory());
        command.args(standby.then_some("--write-recovery-conf")).current_dir(sandbox.directory.path());
        Self::run_to_end("pg_basebackup", command)?;
        // The last line of a name counts: the origin's socket is not ours.
        let settings = format!("unix_socket_directories = '{}'\n", sandbox.socket_directory().display());
        let file = fs::OpenOptions::new().append(true).open(sandbox.settings_file());
        let appended = file.and_then(|mut file| io::Write::write_all(&mut file, settings.as_bytes()));
        appended.map_err(SandboxError::io("write the settings of the private Postgres"))?;
        Ok(sandbox)
    }

    /// Starts a copy for the first time: on this port, or a free one.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn start_on(&mut self, port: Option<u16>) -> Result<(), SandboxError> {
        self.start_on_free_port(port)
    }

    /// A directory and its guard.
    fn empty() -> Result<Self, SandboxError> {
        let binaries = Binaries::find()?;
        let user = User::unprivileged()?;
        let directory = tempfile::Builder::new().prefix("forebay-sandbox-").tempdir();
        let directory = directory.map_err(SandboxError::io("make a directory for the private Postgres"))?;
        if let Some(user) = user {
            user.own(directory.path()).map_err(SandboxError::io("hand the directory to the user that runs Postgres"))?;
        }
        let guard = Guard::spawn(directory.path(), user).map_err(SandboxError::io("start the guard of the private Postgres"))?;
        Ok(Self { binaries, user, port: 0, server: None, guard, directory })
    }

    /// The connection URL of the database `postgres`, as superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The connection URL of a database, as superuser.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port; the same after every start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the unix socket.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of the server's programs (`psql`, `pg_basebackup`, ...).
    pub fn binaries(&self) -> &Path {
        self.binaries.directory()
    }

    /// The cluster's data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The postmaster's process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// A new, empty database; `name` is a plain identifier. Gives its URL.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn create_database(&self, name: &str) -> Result<String, SandboxError> {
        let maintenance = Database::connect(&self.url()).await?;
        maintenance.run(&format!("create database \"{name}\"")).await?;
        Ok(self.url_of(name))
    }

    /// Starts the server again, on the same port. Nothing to do if it runs.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn start(&mut self) -> Result<(), SandboxError> {
        if self.server.is_some() {
            return Ok(());
        }
        let mut command = self.binaries.command("postgres", self.user);
        command.arg("-D").arg(self.data_directory()).args(["-p", &self.port.to_string()]).current_dir(self.directory.path());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).and_then(|log| Ok((log.try_clone()?, log)));
        let (output, errors) = log.map_err(SandboxError::io("open the log of the private Postgres"))?;
        let server = command.stdout(output).stderr(errors).spawn().map_err(SandboxError::io("start the private Postgres"))?;
        self.guard.watch(server.id());
        self.server = Some(server);
        self.await_ready()
    }

    /// Stops the server and waits for its end. Nothing to do if it doesn't run.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn stop(&mut self, mode: StopMode) -> Result<(), SandboxError> {
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        self.end_with(signal)
    }

    /// Kills the postmaster with SIGKILL; its children end themselves when they notice. [`Sandbox::start`] recovers.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn kill(&mut self) -> Result<(), SandboxError> {
        self.end_with(Signal::KILL)
    }

    /// Stops the server as a crash would and starts it again.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn crash_restart(&mut self) -> Result<(), SandboxError> {
        self.stop(StopMode::Immediate)?;
        self.start()
    }

    fn initialize(&self, options: &SandboxOptions) -> Result<(), SandboxError> {
        let mut command = self.binaries.command("initdb", self.user);
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"]);
        command.arg(self.data_directory()).current_dir(self.directory.path());
        Self::run_to_end("initdb", command)?;
        fs::write(self.settings_file(), self.configuration(options)).map_err(SandboxError::io("write the settings of the private Postgres"))
    }

    fn run_to_end(program: &'static str, mut command: Command) -> Result<(), SandboxError> {
        let output = command.output().map_err(SandboxError::io("run a program of Postgres"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Err(SandboxError::Program { program, status: output.status, output: text })
    }

    fn settings_file(&self) -> PathBuf {
        self.data_directory().join("postgresql.auto.conf")
    }

    fn configuration(&self, options: &SandboxOptions) -> String {
        let on = if options.fsync { "on" } else { "off" };
        let mut lines = vec![
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("unix_socket_directories".to_owned(), self.socket_directory().display().to_string()),
            ("fsync".to_owned(), on.to_owned()),
            ("full_page_writes".to_owned(), on.to_owned()),
        ];
        lines.extend(options.settings.iter().cloned());
        lines.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }

    fn start_on_free_port(&mut self, wanted: Option<u16>) -> Result<(), SandboxError> {
        let mut last = None;
        for _ in 0..Self::PORT_ATTEMPTS {
            self.port = match wanted {
                Some(port) => port,
                None => free_port().map_err(SandboxError::io("find a free port"))?,
            };
            match self.start() {
                Err(error @ SandboxError::Program { .. }) if wanted.is_none() => last = Some(error),
                other => return other,
            }
        }
        Err(last.expect("at least one attempt was made"))
    }

    /// The server writes `ready` into its pid file when it accepts connections (as `pg_ctl` waits for).
    fn await_ready(&mut self) -> Result<(), SandboxError> {
        let begun = Instant::now();
        loop {
            let server = self.server.as_mut().expect("just started");
            if let Some(status) = server.try_wait().map_err(SandboxError::io("watch the private Postgres"))? {
                self.server = None;
                self.guard.forget();
                return Err(SandboxError::Program { program: "postgres", status, output: self.log_end() });
            }
            if self.is_ready() {
                return Ok(());
            }
            if begun.elapsed() > Self::READY_TIMEOUT {
                return Err(SandboxError::NotReady { waited: begun.elapsed(), output: self.log_end() });
            }
            std::thread::sleep(Self::POLL_INTERVAL);
        }
    }

    fn is_ready(&self) -> bool {
        let Ok(file) = fs::read_to_string(self.data_directory().join("postmaster.pid")) else { return false };
        let mut lines = file.lines();
        let ours = self.process_id().map(|id| id.to_string());
        lines.next().map(str::to_owned) == ours && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    fn end_with(&mut self, signal: Signal) -> Result<(), SandboxError> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let act = "stop the private Postgres";
        if let Some(id) = Pid::from_raw(server.id().cast_signed()) {
            // Not a group: the postmaster passes the word on.
            kill_process(id, signal).map_err(|errno| SandboxError::Io { act, source: errno.into() })?;
        }
        let begun = Instant::now();
        while server.try_wait().map_err(SandboxError::io(act))?.is_none() {
            if begun.elapsed() > Self::STOP_TIMEOUT {
                server.kill().map_err(SandboxError::io(act))?;
            }
            std::thread::sleep(Self::POLL_INTERVAL);
        }
        self.server = None;
        self.guard.forget();
        if signal == Signal::KILL { self.await_orphans() } else { Ok(()) }
    }

    /// A server can't start while backends of a killed one still hold its shared memory: waits until the last has let go of
    /// the data directory.
    fn await_orphans(&self) -> Result<(), SandboxError> {
        let begun = Instant::now();
        let data = self.data_directory();
        while begun.elapsed() < Self::STOP_TIMEOUT {
            let processes = fs::read_dir("/proc").map_err(SandboxError::io("list processes"))?;
            let lives_in_it = |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
            if !processes.flatten().any(lives_in_it) {
                return Ok(());
            }
            std::thread::sleep(Self::POLL_INTERVAL);
        }
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The last lines that the server wrote.
    fn log_end(&self) -> String {
        const LINES: usize = 20;
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Nothing is left to recover: the directory goes with it. What can't be stopped here is the guard's.
        let _ = self.stop(StopMode::Immediate);
    }
}

/// A free port below the ephemeral ones: on an ephemeral port, a client that tries again and again to reach the stopped
/// server ends up connected to itself.
fn free_port() -> io::Result<u16> {
    const ATTEMPTS: usize = 200;
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port between 20000 and 31999 is free"))
}

#[cfg(test)]
mod tests;
