//! What is wrong with a request, field by field, bounded: it travels in response headers.

use std::fmt;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Its path in the request, like `saves[3].json.name`.
    pub(super) field: String,
    /// A sentence: what is wrong and what is expected.
    pub(super) description: String,
}

/// The first wrong fields, and how many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Violations {
    list: Vec<Violation>,
    total: usize,
    bytes: usize,
}

impl Violations {
    /// How many are told, and how many bytes all of them may take: many clients stop at 8 KiB of headers, and details
    /// travel as base64.
    const TOLD_MAX: usize = 16;
    const BYTES_MAX: usize = 3_500;
    /// A field or a description.
    const TEXT_BYTES_MAX: usize = 480;

    /// A single one.
    pub(super) fn one(field: &str, description: impl Into<String>) -> Self {
        let mut one = Self::default();
        one.push(field, || description.into());
        one
    }

    /// Counts one, and describes it if there is room for it.
    pub(super) fn push(&mut self, field: impl fmt::Display, description: impl FnOnce() -> String) {
        self.total += 1;
        if self.list.len() >= Self::TOLD_MAX || self.bytes >= Self::BYTES_MAX {
            return;
        }
        let violation = Violation { field: shortened(field.to_string()), description: shortened(description()) };
        self.bytes += violation.field.len() + violation.description.len();
        self.list.push(violation);
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn into_list(self) -> Vec<Violation> {
        self.list
    }

    #[cfg(test)]
    pub(super) fn list(&self) -> &[Violation] {
        &self.list
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.list.first() else { return f.write_str("nothing is wrong") };
        write!(f, "{} {}", first.field, first.description)?;
        match self.total {
            1 => Ok(()),
            total => write!(f, " (and {} more)", total - 1),
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > Violations::TEXT_BYTES_MAX {
        let mut end = Violations::TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_stays_small_and_everything_is_counted() {
        let mut violations = Violations::default();
        for n in 0..1_000 {
            violations.push(format!("saves[{n}].key"), || "\u{1F600}".repeat(1_000));
        }
        assert_eq!(violations.total(), 1_000);
        let bytes: usize = violations.list().iter().map(|one| one.field.len() + one.description.len()).sum();
        assert!(violations.list().len() <= Violations::TOLD_MAX && bytes < 4_500, "{bytes}");
        assert!(violations.to_string().ends_with("(and 999 more)"));
    }
}
