//! From sources to settings: later sources win, every problem is collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path as FilePath,
};

use super::{
    Settings, check, endpoints,
    keys::{KEYS, NAMED_KEYS, is_named_section, is_section, name_only},
    kinds::Raw,
    lanes, nearest,
    problem::{Origin, Problem, SettingsError},
    sources::{self, Entry},
};

/// Settings, and where each value that isn't a default was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

/// One line of the listing that `forebay check` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `section.key`
    pub key: String,
    /// As a settings file would hold it, secrets hidden; `None` if there is no value.
    pub value: Option<String>,
    /// Where it was read; `None` for a default.
    pub origin: Option<Origin>,
}

impl Loaded {
    /// As [`Settings::load`], remembering origins.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem of every source.
    pub fn load(file: Option<&FilePath>, env: impl Iterator<Item = (String, String)>, sets: &[String]) -> Result<Self, SettingsError> {
        let env: Vec<_> = env.collect();
        let mut problems = Vec::new();
        let file = file.into_iter().flat_map(|path| sources::file(path, &mut problems)).collect();
        Self::of(file, problems, &env, sets)
    }

    /// What a file says, and what went wrong in reading it; the environment; flags.
    pub(super) fn of(
        file: Vec<Entry>,
        mut problems: Vec<Problem>,
        env: &[(String, String)],
        sets: &[String],
    ) -> Result<Self, SettingsError> {
        let mut entries = sources::conventions(env);
        entries.extend(file);
        entries.extend(sources::environment(env));
        entries.extend(sources::flags(sets, &mut problems));

        let mut loaded = Self { settings: Settings::default(), origins: BTreeMap::new() };
        problems.extend(entries.into_iter().filter_map(|entry| loaded.apply(entry).err()));
        // A check about a value that could not be read would only confuse.
        let unread: BTreeSet<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        let together = check::together(&loaded.settings, &unread);
        problems.extend(together);
        if problems.is_empty() { Ok(loaded) } else { Err(SettingsError { problems }) }
    }

    /// Every key with its value and origin, in the order of `config/forebay.toml`.
    pub fn listing(&self) -> Vec<Listed> {
        let fixed = KEYS.iter().map(|key| self.listed(key.name.to_owned(), (key.show)(&self.settings)));
        let named = NAMED_KEYS.iter().flat_map(|key| {
            let names: Vec<&String> = match key.section {
                "lanes" => self.settings.lanes.keys().collect(),
                "endpoints" => self.settings.endpoints.keys().collect(),
                _ => self.settings.collections.keys().collect(),
            };
            names.into_iter().map(|name| {
                let path = sources::Path(vec![key.section.to_owned(), name.clone(), key.field.to_owned()]);
                self.listed(path.to_string(), (key.show)(&self.settings, name))
            })
        });
        fixed.chain(named).collect()
    }

    fn listed(&self, key: String, value: Option<String>) -> Listed {
        let origin = self.origins.get(&key).cloned();
        Listed { key, value, origin }
    }

    fn apply(&mut self, entry: Entry) -> Result<(), Problem> {
        let key = entry.path.to_string();
        match self.set(&entry) {
            Ok(()) => drop(self.origins.insert(key, entry.origin)),
            Err(text) => return Err(Problem { origin: entry.origin, key, text }),
        }
        Ok(())
    }

    fn set(&mut self, entry: &Entry) -> Result<(), String> {
        let parts: Vec<&str> = entry.path.0.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [section] if is_section(section) => match entry.raw {
                Raw::Table => Ok(()),
                _ => Err(format!("is a section: write [{section}] and its keys below")),
            },
            ["lanes", name, ..] if !lanes::is_name(name) => Err(lanes::no_name()),
            ["endpoints", name, ..] if !lanes::is_name(name) => Err(endpoints::no_name()),
            [section, name] if is_named_section(section) => match entry.raw {
                Raw::Table => {
                    name_only(&mut self.settings, section, name);
                    Ok(())
                }
                _ => Err(format!("is a table: write [{section}.{name}] and its keys below")),
            },
            [section, name, field] => {
                let key = NAMED_KEYS.iter().find(|key| key.section == *section && key.field == *field);
                key.map_or_else(|| Err(nearest::unknown(&entry.path)), |key| (key.set)(&mut self.settings, name, &entry.raw))
            }
            _ => {
                let name = entry.path.to_string();
                let key = KEYS.iter().find(|key| key.name == name);
                key.map_or_else(|| Err(nearest::unknown(&entry.path)), |key| (key.set)(&mut self.settings, &entry.raw))
            }
        }
    }
}
