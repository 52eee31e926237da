//! What a value may look like: units, ranges and choices. Each kind reads a raw value and writes it back as the settings
//! file would hold it.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::Secret;

/// A value as a source holds it. Environment variables and flags have only text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Raw>),
    Table,
    /// A type of TOML that no key has, by name.
    Other(&'static str),
}

/// How a key's value is read and written.
pub(super) trait Kind<T> {
    /// The value, or what is wrong with it and what helps.
    fn parse(&self, raw: &Raw) -> Result<T, String>;
    /// As the settings file would hold it; `None` if there is no value.
    fn show(&self, value: &T) -> Option<String>;
}

/// A number of things: `4096`, `4_096` or `4,096`.
pub(super) struct Count(pub(super) RangeInclusive<u64>);

/// Bytes: `64 MiB`, or a plain number.
pub(super) struct Bytes(pub(super) RangeInclusive<u64>);

/// A duration with its unit: `100 ms`.
pub(super) struct Time(pub(super) RangeInclusive<Duration>);

/// `true` or `false`.
pub(super) struct Flag;

/// An address and port.
pub(super) struct Address;

/// A directory or a file.
pub(super) struct PathText;

/// Text that isn't empty.
pub(super) struct Text;

/// A list of names, in text separated by commas.
pub(super) struct Names;

/// Text that is never shown.
pub(super) struct Hidden;

/// A filter for log lines.
pub(super) struct LogFilter;

/// One of these words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// A key that may be left out.
pub(super) struct Maybe<K>(pub(super) K);

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
const BYTE_UNITS: [(&str, u64); 5] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
const TIME_UNITS: [(&str, Duration); 5] = [("d", DAY), ("h", HOUR), ("min", MINUTE), ("s", SECOND), ("ms", MILLISECOND)];

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Kind<T> for Count {
    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let count = match raw {
            Raw::Integer(count) => u64::try_from(*count).map_err(|_| format!("{count} is negative: write a count"))?,
            Raw::Text(text) => whole_number(text).ok_or_else(|| format!("\"{text}\" is not a count: write digits, as in 4096 or 4_096"))?,
            other => return Err(wrong_type(other, "a count, as in 4096")),
        };
        within(&count, &self.0, |&count| count.to_string())?;
        T::try_from(count).map_err(|_| format!("{count} is too large"))
    }

    fn show(&self, value: &T) -> Option<String> {
        let count: u64 = (*value).try_into().ok()?;
        Some(grouped(count))
    }
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Kind<T> for Bytes {
    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let bytes = match raw {
            Raw::Integer(bytes) => u64::try_from(*bytes).map_err(|_| format!("{bytes} is negative: write a size, as in \"64 MiB\""))?,
            Raw::Text(text) => parse_bytes(text)?,
            other => return Err(wrong_type(other, "a size, as in \"64 MiB\"")),
        };
        within(&bytes, &self.0, |&bytes| show_bytes(bytes))?;
        T::try_from(bytes).map_err(|_| format!("{bytes} is too large"))
    }

    fn show(&self, value: &T) -> Option<String> {
        let bytes: u64 = (*value).try_into().ok()?;
        Some(quoted(show_bytes(bytes)))
    }
}

impl Kind<Duration> for Time {
    fn parse(&self, raw: &Raw) -> Result<Duration, String> {
        let time = match raw {
            Raw::Text(text) => parse_time(text)?,
            Raw::Integer(number) => return Err(without_unit(&number.to_string())),
            other => return Err(wrong_type(other, "a duration, as in \"100 ms\"")),
        };
        within(&time, &self.0, |&time| show_time(time))?;
        Ok(time)
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(show_time(*value)))
    }
}

impl Kind<bool> for Flag {
    fn parse(&self, raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Boolean(flag) => Ok(*flag),
            Raw::Text(text) => text.parse().map_err(|_| format!("\"{text}\" is neither true nor false")),
            other => Err(wrong_type(other, "true or false")),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

impl Kind<SocketAddr> for Address {
    fn parse(&self, raw: &Raw) -> Result<SocketAddr, String> {
        let text = text_of(raw, "an address and port, as in \"127.0.0.1:7420\"")?;
        text.parse().map_err(|_| {
            format!("\"{text}\" is not an address and port: write it as in 127.0.0.1:7420 or [::1]:7420 (0.0.0.0 for every interface; no host names)")
        })
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(value))
    }
}

impl Kind<PathBuf> for PathText {
    fn parse(&self, raw: &Raw) -> Result<PathBuf, String> {
        Text.parse(raw).map(PathBuf::from)
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(value.display()))
    }
}

