//! The tables of the oracle: their SQL, and what the generator knows of them.

/// `public` of both databases.
const TABLES_SQL: &str = include_str!("schema.sql");
const WITHOUT_ACTIONS_SQL: &str = include_str!("without_actions.sql");
const RELAXED_SQL: &str = include_str!("relaxed.sql");

/// Banners whose guild goes fall back to this one, which no operation names: `on delete set default` has where to go.
const FIRST_ROWS: &str = "insert into guilds (id, tag) values (0, 'none')";

/// Tables that foreign keys join. An atomic batch stays in one when each has its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Island {
    /// Guilds, players and what belongs to them.
    World,
    /// Rooms and their bookings.
    Inn,
}

/// A table as the generator sees it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) island: Island,
    /// The table whose key this one's begins with.
    pub(super) parent: Option<&'static str>,
    /// The primary key; empty for an append collection.
    pub(super) key: &'static [Column],
    /// The other columns that saves may name.
    pub(super) columns: &'static [Column],
}

/// A column and the few values that it is given: so few that saves meet each other.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Its type without a modifier: a cast to it cuts nothing off.
    pub(super) cast: &'static str,
    pub(super) values: &'static [&'static str],
    /// May be NULL.
    pub(super) nullable: bool,
    /// A new row can't do without it.
    pub(super) needed: bool,
    /// Two rows can't have the same value.
    pub(super) unique: bool,
    /// Saves may add to it.
    pub(super) summed: bool,
    /// Holds keys of this table.
    pub(super) refers: Option<&'static str>,
    /// A value that its CHECK refuses.
    refuses: Option<&'static str>,
}

impl Column {
    const fn new(name: &'static str, cast: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, cast, values, nullable: false, needed: false, unique: false, summed: false, refers: None, refuses: None }
    }

    const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }

    const fn needed(self) -> Self {
        Self { needed: true, ..self }
    }

    const fn unique(self) -> Self {
        Self { unique: true, ..self }
    }

    const fn summed(self) -> Self {
        Self { summed: true, ..self }
    }

    const fn refers(self, table: &'static str) -> Self {
        Self { refers: Some(table), ..self }
    }

    const fn refuses(self, value: &'static str) -> Self {
        Self { refuses: Some(value), ..self }
    }

    /// A value that it refuses whatever other rows hold: by its CHECK, its type or the length of it.
    pub(super) fn unfit(&self) -> Option<&'static str> {
        match self.cast {
            _ if self.refuses.is_some() => self.refuses,
            // A sum of it would have to be read before the end.
            _ if self.summed => None,
            "int" => Some("99999999999"),
            "varchar" => Some("far too long"),
            "int4range" => Some("[5,1)"),
            _ => None,
        }
    }
}

impl Table {
    /// Whether each save adds a row.
    pub(super) fn appends(&self) -> bool {
        self.key.is_empty()
    }

    /// Every column, each `shown` in its way, separated by commas; the same order every time.
    pub(super) fn columns_shown(&self, shown: impl Fn(&Column) -> String) -> String {
        let order = self.appends().then(|| APPEND_ORDER.to_owned());
        order.into_iter().chain(self.key.iter().chain(self.columns).map(shown)).collect::<Vec<_>>().join(", ")
    }

