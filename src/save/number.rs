//! Exact numbers: what integer and numeric columns hold, and how `add` sums them without asking Postgres.
//!
//! Every result is the one that Postgres would come to, digit by digit, or none at all.

use std::{fmt, str::FromStr};

use bigdecimal::{BigDecimal, RoundingMode, Signed};
use serde::{Deserialize, Serialize};

/// What numbers a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NumberForm {
    /// `int2`, `int4`, `int8`.
    Integer {
        /// Its size.
        bits: u8,
    },
    /// `numeric(precision, scale)`. Since Postgres 15 the scale may be negative, or above the precision.
    Numeric {
        /// Digits that count.
        precision: u16,
        /// Digits behind the point.
        scale: i16,
    },
    /// `numeric`: every finite number as it is.
    Unbounded,
}

/// Why a value can't be added to a column. `Display` goes on a sentence that begins with the column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// No finite number.
    #[error("is added to, so it takes a finite number")]
    NoNumber,
    /// Ten bytes like `1e100000` would become a hundred thousand.
    #[error("has more than {max} digits, which is too much to be added", max = NumberForm::DIGITS_MAX)]
    Digits,
    /// No value of the column's type.
    #[error("takes {0}, and this is beyond it")]
    Range(String),
}

impl NumberForm {
    /// Digits of a number that is added, written out without an exponent: what Postgres allows to declare.
    pub const DIGITS_MAX: usize = 1_000;

    /// What a save adds: the JSON number (or a string that holds one), rounded as Postgres does when it stores it.
    ///
    /// # Errors
    /// See [`AmountError`].
    pub fn amount(self, json: &str) -> Result<String, AmountError> {
        let amount = self.rounded(&parse(json)?);
        if self.holds(&amount) { Ok(plain(&amount)) } else { Err(AmountError::Range(self.to_string())) }
    }

    /// A value that was set and an amount that is added to it, as the column would hold it; `None` if only Postgres can tell.
    pub fn sum(self, set: &str, amount: &str) -> Option<String> {
        if set == "null" {
            return Some(amount.to_owned());
        }
        let value = parse(set).ok()?;
        // Postgres reads `1.0` and `1e2` as no integers.
        if matches!(self, Self::Integer { .. }) && unquoted(set).contains(['.', 'e', 'E']) {
            return None;
        }
        Some(plain(&(self.rounded(&value) + parse(amount).ok()?)))
    }

    fn rounded(self, number: &BigDecimal) -> BigDecimal {
        let scale = match self {
            Self::Integer { .. } => 0,
            Self::Numeric { scale, .. } => i64::from(scale),
            Self::Unbounded => return number.clone(),
        };
        number.with_scale_round(scale, RoundingMode::HalfUp)
    }

    fn holds(self, number: &BigDecimal) -> bool {
        match self {
            Self::Integer { bits } => {
                let end = BigDecimal::from(1_u128 << (bits - 1));
                *number < end && *number >= -end
            }
            Self::Numeric { precision, scale } => number.abs() < BigDecimal::new(1.into(), i64::from(scale) - i64::from(precision)),
            Self::Unbounded => true,
        }
    }
}

impl fmt::Display for NumberForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { bits } => write!(f, "an integer of {bits} bits"),
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::Unbounded => f.write_str("numeric"),
        }
    }
}

/// Two amounts that are added one after the other; `None` if the sum has more digits than may be added.
pub fn sum_of_amounts(one: &str, other: &str) -> Option<String> {
    Some(plain(&(parse(one).ok()? + parse(other).ok()?)))
}

fn unquoted(json: &str) -> &str {
    json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(json)
}

/// Digits, a point between digits, an exponent: what JSON and Postgres both read the same way.
fn parse(json: &str) -> Result<BigDecimal, AmountError> {
    let text = unquoted(json);
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let unsigned = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(whole, fraction)| (whole, Some(fraction)));
    let power = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || fraction.is_some_and(|text| !digits(text)) || power.is_some_and(|text| !digits(text)) {
        return Err(AmountError::NoNumber);
    }
    let shift = exponent.map_or(Ok(0), i64::from_str).map_err(|_| AmountError::Digits)?;
    let (whole, fraction) = (whole.len() as i64, fraction.map_or(0, str::len) as i64);
    let written_out = whole.saturating_add(shift).max(1).saturating_add(fraction.saturating_sub(shift).max(0));
    if written_out > NumberForm::DIGITS_MAX as i64 {
        return Err(AmountError::Digits);
    }
    BigDecimal::from_str(text).map_err(|_| AmountError::NoNumber)
}

