//! Log lines: to standard error, as text for people or JSON for collectors. What is logged never holds a body; keys at most
//! at debug.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::settings::{LogFormat, LogSettings};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter can't be read; settings refuse such a filter before.
    #[error("read log.level")]
    Filter(#[from] ParseError),
    /// The process has a subscriber already.
    #[error("set the process's log subscriber")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// h2 warns of what its peers send, some of it once a frame: whoever reaches the port could fill the log. Errors it has none.
const H2: &str = "h2=error";

/// From here on everything that is logged goes to standard error.
///
/// # Errors
/// [`LogsError`] if the filter is wrong, or when called twice.
pub fn start(settings: &LogSettings) -> Result<(), LogsError> {
    let terminal = io::stderr().is_terminal();
    let filter = filter(&settings.level)?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(terminal);
    let logs = tracing_subscriber::registry().with(filter);
    match format(settings, terminal) {
        LogFormat::Text => logs.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => logs.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// As `log.level` says; of h2 only what that asks for by its name.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    Ok(if level.contains("h2") { filter } else { filter.add_directive(H2.parse()?) })
}

fn format(settings: &LogSettings, terminal: bool) -> LogFormat {
    settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_provoke_is_logged_only_when_asked_for_by_name() {
        let directives = |level: &str| filter(level).expect("a filter").to_string();
        assert!(directives("info").contains("h2=error") && directives("info").contains("info"));
        assert!(directives("debug").contains("h2=error"));
        assert!(!directives("info,h2=debug").contains("h2=error"));
    }

    #[test]
    fn people_get_text_and_collectors_json_unless_told() {
        let unset = LogSettings { level: "info".to_owned(), format: None };
        assert_eq!(format(&unset, true), LogFormat::Text);
        assert_eq!(format(&unset, false), LogFormat::Json);
        let text = LogSettings { format: Some(LogFormat::Text), ..unset };
        assert_eq!(format(&text, false), LogFormat::Text);
    }
}