impl Kind<String> for Text {
    fn parse(&self, raw: &Raw) -> Result<String, String> {
        let text = text_of(raw, "text in quotes")?;
        if text.trim().is_empty() { Err("is empty: give it a value or leave it out".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

impl Kind<Vec<String>> for Names {
    fn parse(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let names: Vec<String> = match raw {
            Raw::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Raw::List(items) => items.iter().map(|item| text_of(item, "a name in quotes").map(str::to_owned)).collect::<Result<_, _>>()?,
            other => return Err(wrong_type(other, "a list of names, as in [\"public\", \"game\"]")),
        };
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("holds an empty name or none: name at least one".to_owned());
        }
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, twice)) => Err(format!("names \"{twice}\" twice")),
            None => Ok(names),
        }
    }

    fn show(&self, value: &Vec<String>) -> Option<String> {
        Some(format!("[{}]", value.iter().map(quoted).collect::<Vec<_>>().join(", ")))
    }
}

impl Kind<Secret> for Hidden {
    fn parse(&self, raw: &Raw) -> Result<Secret, String> {
        // No error text of this kind may hold the value.
        match raw {
            Raw::Text(text) if text.trim().is_empty() => Err("is empty: give it a value or leave it out".to_owned()),
            Raw::Text(text) => Ok(Secret::from(text.as_str())),
            other => Err(wrong_type(other, "text in quotes")),
        }
    }

    fn show(&self, value: &Secret) -> Option<String> {
        Some(value.to_string())
    }
}

impl Kind<String> for LogFilter {
    fn parse(&self, raw: &Raw) -> Result<String, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let filter = Text.parse(raw)?;
        // A lone word that is no level would be taken for the name of a module, and silence everything else.
        let stranger = filter.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
        if let Some(stranger) = stranger {
            return Err(format!("\"{stranger}\" is no level: write one of {}, or a filter like info,forebay=debug", LEVELS.join(", ")));
        }
        match tracing_subscriber::EnvFilter::builder().parse(&filter) {
            Ok(_) => Ok(filter),
            Err(error) => Err(format!("\"{filter}\" is no filter ({error}): write a level, or a filter like info,forebay=debug")),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

impl<T: Copy + PartialEq> Kind<T> for Choice<T> {
    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let words = || self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let text = text_of(raw, &format!("one of {}", words()))?;
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| format!("\"{text}\" is not known: write one of {}", words()))
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, known)| known == value).map(|(word, _)| quoted(word))
    }
}

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn parse(&self, raw: &Raw) -> Result<Option<T>, String> {
        self.0.parse(raw).map(Some)
    }

    fn show(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }
}

impl Raw {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table => "a table",
            Self::Other(name) => name,
        }
    }
}

fn text_of<'a>(raw: &'a Raw, wanted: &str) -> Result<&'a str, String> {
    match raw {
        Raw::Text(text) => Ok(text),
        other => Err(wrong_type(other, wanted)),
    }
}

fn wrong_type(raw: &Raw, wanted: &str) -> String {
    format!("is {}: write {wanted}", raw.type_name())
}

fn within<V: PartialOrd>(value: &V, range: &RangeInclusive<V>, show: impl Fn(&V) -> String) -> Result<(), String> {
    let (least, most) = (range.start(), range.end());
    if value < least {
        return Err(format!("{} is too small: at least {}", show(value), show(least)));
    }
    if value > most {
        return Err(format!("{} is too large: at most {}", show(value), show(most)));
    }
    Ok(())
}

/// Digits, grouped or not: `4_096` and `4,096` are 4096.
fn whole_number(text: &str) -> Option<u64> {
    let text = text.trim();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    text.replace(['_', ','], "").parse().ok()
}

/// `("64", "MiB")` of `64 MiB`.
fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    (text[..unit].trim(), &text[unit..])
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let remedy = "write a whole number of B, KiB, MiB, GiB or TiB, as in \"64 MiB\"";
    let number = whole_number(number).ok_or_else(|| format!("\"{text}\" is not a size: {remedy}"))?;
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("\"{unit}\" is no unit: {remedy}"))?;
    number.checked_mul(*factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// A duration as settings are written, like `100 ms`.
///
/// # Errors
/// It is none; what would be one.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text);
    let remedy = "write a whole number of ms, s, min, h or d, as in \"100 ms\"";
    let count = whole_number(number).ok_or_else(|| format!("\"{text}\" is not a duration: {remedy}"))?;
    if unit.is_empty() {
        return Err(without_unit(number));
    }
    let (_, length) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("\"{unit}\" is no unit: {remedy}"))?;
    u32::try_from(count).ok().and_then(|count| length.checked_mul(count)).ok_or_else(|| format!("\"{text}\" is too large"))
}

