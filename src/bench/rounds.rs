//! What several rounds of one measurement say together.

/// The middle one; of an even number, the mean of the two in the middle.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// To three digits behind the point: more would be noise.
pub(super) fn ratio(of: f64, to: f64) -> f64 {
    (of / to * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median([4.0, 1.0, 2.0, 30.0]).to_string(), "3");
        assert_eq!(median([7.0]).to_string(), "7");
    }

    #[test]
    fn a_ratio_is_rounded() {
        assert_eq!(ratio(2.0, 3.0).to_string(), "0.667");
    }
}
