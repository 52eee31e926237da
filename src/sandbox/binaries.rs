//! Where the system keeps the server's programs.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{SandboxError, User};

/// The directory of one version's programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    /// Debian's and the PGDG packages' layout.
    const VERSIONS: &str = "/usr/lib/postgresql";

    /// What `pg_config` names, else the newest version of Debian's layout, else `PATH`.
    pub(super) fn find() -> Result<Self, SandboxError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let candidates = configured().into_iter().chain(newest_first(Path::new(Self::VERSIONS))).chain(env::split_paths(&path));
        candidates
            .into_iter()
            .find(|directory| has_server(directory))
            .map(Self)
            .ok_or_else(|| SandboxError::NoBinaries { looked_at: format!("pg_config --bindir, {}/*/bin, PATH", Self::VERSIONS) })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    /// A program of it, ready to run as `user`, deaf to the terminal: a Ctrl-C meant for us must not stop it under us.
    pub(super) fn command(&self, program: &str, user: Option<User>) -> Command {
        let mut command = Command::new(self.0.join(program));
        // Settings meant for another server (PGPORT, PGDATA, ...) and a locale that isn't installed must not reach it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn newest_first(versions: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))).collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// Followed through links: `initdb` looks for its files beside the real program.
fn has_server(directory: &Path) -> bool {
    directory.join("initdb").is_file() && directory.join("postgres").is_file()
}
