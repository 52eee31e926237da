//! Members that are added to their columns instead of set.

use super::{Check, InJson, quoted};
use crate::{
    collections::{Collection, Mode},
    save::{Added, Body, Member},
};

impl Check<'_, '_> {
    /// The body with the members named in `add` in front, rounded to what their columns hold, and what they are added to.
    pub(super) fn added(&mut self, collection: &Collection, mut members: Vec<Member<'_>>, add: &[String]) -> Option<(Body, Box<[Added]>)> {
        if collection.mode == Mode::Append {
            return self.refuse("add", || format!("is not for {}, whose rows are only added", collection.name));
        }
        if add.len() > members.len() {
            return self.refuse("add", || "has more names than `json` has members".to_owned());
        }
        let mut added = Vec::with_capacity(add.len());
        let mut written: Vec<(String, String)> = Vec::with_capacity(members.len());
        for (n, name) in add.iter().enumerate() {
            let Some(place) = members.iter().position(|member| member.name == *name) else {
                return self
                    .refuse(format_args!("add[{n}]"), || format!("is {}, which is no member of `json`, or is named twice", quoted(name)));
            };
            let Member { name, value } = members.swap_remove(place);
            // A member that is no column is told already.
            let (column, _) = collection.column(&name)?;
            let amount = self.amount(collection, column, value)?;
            added.push(Added { column, form: collection.columns[usize::from(column)].number });
            written.push((name.into_owned(), amount));
        }
        let bytes = written.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let others = members.into_iter().map(|member| (member.name.into_owned(), member.value.to_owned()));
        Some((Body::of_members(bytes, written.into_iter().chain(others)), added.into()))
    }

    /// What is added, as its column holds it.
    fn amount(&mut self, collection: &Collection, index: u16, json: &str) -> Option<String> {
        let column = &collection.columns[usize::from(index)];
        let field = InJson(&column.name);
        if collection.is_key(index) {
            return self.refuse(field, || "is a key column, which nothing is added to".to_owned());
        }
        if collection.version == Some(index) {
            return self.refuse(field, || "is the version column, which is only set".to_owned());
        }
        let Some(form) = column.number else {
            return self.refuse(field, || format!("is {}: only integer and numeric columns are added to", column.cast));
        };
        match form.amount(json) {
            Ok(amount) => Some(amount),
            Err(error) => self.refuse(field, || error.to_string()),
        }
    }
}
