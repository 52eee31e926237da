//! Reads messages, as they arrive, for what every one has: the prefix of gRPC (a flag and the length), and the tags of the outermost
//! fields.
//!
//! An empty save takes two bytes of a message and a hundred once it is decoded, so there may be no more fields than saves are let through.

use tonic::Status;

use super::Rules;

/// Where in the messages of a call the next byte stands.
#[derive(Debug)]
pub(super) struct Scanner {
    /// Whether there may be more than one message.
    streaming: bool,
    at: At,
    /// Of the message.
    length: u32,
    /// Bytes of the message, without its prefix, that are to come.
    left: u32,
    /// Outermost fields of the message so far.
    fields: u64,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// So many bytes of the prefix have come.
    Prefix(u8),
    /// A number of protobuf, and how many of its bits have come.
    Tag(u64, u32),
    Length(u64, u32),
    /// A value that is a number.
    Number,
    /// So many bytes that don't matter.
    Skip(u64),
    /// Behind the one message of a call.
    End,
}

impl Scanner {
    const PREFIX_BYTES: u8 = 5;

    pub(super) fn new(streaming: bool) -> Self {
        Self { streaming, at: At::Prefix(0), length: 0, left: 0, fields: 0 }
    }

    /// Nothing more is read.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.at, At::End)
    }

    /// Between the messages of a stream, as long as the client likes.
    pub(super) fn may_rest(&self) -> bool {
        self.streaming && matches!(self.at, At::Prefix(0))
    }

    /// Bytes of a message that is not whole.
    pub(super) fn unfinished(&self) -> u64 {
        match self.at {
            At::Prefix(read) => read.into(),
            At::End => 0,
            _ => u64::from(Self::PREFIX_BYTES) + u64::from(self.length - self.left),
        }
    }

    /// How many of the bytes are to be kept (those before a message that is refused, and those that are read), and the refusal.
    pub(super) fn scan(&mut self, bytes: &[u8], rules: &Rules) -> (usize, Result<(), Status>) {
        let (mut first, mut next) = (0, 0);
        while next < bytes.len() && !self.is_over() {
            if let At::Prefix(0) = self.at {
                first = next;
            }
            match self.step(&bytes[next..], rules) {
                Ok(taken) => next += taken,
                Err(refusal) => return (first, Err(refusal)),
            }
        }
        (next, Ok(()))
    }

    /// Takes at least one of the bytes; how many.
    fn step(&mut self, bytes: &[u8], rules: &Rules) -> Result<usize, Status> {
        let taken = match self.at {
            At::Prefix(read) => {
                self.prefix(read, bytes[0], rules)?;
                return Ok(1);
            }
            At::Skip(skip) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(self.left.into());
                let taken = skip.min(here);
                self.at = if taken == skip { At::TAG } else { At::Skip(skip - taken) };
                u32::try_from(taken).expect("no more than is left")
            }
            _ => {
                self.field(bytes[0], rules)?;
                1
            }
        };
        self.left -= taken;
        if self.left == 0 {
            self.at = self.behind_a_message();
        }
        Ok(taken as usize)
    }

    fn behind_a_message(&self) -> At {
        if self.streaming { At::Prefix(0) } else { At::End }
    }

    fn prefix(&mut self, read: u8, byte: u8, rules: &Rules) -> Result<(), Status> {
        // The first byte is a flag.
        self.length = if read == 0 { 0 } else { self.length << 8 | u32::from(byte) };
        self.at = At::Prefix(read + 1);
        if read + 1 == Self::PREFIX_BYTES {
            rules.check_length(self.length)?;
            (self.left, self.fields) = (self.length, 0);
            self.at = if self.length == 0 { self.behind_a_message() } else { At::TAG };
        }
        Ok(())
    }

    fn field(&mut self, byte: u8, rules: &Rules) -> Result<(), Status> {
        self.at = match self.at {
            At::Tag(value, bits) => match number(value, bits, byte) {
                Number::More(value, bits) => At::Tag(value, bits),
                Number::Whole(tag) => {
                    self.fields += 1;
                    rules.check_fields(self.fields)?;
                    At::value(tag)
                }
                Number::TooLong => At::REFUSED,
            },
            At::Length(value, bits) => match number(value, bits, byte) {
                Number::More(value, bits) => At::Length(value, bits),
                Number::Whole(0) => At::TAG,
                Number::Whole(length) => At::Skip(length),
                Number::TooLong => At::REFUSED,
            },
            At::Number if byte & 0x80 == 0 => At::TAG,
            at => at,
        };
        Ok(())
    }
}

impl At {
    const TAG: Self = Self::Tag(0, 0);
    /// What protobuf doesn't allow is told when it is decoded.
    const REFUSED: Self = Self::Skip(u64::MAX);

    /// The value that follows a tag. Of a group only its end is marked: what is in it counts like what is around it.
    fn value(tag: u64) -> Self {
        match tag & 7 {
            0 => Self::Number,
            1 => Self::Skip(8),
            2 => Self::Length(0, 0),
            3 | 4 => Self::TAG,
            5 => Self::Skip(4),
            _ => Self::REFUSED,
        }
    }
}

