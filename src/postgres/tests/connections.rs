use super::*;

#[tokio::test]
async fn a_server_that_forgets_at_a_power_cut_is_refused_unless_told() {
    let fixture = Fixture::new("").await;
    let server = fixture.postgres.server().await.expect("a server");
    assert!(!server.fsync && !server.read_only && server.version_number >= 130_000, "{server:?}");
    let strict = Postgres::new(&PostgresSettings { allow_fsync_off: false, ..fixture.settings.clone() }, 1).expect("a URL");
    let failure = strict.writer(Uuid::new_v4(), "default", Uuid::new_v4()).await.expect_err("fsync is off");
    assert_eq!(failure.action, Action::Halt);
    assert!(failure.to_string().contains("fsync = off"), "{failure}");
}

#[tokio::test]
async fn a_read_only_server_is_left_for_another() {
    let fixture = Fixture::new("").await;
    let url = fixture.settings.url().expect("a URL").to_owned() + "?options=-c%20default_transaction_read_only%3Don";
    let standby = Postgres::new(&PostgresSettings { url: Some(url.into()), ..fixture.settings.clone() }, 1).expect("a URL");
    let failure = standby.writer(Uuid::new_v4(), "default", Uuid::new_v4()).await.expect_err("it is read only");
    assert_eq!(failure.action, Action::Reconnect);
    assert!(failure.remedy.contains("primary"), "{failure}");
}

#[tokio::test]
async fn a_wrong_database_or_password_halts_and_an_absent_server_is_waited_for() {
    let fixture = Fixture::new("").await;
    let url = fixture.settings.url().expect("a URL").to_owned();
    let (server, _) = url.rsplit_once('/').expect("a URL");
    let of = |url: String| Postgres::new(&PostgresSettings { url: Some(url.into()), ..fixture.settings.clone() }, 1).expect("a URL");
    let failure = of(format!("{server}/nowhere")).server().await.expect_err("no such database");
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halt, Some("3D000")));
    let failure = of(url.replace("postgres@", "stranger@")).server().await.expect_err("no such role");
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halt, Some("28000")));
    let failure = of("postgres://u@127.0.0.1:1/d".to_owned()).server().await.expect_err("nobody is there");
    assert_eq!((failure.action, failure.sqlstate), (Action::Reconnect, None));
}

#[tokio::test]
async fn why_a_host_turns_us_away_is_told_though_the_next_is_not_there() {
    let fixture = Fixture::new("").await;
    let url = fixture.settings.url().expect("a URL").to_owned();
    let (user, rest) = url.split_once('@').expect("a user");
    let (host, _) = rest.split_once('/').expect("a database");
    for hosts in [format!("{host},127.0.0.1:1"), format!("127.0.0.1:1,{host}")] {
        let settings = PostgresSettings { url: Some(format!("{user}@{hosts}/nowhere").into()), ..fixture.settings.clone() };
        let failure = Postgres::new(&settings, 1).expect("a URL").server().await.expect_err("no such database");
        assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halt, Some("3D000")), "{hosts}");
    }
}

#[tokio::test]
async fn a_host_that_takes_connections_and_says_nothing_is_given_up_for_the_next() {
    let fixture = Fixture::new("").await;
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let silent = silent.local_addr().expect("an address");
    let url = fixture.settings.url().expect("a URL").to_owned();
    let limited =
        |url| PostgresSettings { url: Some(String::into(url)), connect_timeout: Duration::from_millis(300), ..fixture.settings.clone() };
    let both = url.replace("127.0.0.1", &format!("{silent},127.0.0.1"));
    Postgres::new(&limited(both), 1).expect("a URL").server().await.expect("the second host answers");
    let alone = Postgres::new(&limited(format!("postgres://u@{silent}/d")), 1).expect("a URL");
    let failure = alone.server().await.expect_err("it says nothing");
    assert_eq!((failure.action, failure.sqlstate), (Action::Reconnect, None));
}

#[tokio::test]
async fn a_cancelled_transaction_takes_its_connection_with_it() {
    let fixture = Fixture::new("create table t (id int4 primary key)").await;
    let mut lane = fixture.lane(&[]).await;
    assert_eq!(fixture.postgres.connections(), 2);
    fixture.database.run("begin").await.expect("a transaction");
    fixture.database.run("lock table t").await.expect("a lock");
    tokio::select! {
        biased;
        result = lane.apply(&[Set("t", &["1"], "{}")]) => panic!("it waits for the lock: {result:?}"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!lane.writer.is_usable());
    let (journal, owner) = (lane.journal, lane.owner);
    drop(lane);
    assert_eq!(fixture.postgres.connections(), 1);
    fixture.database.run("rollback").await.expect("released");
    let mut writer = fixture.postgres.writer(journal, "default", owner).await.expect("a new connection");
    assert_eq!(writer.read_position().await.expect("an answer").map(|row| row.through), Some(Sequence::ZERO));
}
