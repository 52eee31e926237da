//! What is wrong with settings: where it was read, which key, what is wrong with it and what helps.

use std::{fmt, path::PathBuf};

/// Where a value was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the settings file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Counted from 1; 0 if the file itself is the trouble.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// `--set`
    Flag,
    /// Several values together: none is wrong by itself.
    Together,
}

/// One thing that is wrong. Never holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The key, as `section.key`; empty if the trouble is not about one key.
    pub key: String,
    /// What is wrong and what helps.
    pub text: String,
}

/// Settings that can't be used, with every reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str("--set"),
            Self::Together => f.write_str("together"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.as_str()) {
            (Origin::Together, _) => f.write_str(&self.text),
            (origin, "") => write!(f, "{origin}: {}", self.text),
            (origin, key) => write!(f, "{origin}: {key}: {}", self.text),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.problems.as_slice() {
            return problem.fmt(f);
        }
        write!(f, "{} problems", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}
