//! Names inside SQL.

/// A name, whatever is in it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Schema and table.
pub(super) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_quotes() {
        assert_eq!(identifier("plain"), r#""plain""#);
        assert_eq!(identifier(r#"a"; drop table b; --"#), r#""a""; drop table b; --""#);
        assert_eq!(qualified("S p", "T.x"), r#""S p"."T.x""#);
    }
}
