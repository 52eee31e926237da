//! Values of every type that a column may have.

/// A value as a save spells it and as SQL does.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The value in a body.
    pub(crate) json: String,
    /// The literal of a direct write.
    pub(crate) sql: String,
}

/// A column's type and values of it, at least one.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The type, as `format_type` prints it.
    pub(crate) of: String,
    /// Its values.
    pub(crate) samples: Vec<Sample>,
    /// Whether the same JSON says it as an element of an array. Not if it is an array itself, of a domain: dimensions look alike.
    pub(crate) in_arrays: bool,
}

/// Types that a user may have.
pub(crate) const OWN_TYPES: &str = r#"
    create schema "Other Schema";
    create type mood as enum ('sad', 'so so', 'it''s "x"', 'É');
    create type pair as (x int, "Label of it" text, at timestamptz, j jsonb);
    create type "Other Schema"."Odd ""Type" as (p pair, l pair[]);
    create domain short as varchar(3);
    create domain price as numeric(8, 3) check (value >= 0);
    create domain list as numeric(6, 2)[];
    create domain moods as mood[];
    create domain a_pair as pair;
    create domain doc as jsonb;
    create type floats as range (subtype = float8, subtype_diff = float8mi);
"#;

/// Postgres' input text, as a JSON string.
pub(crate) fn text(value: &str) -> Sample {
    Sample { json: serde_json::Value::from(value).to_string(), sql: quoted(value) }
}

