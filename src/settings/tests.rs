//! Settings from the outside: what an operator writes, and what is answered.

use std::{fs, path::PathBuf};

use super::*;
use crate::collections::Mode;

struct Given {
    file: Option<&'static str>,
    env: Vec<(String, String)>,
    sets: Vec<String>,
}

fn file(text: &'static str) -> Given {
    Given { file: Some(text), env: Vec::new(), sets: Vec::new() }
}

fn env(variables: &[(&str, &str)]) -> Given {
    Given { file: None, env: variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(), sets: Vec::new() }
}

fn sets(sets: &[&str]) -> Given {
    Given { file: None, env: Vec::new(), sets: sets.iter().map(|set| set.to_string()).collect() }
}

impl Given {
    fn and(mut self, other: Given) -> Self {
        self.file = self.file.or(other.file);
        self.env.extend(other.env);
        self.sets.extend(other.sets);
        self
    }

    fn load(self) -> Result<Loaded, SettingsError> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("forebay.toml");
        if let Some(text) = self.file {
            fs::write(&path, text).expect("write settings file");
        }
        Loaded::load(self.file.map(|_| path.as_path()), self.env.into_iter(), &self.sets)
    }

    fn settings(self) -> Settings {
        self.load().expect("good settings").settings
    }

    /// The problems as they are printed, without the directory of the file.
    fn problems(self) -> Vec<String> {
        let error = self.load().expect_err("bad settings");
        error.problems.iter().map(|problem| problem.to_string()).map(|text| text.split("/").last().unwrap_or(&text).to_owned()).collect()
    }
}

#[test]
fn without_anything_the_defaults_hold() {
    assert_eq!(env(&[]).settings(), Settings::default());
}

#[test]
fn later_sources_win() {
    let low = || env(&[("DATABASE_URL", "postgres://low"), ("STATE_DIRECTORY", "/var/lib/forebay:/var/lib/other")]);
    assert_eq!(low().settings().postgres.url(), Some("postgres://low"));
    assert_eq!(low().settings().journal.directory, PathBuf::from("/var/lib/forebay"));

    let with_file = || low().and(file("postgres.url = 'postgres://file'\n[drain]\nstatement_rows = 200\n[lanes.default]\nwindow = '1 s'"));
    assert_eq!(with_file().settings().postgres.url(), Some("postgres://file"));
    assert_eq!(with_file().settings().drain.statement_rows, 200);
    assert_eq!(with_file().settings().lanes["default"].window, Duration::from_secs(1));

    let with_env = || with_file().and(env(&[("FOREBAY__DRAIN__STATEMENT_ROWS", "300"), ("FOREBAY__LANES__DEFAULT__WINDOW", "2 s")]));
    assert_eq!(with_env().settings().drain.statement_rows, 300);
    assert_eq!(with_env().settings().lanes["default"].window, Duration::from_secs(2));

    let with_sets = with_env().and(sets(&["drain.statement_rows=400", "drain.statement_rows=500"])).settings();
    assert_eq!(with_sets.drain.statement_rows, 500);
}

#[test]
fn every_source_can_adjust_collections() {
    let settings = file("[collections.plain]\n[collections.'game.score']\nmode = 'append'")
        .and(env(&[("FOREBAY__COLLECTIONS__PLAYERS__KEY", "tenant, id")]))
        .and(sets(&["collections.game.player.table=game.players"]))
        .settings();
    assert_eq!(settings.collections["plain"], CollectionSettings::default());
    assert_eq!(settings.collections["game.score"].mode, Mode::Append);
    assert_eq!(settings.collections["players"].key, Some(vec!["tenant".to_owned(), "id".to_owned()]));
    assert_eq!(settings.collections["game.player"].table.as_deref(), Some("game.players"));
}

