//! The known name that a misspelt one was probably meant to be.

/// The known name that is a typing error away, if there is one. Long names aren't searched for: the work grows with their length.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const NAME_BYTES_MAX: usize = 128;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let near = known.map(|other| (strsim::osa_distance(name, other), other)).min_by_key(|&(distance, _)| distance);
    near.filter(|&(distance, other)| distance <= (other.chars().count() / 3).clamp(1, 3)).map(|(_, other)| other)
}
