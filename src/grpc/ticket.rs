//! Tickets: the name of an accepted save, opaque to clients.

use std::fmt;

use uuid::Uuid;

use crate::save::Sequence;

/// Names an accepted save: its sequence and the beginning of its journal's id, so that a ticket of another journal is
/// known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The save.
    pub sequence: Sequence,
    /// The first four bytes of the journal's id.
    pub journal: u32,
}

impl Ticket {
    const SEQUENCE_DIGITS: usize = 16;
    const JOURNAL_DIGITS: usize = 8;

    /// The ticket of a save in a journal.
    pub fn new(journal: Uuid, sequence: Sequence) -> Self {
        Self { sequence, journal: journal.as_fields().0 }
    }

    /// Reads a ticket; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (sequence, journal) = text.split_once('-')?;
        let hex = |digits: &str, count| digits.len() == count && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !hex(sequence, Self::SEQUENCE_DIGITS) || !hex(journal, Self::JOURNAL_DIGITS) {
            return None;
        }
        let sequence = Sequence::from_u64(u64::from_str_radix(sequence, 16).ok()?);
        Some(Self { sequence, journal: u32::from_str_radix(journal, 16).ok()? })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.sequence.get(), self.journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_back() {
        let journal = Uuid::from_u128(0x0189_d0a2_7c1e_7cc3_98c4_dc0c_0c07_398f);
        for number in [0, 1, 3 << 40 | 17, u64::MAX] {
            let ticket = Ticket::new(journal, Sequence::from_u64(number));
            assert_eq!(Ticket::parse(&ticket.to_string()), Some(ticket));
        }
        assert_eq!(Ticket::new(journal, Sequence::from_u64(255)).to_string(), "00000000000000ff-0189d0a2");
    }

    #[test]
    fn anything_else_is_no_ticket() {
        for text in ["", "-", "00000000000000ff", "00000000000000ff-0189d0a", "00000000000000FF-0189d0a2", "+0000000000000ff-0189d0a2"] {
            assert_eq!(Ticket::parse(text), None, "{text:?}");
        }
    }
}
