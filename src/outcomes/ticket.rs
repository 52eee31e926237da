//! Tickets: the name of an accepted save, opaque to clients.
//!
//! A ticket says what it takes to tell the save's outcome without a row for each: its number and its lane. It is signed with a
//! key of its journal, so that it can be handed to an end user's page, and others' can't be guessed from it.
//!
//! | part     | hex digits |                                                                                                  |
//! |----------|------------|--------------------------------------------------------------------------------------------------|
//! | sequence | 16         | first: tickets of one journal sort, as text, as their saves were accepted                        |
//! | `-` lane | 2          |                                                                                                  |
//! | journal  | 8          | the beginning of the journal's id: a ticket of another journal is known to be one                |
//! | MAC      | 16         | the beginning of HMAC-SHA256 over the journal's id and the above: 64 bits to guess, a call a try |

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::save::{LaneId, Sequence};

const MAC_BYTES: usize = 8;
const TEXT_BYTES: usize = 16 + 1 + 2 + 8 + 2 * MAC_BYTES;

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The save.
    pub sequence: Sequence,
    /// The lane that it was accepted for, in the layout of then.
    pub lane: LaneId,
}

/// A text that should be a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A save of this journal.
    Save(Ticket),
    /// A save of another journal, perhaps: only that journal can tell.
    Elsewhere,
    /// Nothing: no ticket has this form, or this journal has not signed it.
    Nothing,
}

/// Writes and reads the tickets of one journal. Cheap to clone.
#[derive(Clone)]
pub struct Tickets(Arc<Signer>);

struct Signer {
    journal: Uuid,
    keyed: Hmac<Sha256>,
}

impl Tickets {
    /// How long a key is.
    pub const KEY_BYTES: usize = 32;

    /// Tickets of this journal, signed with its key.
    pub fn new(journal: Uuid, key: &[u8; Self::KEY_BYTES]) -> Self {
        let mut keyed = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        keyed.update(journal.as_bytes());
        Self(Arc::new(Signer { journal, keyed }))
    }

    /// The journal.
    pub fn journal(&self) -> Uuid {
        self.0.journal
    }

    /// The ticket as text.
    pub fn show(&self, ticket: Ticket) -> String {
        let mut text = String::with_capacity(TEXT_BYTES);
        put_hex(ticket.sequence.get(), 16, &mut text);
        text.push('-');
        put_hex(ticket.lane.0.into(), 2, &mut text);
        put_hex(self.0.journal.as_fields().0.into(), 8, &mut text);
        put_hex(u64::from_be_bytes(self.mac(ticket)), 2 * MAC_BYTES as u32, &mut text);
        text
    }

    /// What a text names.
    pub fn read(&self, text: &str) -> Named {
        let Some((ticket, journal, mac)) = parse(text) else { return Named::Nothing };
        if journal != self.0.journal.as_fields().0 {
            return Named::Elsewhere;
        }
        match self.keyed(ticket).verify_truncated_left(&mac.to_be_bytes()) {
            Ok(()) => Named::Save(ticket),
            Err(_) => Named::Nothing,
        }
    }

    /// Sorts after every ticket up to `through` and before all others of its journal.
    pub fn after(&self, through: Sequence) -> String {
        format!("{:016x}~{:08x}", through.get(), self.0.journal.as_fields().0)
    }

    /// What [`Self::after`] gave; `None` for any other text, and that of another journal.
    pub fn read_after(&self, text: &str) -> Option<Sequence> {
        let (through, journal) = text.split_once('~')?;
        let ours = hex(journal, 8)? == u64::from(self.0.journal.as_fields().0);
        hex(through, 16).map(Sequence::from_u64).filter(|_| ours)
    }

    fn keyed(&self, ticket: Ticket) -> Hmac<Sha256> {
        let mut mac = self.0.keyed.clone();
        mac.update(&ticket.sequence.get().to_be_bytes());
        mac.update(&ticket.lane.0.to_be_bytes());
        mac
    }