#[test]
fn unknown_keys_are_refused_with_origin_and_nearest_key() {
    let given = file("[grpc]\n\nlistn = '127.0.0.1:1'\n[kafka]").and(env(&[("FOREBAY__JOURNAL__DIR", "/x")])).and(sets(&["drain.rows=1"]));
    assert_eq!(
        given.problems(),
        [
            "forebay.toml:3: grpc.listn: there is no such key; did you mean grpc.listen?",
            "forebay.toml:4: kafka: there is no such key; the sections are grpc, http, journal, backlog, drain, postgres, failed, \
             request_ids, callbacks, stop, log, lanes, collections, endpoints",
            "FOREBAY__JOURNAL__DIR: journal.dir: there is no such key; journal has journal.directory, journal.bytes_max, \
             journal.free_bytes_min, journal.segment_bytes, journal.group_bytes_max, journal.group_saves_max, journal.inbox_bytes_max, \
             journal.retention, journal.retention_bytes_max, journal.sync_warn, journal.sync_timeout",
            "--set: drain.rows: there is no such key; drain has drain.statement_rows, drain.statement_target, \
             drain.generation_objects_max, drain.rows_per_second_max, drain.retry_wait_min, drain.retry_wait_max, drain.halt_wait, drain.relational_retry, drain.on_rewind",
        ]
    );
}

#[test]
fn every_problem_is_told_at_once() {
    let given = file("[journal]\nretention = 10\nsegment_bytes = true\n[stop]\ndrain_timeout = '1 min'\n[drain]\nretry_wait_min = '20 s'")
        .and(env(&[("FOREBAY__GRPC__LISTEN", "localhost:1")]))
        .and(sets(&["log.level", "log.format=xml"]));
    let problems = given.problems();
    assert_eq!(problems.len(), 7, "{problems:#?}");
    let told = problems.join("\n");
    for part in [
        "forebay.toml:2: journal.retention: 10 has no unit: write \"10 ms\", \"10 s\" or \"10 min\"",
        "forebay.toml:3: journal.segment_bytes: is a boolean: write a size, as in \"64 MiB\"",
        "FOREBAY__GRPC__LISTEN: grpc.listen: \"localhost:1\" is not an address",
        "--set: write section.key=value",
        "--set: log.format: \"xml\" is not known: write one of text, json",
        "drain.retry_wait_min is above drain.retry_wait_max",
        "stop.drain_timeout is above stop.timeout",
    ] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
}

#[test]
fn a_check_about_an_unread_value_is_left_out() {
    assert_eq!(sets(&["stop.timeout=1", "stop.drain_timeout=20 s"]).problems().len(), 1);
}

#[test]
fn limits_that_another_limit_makes_unreachable_are_refused() {
    let problems = sets(&["journal.inbox_bytes_max=1 MiB", "journal.group_bytes_max=2 MiB", "http.listen=127.0.0.1:7420"]).problems();
    assert_eq!(
        problems,
        [
            "grpc.message_bytes_max is above journal.inbox_bytes_max, but a call of this size could never be accepted: \
             lower the one or raise the other",
            "journal.group_bytes_max is above journal.inbox_bytes_max, but a group is gathered from the inbox: \
             lower the one or raise the other",
            "grpc.listen and http.listen are both 127.0.0.1:7420: give one another port",
        ]
    );
}

#[test]
fn every_source_can_give_a_lane_its_collections() {
    let settings = file("[lanes.hot]\ncollections = ['scores', 'game.players']\nwindow = '0 ms'")
        .and(env(&[("FOREBAY__LANES__LOGS__COLLECTIONS", "events, audits")]))
        .and(sets(&["lanes.logs.window=1 s", "lanes.cold.collections=archive"]))
        .settings();
    assert_eq!((settings.lanes["hot"].window, settings.lanes["logs"].window), (Duration::ZERO, Duration::from_secs(1)));
    let layout = settings.layout();
    assert_eq!(layout.names().collect::<Vec<_>>(), ["default", "cold", "hot", "logs"]);
    let lane = |collection| layout.lane_of(collection).0;
    assert_eq!(["archive", "game.players", "audits", "anything"].map(lane), [1, 2, 3, 0]);
}

