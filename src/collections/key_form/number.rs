//! Integers and numerics as key parts.

use std::borrow::Cow;

use super::{KeyPartError, refuse};

/// An optional sign and digits; leading zeros and a plus sign go, as they do when Postgres prints the number.
pub(super) fn integer(part: &str, min: i64, max: i64) -> Result<Cow<'_, str>, KeyPartError> {
    let digits = part.strip_prefix(['+', '-']).unwrap_or(part);
    let number = if is_digits(digits) { part.parse::<i64>().ok() } else { None };
    let as_printed = if digits.starts_with('0') { part == "0" } else { !part.starts_with('+') };
    match number.filter(|number| (min..=max).contains(number)) {
        Some(_) if as_printed => Ok(Cow::Borrowed(part)),
        Some(number) => Ok(Cow::Owned(number.to_string())),
        None => refuse(format!("must be a whole number from {min} to {max}")),
    }
}

/// An optional sign, digits, and a point with digits; padded to `scale` digits after the point. Exponents are refused.
pub(super) fn numeric(part: &str, precision: u32, scale: u32) -> Result<Cow<'_, str>, KeyPartError> {
    if part.eq_ignore_ascii_case("nan") {
        return Ok(Cow::Borrowed("NaN"));
    }
    let (precision, scale) = (precision as usize, scale as usize);
    let unsigned = part.strip_prefix(['+', '-']).unwrap_or(part);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let plain = (is_digits(whole) || whole.is_empty() && is_digits(fraction)) && (fraction.is_empty() || is_digits(fraction));
    if !plain {
        return refuse(format!("must be a number of plain digits with {scale} of them after the point"));
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if fraction.len() > scale {
        return refuse(format!("has more than the {scale} digits after the point that its column holds"));
    }
    // As many digits as the number has when it is written without its point.
    let significant = match whole.len() {
        0 => scale - fraction.bytes().take_while(|&digit| digit == b'0').count().min(scale),
        whole => whole + scale,
    };
    if !(whole.is_empty() && fraction.is_empty()) && significant > precision {
        return refuse(format!("has more than the {precision} digits that its column holds"));
    }
    Ok(Cow::Owned(padded(part.starts_with('-'), whole, fraction, scale)))
}

fn padded(negative: bool, whole: &str, fraction: &str, scale: usize) -> String {
    let zero = whole.is_empty() && fraction.is_empty();
    let sign = if negative && !zero { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    match scale {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction:0<scale$}"),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int2(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
        integer(part, i16::MIN.into(), i16::MAX.into())
    }

    #[test]
    fn an_integer_has_one_spelling() {
        for (part, expected) in [("7", "7"), ("+7", "7"), ("007", "7"), ("-0", "0"), ("-32768", "-32768"), ("32767", "32767")] {
            assert_eq!(int2(part).as_deref(), Ok(expected));
        }
        assert_eq!(integer("-9223372036854775808", i64::MIN, i64::MAX).as_deref(), Ok("-9223372036854775808"));
        for part in ["", "+", "--1", "32768", "-32769", " 7", "7 ", "1.0", "1e3", "0x10", "1_000", "\u{0663}"] {
            assert!(int2(part).is_err(), "{part:?}");
        }
        assert!(integer("9223372036854775808", i64::MIN, i64::MAX).is_err());
        assert!(integer(&"9".repeat(10_000), i64::MIN, i64::MAX).is_err());
    }

    #[test]
    fn a_numeric_has_exactly_its_scale() {
        let expected = [
            ("1", "1.00"),
            ("+1.5", "1.50"),
            ("007.25", "7.25"),
            (".5", "0.50"),
            ("5.", "5.00"),
            ("-0.00", "0.00"),
            ("999.990", "999.99"),
            ("-1.1", "-1.10"),
        ];
        for (part, canonical) in expected {
            assert_eq!(numeric(part, 5, 2).as_deref(), Ok(canonical));
        }
        assert_eq!(numeric("nan", 5, 2).as_deref(), Ok("NaN"));
        assert_eq!(numeric("00042", 2, 0).as_deref(), Ok("42"));
        for part in ["", ".", "-", "1.005", "1000", "1e2", "Infinity", " 1", "1,5", "0x1", "1.2.3"] {
            assert!(numeric(part, 5, 2).is_err(), "{part:?}");
        }
    }

    #[test]
    fn a_numeric_whose_scale_exceeds_its_precision_holds_small_fractions_only() {
        assert_eq!(numeric("0.00123", 3, 5).as_deref(), Ok("0.00123"));
        assert_eq!(numeric("0", 3, 5).as_deref(), Ok("0.00000"));
        assert!(numeric("0.01", 3, 5).is_err());
        assert!(numeric("1", 3, 5).is_err());
    }
}