/// Without an exponent, with as many digits behind the point as the number has.
fn plain(number: &BigDecimal) -> String {
    let (digits, scale) = number.as_bigint_and_exponent();
    let mut text = digits.abs().to_string();
    if scale > 0 {
        let behind = usize::try_from(scale).expect("a number that is added has few digits");
        let missing = (behind + 1).saturating_sub(text.len());
        text.insert_str(0, &"0".repeat(missing));
        text.insert(text.len() - behind, '.');
    } else if text != "0" {
        text.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    }
    if digits.is_negative() {
        text.insert(0, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT4: NumberForm = NumberForm::Integer { bits: 32 };
    const MONEY: NumberForm = NumberForm::Numeric { precision: 5, scale: 2 };

    fn amount(form: NumberForm, json: &str) -> String {
        form.amount(json).unwrap_or_else(|error| panic!("{json} {error}"))
    }

    #[test]
    fn amounts_are_rounded_half_away_from_zero_as_postgres_rounds() {
        for (json, expected) in
            [("1", "1.00"), ("1.005", "1.01"), ("-1.005", "-1.01"), ("0.004", "0.00"), ("\"-2.5\"", "-2.50"), ("1e2", "100.00")]
        {
            assert_eq!(amount(MONEY, json), expected, "{json}");
        }
        for (json, expected) in [("7", "7"), ("2.5", "3"), ("-2.5", "-3"), ("-0", "0"), ("1.2e1", "12"), ("2147483647.4", "2147483647")] {
            assert_eq!(amount(INT4, json), expected, "{json}");
        }
        let hundreds = NumberForm::Numeric { precision: 3, scale: -2 };
        assert_eq!(
            (amount(hundreds, "150"), amount(hundreds, "149"), amount(hundreds, "-99949")),
            ("200".into(), "100".into(), "-99900".into())
        );
        let tiny = NumberForm::Numeric { precision: 2, scale: 4 };
        assert_eq!(amount(tiny, "0.00994"), "0.0099");
        assert_eq!(amount(NumberForm::Unbounded, "12345678901234567890.000"), "12345678901234567890.000");
        assert_eq!(amount(NumberForm::Unbounded, "1.5e-3"), "0.0015");
    }

    #[test]
    fn what_its_column_could_not_hold_is_no_amount() {
        let range = |form: NumberForm| Err(AmountError::Range(form.to_string()));
        assert_eq!(INT4.amount("2147483648"), range(INT4));
        assert_eq!(amount(INT4, "-2147483648"), "-2147483648");
        assert_eq!(INT4.amount("2147483647.5"), range(INT4));
        assert_eq!(MONEY.amount("999.995"), range(MONEY));
        assert_eq!(amount(MONEY, "999.994"), "999.99");
        assert_eq!(NumberForm::Numeric { precision: 2, scale: 4 }.amount("0.01"), range(NumberForm::Numeric { precision: 2, scale: 4 }));
        for json in [
            "null",
            "true",
            "\"NaN\"",
            "\"Infinity\"",
            "\"\"",
            "\" 1\"",
            "\".5\"",
            "\"1.\"",
            "\"0x1F\"",
            "\"1_0\"",
            "\"+1\"",
            "[1]",
            "{}",
            "\"1e\"",
        ] {
            assert_eq!(NumberForm::Unbounded.amount(json), Err(AmountError::NoNumber), "{json}");
        }
    }

    #[test]
    fn a_few_bytes_never_become_many_digits() {
        let at_most = "9".repeat(NumberForm::DIGITS_MAX);
        assert_eq!(amount(NumberForm::Unbounded, &at_most), at_most);
        for json in [
            at_most + "9",
            "1e1000".to_owned(),
            "1e-1001".to_owned(),
            "1e99999999999999999999".to_owned(),
            "0.1e-9223372036854775808".to_owned(),
        ] {
            assert_eq!(NumberForm::Unbounded.amount(&json), Err(AmountError::Digits), "{json}");
        }
    }

    #[test]
    fn sums_are_exact_or_left_to_postgres() {
        assert_eq!(INT4.sum("41", "1").as_deref(), Some("42"));
        assert_eq!(INT4.sum("\"007\"", "-8").as_deref(), Some("-1"));
        assert_eq!(INT4.sum("null", "5").as_deref(), Some("5"));
        // Postgres rounds what is set before anything is added.
        assert_eq!(MONEY.sum("-0.005", "0.01").as_deref(), Some("0.00"));
        assert_eq!(NumberForm::Unbounded.sum("0.1", "0.20").as_deref(), Some("0.30"));
        for (form, set) in [(INT4, "1.0"), (INT4, "1e2"), (INT4, "true"), (MONEY, "\"NaN\""), (MONEY, "\"1 \""), (MONEY, "\"a\"")] {
            assert_eq!(form.sum(set, "1"), None, "{set}");
        }
        assert_eq!(sum_of_amounts("0.30", "-0.30").as_deref(), Some("0.00"));
        let most = "9".repeat(NumberForm::DIGITS_MAX);
        let more = sum_of_amounts(&most, "1").expect("one digit more");
        assert_eq!(sum_of_amounts(&more, "1"), None);
    }
}
