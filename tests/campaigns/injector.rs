//! The daemon with `injector.c` below it: the n-th call of a kind on its journal fails.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use crate::support::{Daemon, Setup, strace};

use super::shim;

/// Kinds of calls that the injector knows; names as strace has them, of several alike the first.
pub(super) const CALLS: [&str; 12] = [
    "openat",
    "write",
    "pwrite64",
    "copy_file_range",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "unlink",
    "ftruncate",
    "mkdir",
    "fallocate",
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The process ends in front of it.
    Kill,
    Eio,
    Enospc,
    /// A write takes half of what it is given.
    Short,
}

/// The n-th call of a kind, or all from the n-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) call: &'static str,
    pub(super) kind: Kind,
    pub(super) persistent: bool,
    pub(super) nth: u64,
}

impl Fault {
    /// What is tried at every call of a kind: each error once and for good.
    pub(super) fn all(call: &'static str, nth: u64) -> impl Iterator<Item = Self> {
        let kinds = [(Kind::Kill, false), (Kind::Eio, false), (Kind::Eio, true), (Kind::Enospc, false), (Kind::Enospc, true)];
        let short = [(Kind::Short, false), (Kind::Short, true)];
        let short = short.into_iter().filter(move |_| matches!(call, "write" | "pwrite64" | "copy_file_range"));
        kinds.into_iter().chain(short).map(move |(kind, persistent)| Self { call, kind, persistent, nth })
    }

    /// Whether a journal can't go on after it (P8).
    pub(super) fn is_of_sync(self) -> bool {
        matches!(self.call, "fsync" | "fdatasync" | "sync_file_range") && matches!(self.kind, Kind::Eio | Kind::Enospc)
    }
}

/// The shared object, made once.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| shim::compile("injector"));

/// One start of the daemon with an injector.
pub(super) struct Injector {
    report: PathBuf,
}

impl Injector {
    /// The injector writes down what it has met in this file.
    pub(super) fn new(report: PathBuf) -> Self {
        Self { report }
    }

    /// Starts the daemon, to meet this fault.
    pub(super) fn spawn(&self, setup: &Setup, fault: Option<Fault>) -> Daemon {
        let mut launcher = tokio::process::Command::new("env");
        launcher.args(self.variables(&setup.journal, fault));
        setup.spawn_by(launcher)
    }

    /// Starts it to count calls, under a strace that writes them down.
    pub(super) fn spawn_traced(&self, setup: &Setup, trace: &Path) -> Daemon {
        let variables: Vec<_> = self.variables(&setup.journal, None).into_iter().flat_map(|pair| ["-E".to_owned(), pair]).collect();
        let mut options = vec!["-e", "trace=file,desc,process", "-s", "0"];
        options.extend(variables.iter().map(String::as_str));
        strace::spawn(setup, trace, &options)
    }

    fn variables(&self, journal: &Path, fault: Option<Fault>) -> Vec<String> {
        let mut variables = vec![
            format!("LD_PRELOAD={}", LIBRARY.display()),
            format!("FAULTS_DIRECTORY={}", journal.display()),
            format!("FAULTS_REPORT={}", self.report.display()),
        ];
        if let Some(Fault { call, kind, persistent, nth }) = fault {
            variables.extend([format!("FAULTS_CALL={call}"), format!("FAULTS_KIND={}", kind.name()), format!("FAULTS_NTH={nth}")]);
            variables.extend(persistent.then(|| "FAULTS_PERSISTENT=1".to_owned()));
        }
        variables
    }

    /// When the fault was met, if it was.
    pub(super) fn met(&self) -> Option<SystemTime> {
        let millis = self.lines().iter().find_map(|line| line.strip_prefix("met ")?.parse().ok())?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// How many calls of each kind there were until an orderly end.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let lines = self.lines();
        let count = |call: &str| lines.iter().find_map(|line| line.strip_prefix(call)?.strip_prefix(' ')?.parse().ok());
        CALLS.into_iter().map(|call| (call, count(call).unwrap_or_else(|| panic!("no count of {call}: {lines:?}")))).collect()
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.report).expect("the injector reports");
        text.lines().map(str::to_owned).collect()
    }
}

impl Kind {
    const ALL: [Self; 4] = [Self::Kill, Self::Eio, Self::Enospc, Self::Short];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Eio => "EIO",
            Self::Enospc => "ENOSPC",
            Self::Short => "SHORT",
        }
    }
}

/// `CALL/KIND/N`, with a `+` behind it if all later ones fail too.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}{}", self.call, self.kind.name(), self.nth, if self.persistent { "+" } else { "" })
    }
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [call, kind, nth] = text.split('/').collect::<Vec<_>>().try_into().map_err(drop)?;
        Ok(Self {
            call: CALLS.into_iter().find(|known| *known == call).ok_or(())?,
            kind: Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or(())?,
            persistent: nth.ends_with('+'),
            nth: nth.trim_end_matches('+').parse().map_err(drop)?,
        })
    }
}

#[test]
fn a_fault_is_found_again_by_its_name() {
    for fault in CALLS.into_iter().flat_map(|call| Fault::all(call, 17)) {
        assert_eq!(fault.to_string().parse(), Ok(fault));
    }
    assert_eq!("pwrite64/EIO".parse::<Fault>(), Err(()));
}