#[test]
fn lanes_that_can_not_be_are_refused() {
    let problems = file("[lanes.'no good']\nwindow = '0 ms'\n[lanes.idle]\n[lanes.a]\ncollections = ['x']\n[lanes.b]\ncollections = ['x']")
        .and(sets(&["lanes.default.collections=y"]))
        .problems();
    let told = problems.join("\n");
    for part in [
        "lanes.no good.window: is no lane's name: up to 40 letters, digits, - and _",
        "lanes.idle writes nothing: give it lanes.idle.collections",
        "the collection \"x\" is in lanes.a and in lanes.b",
        "lanes.default.collections can't be set",
    ] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    assert_eq!(problems.len(), 4, "{told}");
    let many: Vec<String> = (0..Settings::LANES_MAX).map(|n| format!("lanes.l{n}.collections=c{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(sets(&many).problems()[0].starts_with("there are 33 lanes, at most 32"), "default is one of them");
}

const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn every_source_can_give_an_endpoint() {
    let given =
        file("[endpoints.shop]\nurl = 'https://shop.test:8443/hook?x=1'\nsecret_file = '/run/secret'\n[collections.a]\non_failed = 'shop'")
            .and(env(&[("FOREBAY__ENDPOINTS__TILL__SECRET", &format!("{SIGNING}, {SIGNING}"))]))
            .and(sets(&["endpoints.till.url=http://127.0.0.1:1/", "endpoints.till.allow_loopback=true"]));
    let loaded = given.load().expect("good settings");
    let [shop, till] = ["shop", "till"].map(|name| &loaded.settings.endpoints[name]);
    let url = shop.url.as_ref().expect("a url");
    assert_eq!((url.host(), url.port(), url.authority(), url.path()), ("shop.test", 8443, "shop.test:8443", "/hook?x=1"));
    assert_eq!((till.secret.len(), till.allow_loopback, shop.allow_loopback), (2, true, false));
    let shown = format!("{loaded:?} {:?}", loaded.listing());
    assert!(!shown.contains("whsec_") && shown.contains("\"(secret)\""), "{shown}");
}

#[test]
fn endpoints_that_can_not_be_are_refused_and_their_secrets_not_shown() {
    let secret = format!("endpoints.e.secret={SIGNING}");
    let with =
        |more: &[&str]| sets(&[&["endpoints.e.url=https://e.test/", &secret], more].concat()).load().expect_err("bad settings").to_string();
    for (given, told) in [
        (vec!["endpoints.e.url=ftp://e.test/"], "endpoints.e.url: is neither https nor http"),
        (vec!["endpoints.e.url=e.test"], "endpoints.e.url: is neither https nor http"),
        (vec!["endpoints.e.url=https://u:hunter2@e.test/"], "endpoints.e.url: holds a user or a password"),
        (vec!["endpoints.e.url=https://e.test/#x"], "endpoints.e.url: holds a fragment"),
        (vec!["endpoints.e.url=http://e.test/"], "endpoints.e.url is not https: use https"),
        (vec!["endpoints.e.url=http://e.test/", "endpoints.e.allow_loopback=true"], "endpoints.e.url is not https"),
        (vec!["endpoints.e.url=http://[::1]/"], "endpoints.e.url is not https"),
        (vec!["endpoints.e.secret=hunter2"], "endpoints.e.secret: doesn't begin with whsec_: write whsec_"),
        (vec!["endpoints.e.secret=whsec_hunter2!"], "endpoints.e.secret: is no base64 after whsec_"),
        (vec!["endpoints.e.secret=whsec_aHVudGVyMg=="], "endpoints.e.secret: has 7 bytes"),
        (vec!["endpoints.e.secret_file=/x"], "endpoints.e has both secret and secret_file"),
        (vec!["endpoints.f.url=https://f.test"], "endpoints.f has no secret to sign with: set endpoints.f.secret"),
        (vec!["endpoints.f.secret_file=/x"], "endpoints.f has no url: give it endpoints.f.url"),
        (vec!["endpoints.no good.url=https://f.test"], "endpoints.no good.url: is no endpoint's name"),
        (vec!["collections.a.on_failed=g"], "collections.a.on_failed names \"g\", which is no endpoint: the settings have e"),
    ] {
        let problems = with(&given);
        assert!(problems.contains(told), "{told} is missing in\n{problems}");
        assert!(!problems.contains("hunter2") && !problems.contains("aHVu") && !problems.contains(SIGNING), "{problems}");
    }
    assert!(sets(&["collections.a.on_failed=g"]).problems()[0].ends_with("the settings have none"));
}

#[test]
fn the_connection_string_is_never_printed() {
    let secret = "postgres://user:hunter2@host/db";
    let loaded = env(&[("DATABASE_URL", secret)]).load().expect("good settings");
    assert_eq!(loaded.settings.postgres.url(), Some(secret));
    assert!(!format!("{:?} {:?}", loaded, loaded.listing()).contains("hunter2"));

    // Nor is it when it stands in the wrong place.
    for given in [
        file("[postgres]\nurl = 'postgres://user:hunter2@host/db"),
        file("[postgres]\nurl = ['postgres://user:hunter2@host/db']"),
        file("[postgres]\nulr = 'postgres://user:hunter2@host/db'"),
        sets(&["postgres://user:hunter2@host/db"]),
    ] {
        let error = given.load().expect_err("bad settings");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Loaded::load(Some(std::path::Path::new("/nowhere/forebay.toml")), std::iter::empty(), &[]).expect_err("no file");
    assert!(error.to_string().starts_with("/nowhere/forebay.toml: read settings file: "), "{error}");
}

#[test]
fn the_listing_tells_values_and_origins() {
    let loaded =
        env(&[("DATABASE_URL", "secret")]).and(sets(&["log.level=debug", "collections.a.mode=append"])).load().expect("good settings");
    let listing = loaded.listing();
    let listed = |key: &str| listing.iter().find(|listed| listed.key == key).expect("listed");
    assert_eq!(listed("log.level").value.as_deref(), Some("\"debug\""));
    assert_eq!(listed("log.level").origin, Some(Origin::Flag));
    assert_eq!(listed("postgres.url").value.as_deref(), Some("(secret)"));
    assert_eq!(listed("grpc.connections_max").value.as_deref(), Some("4_096"));
    assert_eq!(listed("grpc.connections_max").origin, None);
    assert_eq!(listed("collections.a.mode").value.as_deref(), Some("\"append\""));
}

/// `config/forebay.toml` is the page that operators read.
mod shipped_file {
    use super::*;
    use crate::settings::keys::{NAMED_KEYS, NamedKey};

    const SHIPPED: &str = include_str!("../../config/forebay.toml");

    #[test]
    fn holds_the_defaults() {
        assert_eq!(file(SHIPPED).settings(), Settings::default());
    }

    #[test]
    fn shows_every_key_as_the_program_would() {
        let missing: Vec<String> = file(SHIPPED)
            .load()
            .expect("good settings")
            .listing()
            .into_iter()
            .filter(|listed| !is_shown(listed))
            .map(|listed| listed.key)
            .collect();
        assert!(missing.is_empty(), "not in config/forebay.toml: {missing:?}");
        let named = NAMED_KEYS.iter().filter(|key| key.section != "lanes");
        for NamedKey { section, field, .. } in named {
            let of_section = SHIPPED.split_once(&format!("\n# [{section}.NAME]\n")).expect("a section").1;
            assert!(of_section.contains(&format!("\n# {field} = ")), "{section}.NAME.{field}");
        }
    }

    /// In its section, with its default; commented out if it has none.
    fn is_shown(listed: &Listed) -> bool {
        let (section, field) = listed.key.rsplit_once('.').expect("section.key");
        let body = SHIPPED.split_once(&format!("\n[{section}]\n")).map(|(_, rest)| rest.split("\n[").next().unwrap_or(rest));
        let line = match &listed.value {
            Some(value) => format!("\n{field} = {value}\n"),
            None => format!("\n# {field} = "),
        };
        body.is_some_and(|body| format!("\n{body}\n").contains(&line))
    }

    #[test]
    fn says_why_above_every_key() {
        let lines: Vec<&str> = SHIPPED.lines().collect();
        let is_key = |line: &str| {
            let name = line.trim_start_matches("# ").split_once(" = ").map(|(name, _)| name);
            name.is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let bare = lines.windows(2).find(|pair| is_key(pair[1]) && (is_key(pair[0]) || !pair[0].starts_with("# ")));
        assert_eq!(bare, None);
    }
}