enum Number {
    More(u64, u32),
    Whole(u64),
    TooLong,
}

/// One more byte of a number: seven bits, the lowest first, and whether there are more.
fn number(value: u64, bits: u32, byte: u8) -> Number {
    if bits > 63 {
        return Number::TooLong;
    }
    let value = value | u64::from(byte & 0x7f) << bits;
    if byte & 0x80 == 0 { Number::Whole(value) } else { Number::More(value, bits + 7) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;

    use super::*;
    use crate::{
        limits::Limits,
        proto::{Save, SaveBatchRequest},
        settings::Settings,
    };

    fn rules(message_bytes_max: u64, batch_saves_max: u64) -> Arc<Rules> {
        let mut settings = Settings::default();
        (settings.grpc.message_bytes_max, settings.grpc.batch_saves_max) = (message_bytes_max, batch_saves_max);
        Rules::new(&Limits::new(&settings), &settings.grpc)
    }

    fn prefixed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).expect("a message").to_be_bytes(), message].concat()
    }

    fn drawn_batch(random: &mut fastrand::Rng) -> (u64, Vec<u8>) {
        let saves = random.u64(..20);
        let mut batch = SaveBatchRequest::default();
        for _ in 0..saves {
            let collection = "x".repeat(random.usize(..300));
            batch.saves.push(Save { collection, ..Save::default() });
        }
        let mut message = batch.encode_to_vec();
        // What nobody knows: numbers of both lengths, and a group with a number in it.
        message.extend([15 << 3 | 5, 1, 2, 3, 4, 14 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 13 << 3 | 3, 12 << 3, 0x80, 1, 13 << 3 | 4]);
        (saves + 5, message)
    }

    #[test]
    fn messages_are_read_alike_in_whatever_pieces_they_come() {
        let rules = rules(1 << 20, 1_000);
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let drawn: Vec<_> = (0..random.usize(1..6)).map(|_| drawn_batch(random)).collect();
            let bytes: Vec<u8> = drawn.iter().flat_map(|(_, message)| prefixed(message)).collect();
            let ends: Vec<usize> =
                drawn.iter().scan(0, |end, (_, message)| Some(std::mem::replace(end, *end + 5 + message.len()))).collect();
            let (mut scanner, mut at) = (Scanner::new(true), 0);
            while at < bytes.len() {
                let piece = &bytes[at..bytes.len().min(at + random.usize(1..400))];
                let (kept, scanned) = scanner.scan(piece, &rules);
                scanned.expect("all of it is within the limits");
                assert_eq!(kept, piece.len());
                at += piece.len();
                let begun = *ends.iter().rfind(|&&end| end < at).expect("the first begins at 0");
                let whole = at == bytes.len() || ends.contains(&at);
                assert_eq!(scanner.unfinished(), if whole { 0 } else { (at - begun) as u64 }, "seed {seed}, at {at}");
            }
            assert_eq!(scanner.fields, drawn.last().expect("there is one").0, "seed {seed}");
        }
    }

    #[test]
    fn what_is_refused_is_known_by_its_first_bytes() {
        let rules = rules(1_000, 10);
        let whole = prefixed(&[0; 100]);
        let empty_saves = prefixed(&[1 << 3 | 2, 0].repeat(80));
        let too_long = prefixed(&[0; 1_001]);
        for (bad, told_at, says) in
            [(&too_long, 5, "has 1001 bytes, more than grpc.message_bytes_max = 1000"), (&empty_saves, 154, "grpc.batch_saves_max = 10")]
        {
            let bytes = [&whole[..], &whole, &bad[..told_at]].concat();
            let (kept, scanned) = Scanner::new(true).scan(&bytes, &rules);
            let refusal = scanned.expect_err("refused");
            assert!(refusal.message().contains(says), "{refusal:?}");
            assert_eq!(kept, 2 * whole.len());
            Scanner::new(true).scan(&bytes[..bytes.len() - 1], &rules).1.expect("nothing is known before");
        }
    }

    #[test]
    fn a_call_takes_one_message_unless_it_is_a_stream() {
        let rules = rules(1_000, 10);
        for message in [prefixed(b""), prefixed(&[0; 100])] {
            let mut scanner = Scanner::new(false);
            let (kept, scanned) = scanner.scan(&message.repeat(2), &rules);
            scanned.expect("one is taken");
            assert_eq!(kept, message.len(), "the other one is not read");
            assert_eq!(scanner.unfinished(), 0);
        }
    }

    #[test]
    fn what_protobuf_does_not_allow_is_left_to_be_refused() {
        let rules = rules(1 << 20, 10);
        let endless_number = [0xff; 40];
        let longer_than_the_message = [1 << 3 | 2, 0xff, 0xff, 0x7f, 1];
        let unknown_type = [1 << 3 | 7, 1, 1];
        for bad in [&endless_number[..], &longer_than_the_message, &unknown_type] {
            let mut scanner = Scanner::new(true);
            scanner.scan(&[prefixed(bad), prefixed(b"")].concat(), &rules).1.expect("nothing is said");
            assert_eq!(scanner.unfinished(), 0);
        }
    }
}
