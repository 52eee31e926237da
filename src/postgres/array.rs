//! `text[]` parameters, encoded while the rows are read: one value a column and statement instead of one a cell.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A one-dimensional array of texts in Postgres' binary form.
#[derive(Clone, Debug, Default)]
pub(super) struct TextArray {
    /// Per element its length (i32, -1 for NULL) and its bytes.
    elements: Vec<u8>,
    count: i32,
    nulls: bool,
}

impl TextArray {
    pub(super) fn push(&mut self, text: Option<&str>) {
        self.count += 1;
        match text {
            Some(text) => {
                let length = i32::try_from(text.len()).expect("a message is far below 2 GiB");
                self.elements.extend_from_slice(&length.to_be_bytes());
                self.elements.extend_from_slice(text.as_bytes());
            }
            None => {
                self.nulls = true;
                self.elements.extend_from_slice(&(-1i32).to_be_bytes());
            }
        }
    }

    /// What it takes of memory and of the message.
    pub(super) fn bytes(&self) -> usize {
        self.elements.len()
    }

    #[cfg(test)]
    fn header(&self) -> (i32, bool) {
        (self.count, self.nulls)
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        const DIMENSIONS: i32 = 1;
        const LOWER_BOUND: i32 = 1;
        let element = Type::TEXT.oid().cast_signed();
        for number in [DIMENSIONS, i32::from(self.nulls), element, self.count, LOWER_BOUND] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

impl<'a> FromIterator<Option<&'a str>> for TextArray {
    fn from_iter<I: IntoIterator<Item = Option<&'a str>>>(texts: I) -> Self {
        let mut array = Self::default();
        texts.into_iter().for_each(|text| array.push(text));
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_driver() {
        let texts = [Some("a"), None, Some(""), Some("\u{1F600} b")];
        let ours: TextArray = texts.into_iter().collect();
        let (mut expected, mut written) = (BytesMut::new(), BytesMut::new());
        texts.to_vec().to_sql(&Type::TEXT_ARRAY, &mut expected).expect("an array");
        ours.to_sql(&Type::TEXT_ARRAY, &mut written).expect("an array");
        assert_eq!(written, expected);
        assert_eq!(ours.header(), (4, true));
    }
}