    fn mac(&self, ticket: Ticket) -> [u8; MAC_BYTES] {
        let bytes = self.keyed(ticket).finalize().into_bytes();
        bytes[..MAC_BYTES].try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The key is a secret.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tickets").field(&self.0.journal).finish()
    }
}

/// Ticket, journal and MAC of a text of the right form.
fn parse(text: &str) -> Option<(Ticket, u32, u64)> {
    if text.len() != TEXT_BYTES || !text.is_ascii() {
        return None;
    }
    let (sequence, rest) = text.split_once('-')?;
    let (lane, signed) = rest.split_at_checked(2)?;
    let (journal, mac) = signed.split_at_checked(8)?;
    let lane = LaneId(u16::try_from(hex(lane, 2)?).ok()?);
    let ticket = Ticket { sequence: Sequence::from_u64(hex(sequence, 16)?), lane };
    Some((ticket, u32::try_from(hex(journal, 8)?).ok()?, hex(mac, 2 * MAC_BYTES)?))
}

/// The last so many hexadecimal digits. (Formatting them took longer than signing.)
fn put_hex(number: u64, digits: u32, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.extend((0..digits).rev().map(|n| char::from(DIGITS[(number >> (4 * n)) as usize & 0xf])));
}

/// So many lower-case hexadecimal digits and nothing else.
fn hex(digits: &str, count: usize) -> Option<u64> {
    let sound = digits.len() == count && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if sound { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL: Uuid = Uuid::from_u128(0x0189_d0a2_7c1e_7cc3_98c4_dc0c_0c07_398f);

    fn tickets() -> Tickets {
        Tickets::new(JOURNAL, &[7; Tickets::KEY_BYTES])
    }

    fn ticket(sequence: u64, lane: u16) -> Ticket {
        Ticket { sequence: Sequence::from_u64(sequence), lane: LaneId(lane) }
    }

    #[test]
    fn a_ticket_is_read_back() {
        for (sequence, lane) in [(0, 0), (1, 31), (3 << 40 | 17, 255), (u64::MAX, 1)] {
            let ticket = ticket(sequence, lane);
            assert_eq!(tickets().read(&tickets().show(ticket)), Named::Save(ticket));
        }
        let text = tickets().show(ticket(255, 2));
        assert!(text.starts_with("00000000000000ff-020189d0a2"), "{text}");
    }

    #[test]
    fn no_other_ticket_can_be_made_from_one() {
        let text = tickets().show(ticket(255, 0));
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).expect("ASCII");
            let named = tickets().read(&other);
            assert!(matches!(named, Named::Nothing | Named::Elsewhere), "{other}: {named:?}");
        }
        let other_key = Tickets::new(JOURNAL, &[8; Tickets::KEY_BYTES]);
        assert_eq!(other_key.read(&text), Named::Nothing);
        assert_eq!(Tickets::new(Uuid::from_u128(5), &[7; Tickets::KEY_BYTES]).read(&text), Named::Elsewhere);
    }

    #[test]
    fn anything_else_is_no_ticket() {
        let text = tickets().show(ticket(0xabc, 0));
        let upper = text.to_uppercase();
        for text in ["", "-", "--", &text[1..], &upper, &format!("{text}0"), "00000000000000ff-0189d0a2", &"é".repeat(20)] {
            assert_eq!(tickets().read(text), Named::Nothing, "{text:?}");
        }
    }

    #[test]
    fn tickets_sort_as_their_saves_were_accepted() {
        let (tickets, through) = (tickets(), Sequence::from_u64(1 << 40 | 0xff));
        let after = tickets.after(through);
        assert!(tickets.show(ticket(through.get(), 255)) < after);
        assert!(after < tickets.show(ticket(through.get() + 1, 0)));
        assert_eq!(tickets.read_after(&after), Some(through));
        for text in ["", "0000000000000001~0189d0a3", "1~0189d0a2", &tickets.show(ticket(1, 0))] {
            assert_eq!(tickets.read_after(text), None, "{text:?}");
        }
    }
}
