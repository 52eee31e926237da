//! A private PgBouncer in front of a private Postgres: transaction mode, so that every transaction may meet another connection.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::{Database, directory, eventually};

/// A shell between us and the pooler: it ends with the pipe from us, which the kernel sees to however we end, and then ends the pooler.
const GUARD: &str = r#""$@" & pid=$!; read -r _; kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit 0"#;

/// A running PgBouncer.
pub(crate) struct Pooler {
    directory: TempDir,
    port: u16,
    settings: String,
    guard: Option<Child>,
}

impl Pooler {
    /// Starts one in front of a database that stands alone; `settings` are further lines of its file.
    pub(crate) async fn before(database: &Database, settings: &str) -> Self {
        let directory = directory();
        // Run by root it becomes another user, who reads its file again when told to.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("the directory is ours");
        let mut pooler = Self { directory, port: free_port(), settings: settings.to_owned(), guard: None };
        pooler.write_settings(database);
        pooler.start().await;
        pooler
    }

    /// Where the database is to be found through it.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn url_of(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Ends it as SIGTERM does: every connection breaks, whatever is under way.
    pub(crate) fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().expect("the guard ends");
        }
    }

    /// Starts it again, on the same port.
    pub(crate) async fn start(&mut self) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "forebay-pooler-guard"]).arg(binary()).arg("-q");
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg(self.file()).stdin(Stdio::piped()).stdout(Stdio::null());
        self.guard = Some(command.spawn().expect("a shell starts"));
        let url = self.url_of("pgbouncer");
        eventually("pgbouncer listens", || async { tokio_postgres::connect(&url, NoTls).await.ok().map(drop) }).await;
    }

    /// Leads to another server from the next transaction on; the connections of clients stay.
    pub(crate) async fn lead_to(&self, database: &Database) {
        self.write_settings(database);
        let (console, connection) = tokio_postgres::connect(&self.url_of("pgbouncer"), NoTls).await.expect("the console answers");
        tokio::spawn(connection);
        console.simple_query("reload").await.expect("its file is read again");
    }

    fn write_settings(&self, database: &Database) {
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\nadmin_users = postgres\npool_mode = transaction\n{}\n",
            database.port(),
            self.port,
            self.settings
        );
        fs::write(self.file(), text).expect("its file is written");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("pgbouncer.ini")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where packages put it, or where `tests/run` does.
fn binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), unpacked()]);
    let found = directories.map(|directory| directory.join("pgbouncer")).find(|file| file.is_file());
    found.expect("pgbouncer is installed: tests/run does that")
}

fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pgbouncer/usr/sbin")
}

/// A port to come back to, below the ephemeral ones.
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(free).expect("a port is free")
}