/// JSON that is also Postgres' input text: numbers, booleans, documents.
fn raw(value: &str) -> Sample {
    Sample { json: value.to_owned(), sql: quoted(value) }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn column(of: &str, samples: impl IntoIterator<Item = Sample>) -> Column {
    Column { of: of.to_owned(), samples: samples.into_iter().collect(), in_arrays: true }
}

fn texts(of: &str, values: &[&str]) -> Column {
    column(of, values.iter().map(|value| text(value)))
}

/// Every column of the tests.
pub(crate) fn columns() -> Vec<Column> {
    [numbers(), strings(), times(), networks_and_bits(), shapes_and_searches(), names_of_objects(), ranges(), documents(), own()].concat()
}

fn numbers() -> Vec<Column> {
    let with = |of: &str, numbers: &[&str], others: &[&str]| {
        column(of, numbers.iter().map(|number| raw(number)).chain(others.iter().map(|other| text(other))))
    };
    let long = format!("{}.{}", "9".repeat(400), "1234567890".repeat(60));
    let tiny = format!("0.{}1", "0".repeat(5_000));
    vec![
        with("smallint", &["-32768", "32767", "0", "-0"], &[" 7 "]),
        with("integer", &["-2147483648", "2147483647"], &["007"]),
        with("bigint", &["-9223372036854775808", "9223372036854775807", "9007199254740993"], &["9007199254740993"]),
        with(
            "numeric",
            &["0", "-0.00", "1.10", "12345678901234567890.123456789012345678901234567890", "1e-30", "1.5E+20", &long, &tiny],
            &["NaN", "Infinity", "-Infinity", "1e1000"],
        ),
        with("numeric(6,2)", &["1.005", "1.004999999999", "-9999.99", "9999.994"], &["NaN", "0.005"]),
        with("numeric(2,-1)", &["124", "125"], &["-994"]),
        with("real", &["1.1", "3.4028235e38", "1e-45", "16777217", "-0", "0.1234567890123"], &["NaN", "Infinity", "-Infinity", "-0"]),
        with(
            "double precision",
            &["1.1", "0.1", "1.7976931348623157e308", "5e-324", "-0", "-0.0", "9007199254740993", "0.1234567890123456789"],
            &["NaN", "Infinity", "-Infinity", "-0"],
        ),
        with("money", &["12.34", "-0.005"], &["$1,234.56", "-92233720368547758.08", "(1.00)"]),
        column("boolean", ["true", "false"].map(raw).into_iter().chain(["t", "no", "on", "1"].map(text))),
        with("oid", &["0", "4294967295"], &["26"]),
        with("xid", &["4294967295"], &["3"]),
        with("xid8", &["18446744073709551615"], &["3"]),
        with("cid", &["7"], &["4294967295"]),
    ]
}

fn strings() -> Vec<Column> {
    const ODD: [&str; 14] = [
        "",
        " ",
        "null",
        "NULL",
        "{}",
        "{a,b}",
        "(1,2)",
        "a\"b\\c'd",
        "\\x41\\n",
        "line\nbreak\r\ttab\u{1}\u{7f}",
        "e\u{301} is not \u{e9}",
        "\u{1F600}\u{200d}\u{feff}\u{202e}\u{ffff}\u{10ffff}",
        "$1 %s ; drop table t; -- /* */",
        "true",
    ];
    vec![
        texts("text", &ODD),
        texts("character varying", &ODD),
        texts("character varying(3)", &["abc", "abc    ", "\u{1F600}\u{1F600}\u{1F600}", ""]),
        texts("bpchar", &["ab  ", ""]),
        texts("character", &["a", " "]),
        texts("character(3)", &["a", "ab ", "abc   ", "\u{e9}\u{e9}\u{e9}", ""]),
        texts("name", &["a name", &"n".repeat(63), &"cut \u{e9}".repeat(20)]),
        texts("\"char\"", &["x", "", "\\377"]),
        texts("bytea", &["\\x", "\\xDEADbeef00ff", "a\\000b\\\\", "plain"]),
        texts("refcursor", &["a cursor"]),
        texts("information_schema.character_data", &["x"]),
        texts("information_schema.sql_identifier", &["x"]),
        texts("information_schema.yes_or_no", &["YES", "NO"]),
        texts("information_schema.cardinal_number", &["7"]),
        texts("uuid", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a12}"]),
    ]
}

fn times() -> Vec<Column> {
    const STAMPS: [&str; 11] = [
        "2024-02-29 23:59:59.999999",
        "2024-02-29T12:00:00Z",
        "2024-02-29 12:00:00+05:30",
        "2024-06-30 12:00:00 Europe/Paris",
        "4713-01-01 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
        "infinity",
        "-infinity",
        "epoch",
        "2024-01-01 00:00:00.4999996",
        "20240229T101112.5",
    ];
    const CLOCKS: [&str; 5] = ["00:00", "24:00:00", "23:59:59.999999", "04:05:06.7891239 PM", "allballs"];
    vec![
        texts("date", &["2024-02-29", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity", "epoch", "Feb 29, 2024", "J2451187"]),
        texts("time without time zone", &CLOCKS),
        texts("time(0) without time zone", &["23:59:59.5", "12:00:00.4999999"]),
        texts("time with time zone", &["00:00", "23:59:59.999999+15:59", "12:00-08", "12:00 UTC"]),
        texts("time(2) with time zone", &["12:00:00.005-08", "23:59:59.999+00"]),
        texts("timestamp without time zone", &STAMPS),
        texts("timestamp(0) without time zone", &["2024-12-31 23:59:59.5", "2024-01-01 00:00:00.4999996", "infinity"]),
        texts("timestamp with time zone", &STAMPS),
        texts("timestamp(3) with time zone", &["2024-12-31 23:59:59.9995+02", "2024-01-01 00:00:00.0004999"]),
        texts("information_schema.time_stamp", &["2024-12-31 23:59:59.999"]),
        texts(
            "interval",
            &[
                "1 year 2 mons -3 days 04:05:06.789012",
                "P1Y2M3DT4H5M6.7S",
                "5",
                "-00:00:00.000001",
                "178000000 years",
                "1-2",
                "@ 1 hour ago",
            ],
        ),
        texts("interval(0)", &["1.5", "00:00:00.49"]),
        texts("interval year", &["5", "5 years 7 mons"]),
        texts("interval year to month", &["1-2", "14 mons 3 days"]),
        texts("interval day to second(2)", &["1 2:03:04.567", "36"]),
    ]
}

fn networks_and_bits() -> Vec<Column> {
    vec![
        texts("inet", &["192.168.0.1", "192.168.0.1/24", "::1/128", "2001:db8::ffff:1.2.3.4/64"]),
        texts("cidr", &["192.168.0.0/16", "10", "2001:db8::/32"]),
        texts("macaddr", &["08:00:2b:01:02:03", "08002b-010203", "0800.2b01.0203"]),
        texts("macaddr8", &["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"]),
        texts("bit", &["1", "0"]),
        texts("bit(3)", &["101", "b011"]),
        texts("bit varying", &["", "1010101010101", "xF0"]),
        texts("bit varying(3)", &["", "101"]),
        texts("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF", "16/b374d848"]),
        texts("pg_snapshot", &["10:20:10,14,15"]),
        texts("txid_snapshot", &["10:20:10,14,15"]),
        texts("tid", &["(0,1)", "(4294967295,65535)"]),
    ]
}

fn shapes_and_searches() -> Vec<Column> {
    vec![
        texts("point", &["(1.5,-0)", "1e300,NaN", "(Infinity,-Infinity)"]),
        texts("line", &["{1,-1,0}", "[(0,0),(1,3)]"]),
        texts("lseg", &["[(0,0),(1,3.3)]"]),
        texts("box", &["(3,4),(1,2)"]),
        texts("path", &["((0,0),(1,1),(2,0))", "[(0,0),(1,1)]"]),
        texts("polygon", &["((0,0),(1,1),(2,0))"]),
        texts("circle", &["<(1,2),3.25>"]),
        texts("tsvector", &["a fat cat sat", "a:1A fat:2B,4C 'it''s':3", ""]),
        texts("tsquery", &["fat & (rat | cat) & !dog", "'it''s':AB <-> x:*", ""]),
        texts("xml", &["<a b=\"c\">&amp;<!-- x --></a>", "text <b/>", ""]),
        texts("jsonpath", &["$.a[*] ? (@.b > 1.50)", "strict $"]),
        texts("aclitem", &["postgres=arwdDxt/postgres"]),
        texts("int2vector", &["1 2 -3", ""]),
        texts("oidvector", &["1 2 3", ""]),
    ]
}

fn names_of_objects() -> Vec<Column> {
    vec![
        texts("regclass", &["pg_class", "\"saved\"", "pg_catalog.pg_type"]),
        texts("regcollation", &["\"C\""]),
        texts("regconfig", &["english"]),
        texts("regdictionary", &["simple"]),
        texts("regnamespace", &["public"]),
        texts("regoper", &["!!"]),
        texts("regoperator", &["+(integer,integer)"]),
        texts("regproc", &["pg_backend_pid"]),
        texts("regprocedure", &["lower(text)"]),
        texts("regrole", &["postgres"]),
        texts("regtype", &["integer", "mood", "timestamp with time zone[]"]),
    ]
}

fn ranges() -> Vec<Column> {
    vec![
        texts("int4range", &["[1,5]", "empty", "(,)", "(3,3]"]),
        texts("int8range", &["[-9223372036854775808,9223372036854775807)"]),
        texts("numrange", &["[1.10,2.200)", "(,1e30]"]),
        texts("daterange", &["[2024-02-28,2024-02-29]", "[-infinity,infinity]"]),
        texts("tsrange", &["[2024-01-01 00:00:00.000001,)", "(\"2024-01-01 10:00\",infinity)"]),
        texts("tstzrange", &["[2024-01-01 10:00+02,2024-01-01 10:00-02)"]),
        texts("int4multirange", &["{}", "{[1,2],[5,7),[6,9]}"]),
        texts("int8multirange", &["{[1,2],(,-5]}"]),
        texts("nummultirange", &["{[1.10,2.200),(5,6]}"]),
        texts("datemultirange", &["{[2024-02-28,2024-02-29]}"]),
        texts("tsmultirange", &["{[2024-01-01 10:00,2024-01-02)}"]),
        texts("tstzmultirange", &["{[2024-01-01 10:00+02,infinity)}"]),
        texts("floats", &["[0.1,1e300)", "[-0,NaN]"]),
    ]
}

fn documents() -> Vec<Column> {
    // (A string that is an element of a json[] loses escapes that it doesn't need, like `\/`.)
    const DOCUMENTS: [&str; 9] = [
        r#"{"b": 1.50,   "a": [1, "\u00e9\ud83d\ude00", null], "a": {}}"#,
        "[]",
        "{}",
        "12345678901234567890.12345678901234567890",
        "-0.00",
        r#""text \"quoted\" \\ ""#,
        r#"["\/\u0041"]"#,
        "true",
        r#"[1e-20, [[["deep"]]], {"": ""}]"#,
    ];
    vec![column("json", DOCUMENTS.map(raw)), column("jsonb", DOCUMENTS.map(raw)), column("doc", DOCUMENTS.map(raw))]
}

fn own() -> Vec<Column> {
    let sample = |json: &str, sql: &str| Sample { json: json.to_owned(), sql: sql.to_owned() };
    let pair = || {
        [
            sample(
                r#"{"x": 1, "Label of it": "a, \"b\" (c) \\ 'd'", "at": "2024-01-01 10:00+02", "j": {"n": 1.50, "s": "x"}}"#,
                r#"row(1, 'a, "b" (c) \ ''d''', '2024-01-01 10:00+02', '{"n": 1.50, "s": "x"}')"#,
            ),
            sample(r#"{"Label of it": "", "unknown": 1}"#, "row(null, '', null, null)"),
            sample("{}", "row(null, null, null, null)"),
            text("(7,\"in, \"\"text\"\"\",epoch,\"[1]\")"),
        ]
    };
    let odd = sample(
        r#"{"p": {"x": 1}, "l": [{"x": 2, "Label of it": "{}"}, null, {}]}"#,
        "row(row(1, null, null, null), array[row(2, '{}', null, null), null, row(null, null, null, null)]::pair[])",
    );
    vec![
        texts("mood", &["sad", "so so", "it's \"x\"", "\u{c9}"]),
        texts("short", &["abc", "ab "]),
        column("price", [raw("1.0005"), text("12345.67850"), text("NaN")]),
        Column { in_arrays: false, ..column("list", [sample("[1.005, null]", "'{1.005,NULL}'"), sample("[]", "'{}'"), text("{2,3}")]) },
        Column { in_arrays: false, ..column("moods", [sample(r#"["so so", "sad"]"#, "'{so so,sad}'")]) },
        Column { in_arrays: false, ..column("moods[]", [sample(r#"["{so so,sad}", null]"#, r#"'{"{so so,sad}",NULL}'"#)]) },
        column("pair", pair()),
        column("a_pair", pair()),
        column("\"Other Schema\".\"Odd \"\"Type\"", [odd]),
    ]
}