    /// What sorts its rows: the key, or the order of insertion.
    pub(super) fn order(&self) -> String {
        match self.appends() {
            true => APPEND_ORDER.to_owned(),
            false => self.key.iter().map(|column| column.name).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The identity column of append tables. Not compared: numbers may be skipped, their order may not.
pub(super) const APPEND_ORDER: &str = "number";

const GUILD: &[&str] = &["1", "2", "3", "4"];
const PLAYER: &[&str] = &["1", "2", "3", "4", "5"];
const SLOT: &[&str] = &["0", "1", "2"];
const TAG: &[&str] = &["red", "blue", "gold", "grey", "none"];
const NAME: &[&str] = &["Ann", "Bo", "Cy", "Di", "Ed", "Flo"];
const SMALL: &[&str] = &["1", "2", "3", "4"];

/// Parents before children.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "guilds",
        island: Island::World,
        parent: None,
        key: &[Column::new("id", "int", GUILD)],
        columns: &[
            Column::new("tag", "varchar", &["red", "blue", "gold", "grey"]).nullable().unique(),
            Column::new("motto", "text", &["onward", "home"]),
            Column::new("points", "int", &["0", "5", "9"]).summed().refuses("-5"),
            Column::new("leader", "int", PLAYER).nullable().refers("players"),
        ],
    },
    Table {
        name: "players",
        island: Island::World,
        parent: None,
        key: &[Column::new("id", "int", PLAYER)],
        columns: &[
            Column::new("name", "text", NAME).needed().unique(),
            Column::new("guild", "int", GUILD).nullable().refers("guilds"),
            Column::new("mentor", "int", PLAYER).nullable().refers("players"),
            Column::new("level", "int", &["1", "2", "20"]).summed().refuses("21"),
            Column::new("rank", "int", SMALL).nullable().unique(),
        ],
    },
    Table {
        name: "items",
        island: Island::World,
        parent: Some("players"),
        key: &[Column::new("owner", "int", PLAYER), Column::new("slot", "int", SLOT)],
        columns: &[Column::new("kind", "text", &["sword", "bow", "staff"]), Column::new("seal", "int", SMALL).nullable().unique()],
    },
    Table {
        name: "runes",
        island: Island::World,
        parent: Some("items"),
        key: &[Column::new("owner", "int", PLAYER), Column::new("slot", "int", SLOT), Column::new("name", "text", &["fire", "ice"])],
        columns: &[Column::new("power", "int", &["1", "2", "3"]).summed().refuses("0")],
    },
    Table {
        name: "treaties",
        island: Island::World,
        parent: Some("guilds"),
        key: &[Column::new("a", "int", &["1", "2", "3"]), Column::new("b", "int", &["2", "3", "4"])],
        columns: &[Column::new("terms", "text", &["peace", "trade"]).nullable()],
    },
    Table {
        name: "banners",
        island: Island::World,
        parent: None,
        key: &[Column::new("id", "int", SMALL)],
        columns: &[
            Column::new("tag", "varchar", TAG).nullable(),
            Column::new("color", "text", &["black", "white", "green"]).nullable().unique(),
        ],
    },
    Table {
        name: "events",
        island: Island::World,
        parent: None,
        key: &[],
        columns: &[
            Column::new("what", "text", &["won", "lost", "slept"]).needed(),
            Column::new("player", "int", PLAYER).nullable().refers("players"),
            Column::new("name", "text", NAME).nullable(),
            Column::new("points", "int", &["1", "99"]).nullable().refuses("100"),
        ],
    },
    Table {
        name: "rooms",
        island: Island::Inn,
        parent: None,
        key: &[Column::new("id", "int", SMALL)],
        columns: &[
            Column::new("label", "text", &["attic", "cellar", "hall"]).nullable().unique(),
            Column::new("floor", "int", SMALL).nullable().unique(),
            Column::new("beds", "int", &["1", "2"]).summed().refuses("0"),
        ],
    },
    Table {
        name: "bookings",
        island: Island::Inn,
        parent: None,
        key: &[Column::new("id", "int", SMALL)],
        columns: &[
            Column::new("room", "int", SMALL).needed().refers("rooms"),
            Column::new("during", "int4range", &["[1,3)", "[2,5)", "[3,6)", "[6,9)"]).needed().unique(),
        ],
    },
];

/// One of [`TABLES`].
pub(super) fn named(name: &str) -> &'static Table {
    TABLES.iter().find(|table| table.name == name).expect("it is in the schema")
}

/// The tables in `public`; without `acting`, foreign keys refuse and do nothing else.
pub(super) fn tables(acting: bool) -> String {
    format!("{TABLES_SQL} {}", if acting { "" } else { WITHOUT_ACTIONS_SQL })
}

/// The tables once more in a schema `relaxed`, where nothing is checked before the end.
pub(super) fn relaxed(acting: bool) -> String {
    format!("create schema relaxed; set search_path = relaxed; {} {RELAXED_SQL} reset search_path", tables(acting))
}

/// Back to the rows that every run begins with.
pub(super) fn reset(schema: &str) -> String {
    format!("{} set search_path = {schema}; {FIRST_ROWS}; reset search_path;", empty(schema))
}

/// Without any row.
pub(super) fn empty(schema: &str) -> String {
    let names: Vec<_> = TABLES.iter().map(|table| format!("{schema}.{}", table.name)).collect();
    format!("truncate {} restart identity;", names.join(", "))
}

#[test]
fn the_generator_knows_every_table_of_the_schema() {
    assert_eq!(TABLES_SQL.matches("create table ").count(), TABLES.len());
    for table in TABLES {
        assert!(TABLES_SQL.contains(&format!("create table {} (", table.name)), "{}", table.name);
    }
}
