//! A key in canonical form.

/// The primary key of an object in canonical form: its parts in primary-key order, each as the text that Postgres
/// itself would print. Equal keys are equal bytes.
///
/// Each part is its length (u16, big-endian) and its UTF-8 text; [`Key::PART_BYTES_MAX`] bounds a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A part's longest text.
    pub const PART_BYTES_MAX: usize = u16::MAX as usize;

    /// The key of an append: no parts.
    pub fn none() -> Self {
        Self::default()
    }

    /// Joins canonical parts. The caller has bounded each part by [`Self::PART_BYTES_MAX`].
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> Self {
        let parts = parts.into_iter();
        let mut bytes = Vec::with_capacity(parts.clone().map(|part| size_of::<u16>() + part.len()).sum());
        for part in parts {
            let length = u16::try_from(part.len()).expect("the front door bounds a key part");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes.into_boxed_slice())
    }

    /// Reads a key back from the journal; `None` if the bytes are no key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let part = tail.get(..usize::from(u16::from_be_bytes(*length)))?;
            std::str::from_utf8(part).ok()?;
            rest = &tail[part.len()..];
        }
        Some(Self(bytes.into()))
    }

    /// The bytes, as the journal and the backlog's map hold them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The parts, in primary-key order.
    pub fn parts(&self) -> KeyParts<'_> {
        KeyParts(&self.0)
    }
}

/// The parts of a [`Key`].
#[derive(Clone, Debug)]
pub struct KeyParts<'a>(&'a [u8]);

impl<'a> Iterator for KeyParts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, tail) = self.0.split_first_chunk::<2>()?;
        let (part, rest) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
        self.0 = rest;
        Some(std::str::from_utf8(part).expect("a key is made of text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_went_in() {
        for parts in [vec![], vec!["42"], vec!["", "a\u{1F600}"], vec!["1", "2", "3"]] {
            let key = Key::from_parts(parts.iter().copied());
            assert_eq!(key.parts().collect::<Vec<_>>(), parts);
            assert_eq!(Key::from_bytes(key.as_bytes()), Some(key));
        }
    }

    #[test]
    fn bytes_that_are_no_key_are_refused() {
        assert_eq!(Key::from_bytes(&[0]), None);
        assert_eq!(Key::from_bytes(&[0, 2, b'a']), None);
        assert_eq!(Key::from_bytes(&[0, 1, 0xff]), None);
    }

    #[test]
    fn different_parts_never_make_equal_keys() {
        assert_ne!(Key::from_parts(["a", "bc"]), Key::from_parts(["ab", "c"]));
        assert_ne!(Key::from_parts(["a"]), Key::from_parts(["a", ""]));
    }
}