fn without_unit(number: &str) -> String {
    format!("{number} has no unit: write \"{number} ms\", \"{number} s\" or \"{number} min\"")
}

fn show_bytes(bytes: u64) -> String {
    let (unit, factor) = BYTE_UNITS.into_iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)).unwrap_or(("B", 1));
    format!("{} {unit}", bytes / factor)
}

fn show_time(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let fits = |length: Duration| milliseconds >= length.as_millis() && milliseconds.is_multiple_of(length.as_millis());
    let (unit, length) = TIME_UNITS.into_iter().find(|(_, length)| fits(*length)).unwrap_or(("ms", MILLISECOND));
    format!("{} {unit}", milliseconds / length.as_millis())
}

/// `4_096` of 4096: as people read counts.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join("_")
}

/// As a basic string of TOML.
fn quoted(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    fn bytes(raw: &Raw) -> Result<u64, String> {
        Bytes(0..=TIB).parse(raw)
    }

    fn time(raw: &Raw) -> Result<Duration, String> {
        Time(Duration::ZERO..=DAY).parse(raw)
    }

    #[test]
    fn bytes_are_written_with_a_unit_or_plain() {
        assert_eq!(bytes(&text("64 MiB")), Ok(64 * MIB));
        assert_eq!(bytes(&text("1GiB")), Ok(GIB));
        assert_eq!(bytes(&text("4_096")), Ok(4096));
        assert_eq!(bytes(&Raw::Integer(512)), Ok(512));
        assert!(bytes(&text("64 MB")).expect_err("a decimal unit").contains("MiB"));
        assert!(bytes(&text("1.5 GiB")).expect_err("a fraction").contains("whole number"));
        assert!(bytes(&text("99999999 TiB")).expect_err("overflow").contains("too large"));
        assert!(bytes(&Raw::Integer(-1)).expect_err("negative").contains("negative"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(time(&text("100 ms")), Ok(100 * MILLISECOND));
        assert_eq!(time(&text("5s")), Ok(5 * SECOND));
        assert_eq!(time(&text("10 min")), Ok(10 * MINUTE));
        let remedy = "10 has no unit: write \"10 ms\", \"10 s\" or \"10 min\"";
        assert_eq!(time(&text("10")), Err(remedy.to_owned()));
        assert_eq!(time(&Raw::Integer(10)), Err(remedy.to_owned()));
        assert!(time(&text("5 parsecs")).expect_err("unknown unit").contains("parsecs"));
        assert_eq!(time(&text("2 d")), Err("2 d is too large: at most 1 d".to_owned()));
        assert!(time(&text("99999999999999 d")).expect_err("overflow").contains("too large"));
    }

    #[test]
    fn counts_may_be_grouped() {
        let count = |raw: &Raw| Kind::<u32>::parse(&Count(1..=100_000), raw);
        assert_eq!(count(&text("4,096")), Ok(4096));
        assert_eq!(count(&text("4_096")), Ok(4096));
        assert_eq!(count(&Raw::Integer(7)), Ok(7));
        assert_eq!(count(&Raw::Integer(0)), Err("0 is too small: at least 1".to_owned()));
        assert!(count(&text("many")).is_err());
        assert!(count(&text(",")).is_err());
        assert!(count(&Raw::Boolean(true)).expect_err("a boolean").starts_with("is a boolean"));
    }

    #[test]
    fn a_filter_with_a_misspelt_level_is_refused() {
        assert!(LogFilter.parse(&text("info,forebay=debug")).is_ok());
        assert!(LogFilter.parse(&text("inof")).expect_err("no level").contains("inof"));
        assert!(LogFilter.parse(&text("forebay=loud")).is_err());
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        assert_eq!(Kind::show(&Bytes(0..=TIB), &(64 * MIB)), Some("\"64 MiB\"".to_owned()));
        assert_eq!(Kind::show(&Bytes(0..=TIB), &0_u64), Some("\"0 B\"".to_owned()));
        assert_eq!(Time(Duration::ZERO..=DAY).show(&(90 * SECOND)), Some("\"90 s\"".to_owned()));
        assert_eq!(Time(Duration::ZERO..=DAY).show(&Duration::ZERO), Some("\"0 ms\"".to_owned()));
        assert_eq!(Kind::show(&Count(0..=TIB), &2_000_000_u64), Some("2_000_000".to_owned()));
        assert_eq!(Names.show(&vec!["a".to_owned(), "b c".to_owned()]), Some("[\"a\", \"b c\"]".to_owned()));
    }
}
