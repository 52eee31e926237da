//! Through PgBouncer in transaction mode, where every transaction may meet another connection.

use forebay::proto::FlushRequest;
use serde_json::json;
use tokio_postgres::NoTls;

use crate::support::{
    Database, Replica, Setup,
    audited::{self, Load, more_rows},
    directory,
    pooler::Pooler,
    saves::{request, set},
};

#[tokio::test(flavor = "multi_thread")]
async fn saves_drain_once_through_a_pooler_that_restarts_under_load() {
    const RESTARTS: usize = 5;
    let (database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    // Connections are reset after every transaction: nothing of a session may be needed by the next.
    let settings = "server_reset_query = DISCARD ALL\nserver_reset_query_always = 1\ndefault_pool_size = 2";
    let mut pooler = Pooler::before(&database, settings).await;
    let daemon = audited::setup(Setup::new(journal.path(), &pooler.url())).start().await;
    let load = Load::start(&daemon).await;
    for _ in 0..RESTARTS {
        more_rows(&database, 100).await;
        pooler.stop();
        pooler.start().await;
    }
    more_rows(&database, 100).await;
    load.stop().await.is_in(&database, &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_setting_of_a_session_is_left_on_a_shared_connection() {
    // The pooler itself sets the name of each client's application.
    const SETTINGS: &str = "select pg_backend_pid(), array(select name || '=' || setting from pg_settings
        where (source not in ('default', 'override') or setting <> reset_val) and name <> 'application_name' order by name)::text";
    let (database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    // One connection for all, never reset.
    let pooler = Pooler::before(&database, "default_pool_size = 1\nserver_reset_query =").await;
    let (other, connection) = tokio_postgres::connect(&pooler.url(), NoTls).await.expect("the pooler answers");
    tokio::spawn(connection);
    let settings = async || {
        let row = other.query_typed_one(SETTINGS, &[]).await.expect("asked");
        (row.get::<_, i32>(0), row.get::<_, String>(1))
    };
    let before = settings().await;
    let daemon = audited::setup(Setup::new(journal.path(), &pooler.url())).start().await;
    let load = Load::start(&daemon).await;
    more_rows(&database, 100).await;
    assert_eq!(settings().await, before, "in between");
    load.stop().await.is_in(&database, &daemon).await;
    daemon.stop().await;
    assert_eq!(settings().await, before, "afterwards, on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leads_to_a_standby_is_given_up_until_it_leads_to_the_primary_again() {
    let (database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let replica = Replica::of(&database).await;
    let pooler = Pooler::before(&database, "").await;
    let daemon = audited::setup(Setup::new(journal.path(), &pooler.url())).start().await;
    let mut client = daemon.client().await;
    client.save(request(set("things", &["1"], json!({"version": 1})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    pooler.lead_to(replica.database()).await;
    client.save(request(set("things", &["1"], json!({"version": 2})))).await.expect("accepted");
    let told = daemon.logged("postgres failed: trying again").await;
    assert!(told.to_string().contains("25006"), "{told}");
    pooler.lead_to(&database).await;
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select version from things").await, 2);
    assert_eq!(database.number("select count(*) from applied").await, 2);
    daemon.stop().await;
}
