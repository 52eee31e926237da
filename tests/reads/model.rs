//! Reads under random load while Postgres stops, slows down and refuses saves, and the daemon is killed: what is shown is never older
//! than what was acknowledged before the read, never newer than what was sent by its end, and nothing in between that never was.
//!
//! Every object has one writer that awaits its answers, so its history is a list of states. Amounts that are added make each of
//! them another: one that counts twice, or not, is no state at all. `FOREBAY_READS` sets the number of troubles, `FOREBAY_SEED` replays.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use forebay::proto::{FlushRequest, LoadRequest, Save, SaveRequest};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, Request};
use uuid::Uuid;

use super::{Client, adding, get_request};
use crate::support::{
    Daemon, Database, Setup, directory, runs,
    saves::{delete, request, set},
    seed, try_client,
};

const SCHEMA: &str = "
    create table things (id text primary key, a bigint not null default 0, b bigint not null default 100, u int unique);
    create table docs (id text primary key, a bigint, b bigint);
    create table slowness (ms float not null);
    insert into slowness values (0);
    create function slowly() returns trigger language plpgsql as
        $$ begin perform pg_sleep((select ms from slowness) / 1000); return null; end $$;
    create trigger slowly after insert or update on things for each row execute function slowly();
";

const THINGS: usize = 12;
const DOCS: usize = 6;
const READERS: usize = 4;

/// Two columns, if there is a row.
type State = Option<(i64, i64)>;
/// The same as read: a column may be unknown.
type Shown = Option<(Option<i64>, Option<i64>)>;

struct Object {
    collection: &'static str,
    id: String,
    history: Mutex<History>,
}

/// Every state that was sent, and how many of them are acknowledged.
struct History {
    states: Vec<State>,
    acknowledged: usize,
}

impl Object {
    fn acknowledged(&self) -> usize {
        self.history.lock().expect("no client panics").acknowledged
    }

    /// Panics unless this was a state after so many acknowledgements.
    fn check(&self, shown: Shown, since: usize, how: &str) {
        let history = self.history.lock().expect("no client panics");
        let fits = |state: &State| match (state, shown) {
            (None, None) => true,
            (Some((a, b)), Some((shown_a, shown_b))) => shown_a.is_none_or(|shown| shown == *a) && shown_b.is_none_or(|shown| shown == *b),
            _ => false,
        };
        let allowed = &history.states[since..];
        assert!(allowed.iter().any(fits), "{how} of {} {}: {shown:?} is none of {allowed:?}", self.collection, self.id);
    }

    /// The next save, and the state it leads to.
    fn next(&self, random: &mut Rng) -> (Save, State) {
        let history = self.history.lock().expect("no client panics");
        let (last, n) = (history.states[history.states.len() - 1], history.states.len() as i64);
        let (id, collection) = ([self.id.as_str()], self.collection);
        match (collection, random.u8(..10)) {
            (_, 0) => (delete(collection, &id), None),
            ("docs", _) => {
                let version = random.i64(n / 2..n + 2);
                let state = if last.is_none_or(|(stored, _)| stored < version) { Some((version, n)) } else { last };
                (set(collection, &id, json!({"a": version, "b": n})), state)
            }
            (_, 1..5) => (adding(collection, &id, r#"{"b": 1}"#, &["b"]), Some(last.map_or((0, 1), |(a, b)| (a, b + 1)))),
            _ => (set(collection, &id, json!({"a": n})), Some((n, last.map_or(100, |(_, b)| b)))),
        }
    }
}

/// What all clients share.
struct World {
    objects: Vec<Object>,
    address: watch::Receiver<SocketAddr>,
    over: AtomicBool,
    saves: AtomicU64,
    gets: AtomicU64,
    gets_pending: AtomicU64,
    loads: AtomicU64,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A client of whichever daemon runs.
    async fn client(&self) -> Client {
        loop {
            let address = *self.address.borrow();
            match try_client(address).await {
                Some(client) => return client,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Saves an object again and again; what is in doubt is sent again, and recognised.
    async fn write(self: Arc<Self>, n: usize, mut random: Rng) {
        let (object, mut client) = (&self.objects[n], self.client().await);
        while !self.is_over() {
            let (save, state) = object.next(&mut random);
            object.history.lock().expect("no client panics").states.push(state);
            let call = SaveRequest { request_id: Uuid::new_v4().to_string(), ..request(save) };
            while client.save(call.clone()).await.is_err() {
                client = self.client().await;
            }
            self.saves.fetch_add(1, Ordering::Relaxed);
            object.history.lock().expect("no client panics").acknowledged += 1;
            tokio::time::sleep(Duration::from_millis(random.u64(..6))).await;
        }
    }

    async fn read(self: Arc<Self>, mut random: Rng) {
        let mut client = self.client().await;
        while !self.is_over() {
            let object = &self.objects[random.usize(..self.objects.len())];
            let since = object.acknowledged();
            let mut call = Request::new(get_request(object.collection, &[&object.id]));
            call.set_timeout(Duration::from_secs(5));
            match client.get(call).await.map(tonic::Response::into_inner) {
                Ok(read) => {
                    object.check(shown(read.found.then_some(&read.json[..])), since, "a get");
                    self.gets.fetch_add(1, Ordering::Relaxed);
                    self.gets_pending.fetch_add(u64::from(read.pending), Ordering::Relaxed);
                }
                Err(status) => {
                    assert!(is_trouble(&status), "{status:?}");
                    client = self.client().await;
                }
            }
        }
    }

    async fn load_all(self: Arc<Self>, mut random: Rng) {
        while !self.is_over() {
            self.load(if random.bool() { "things" } else { "docs" }, random.i32(1..8)).await;
        }
    }

    /// A whole load, gone on with wherever it breaks.
    async fn load(&self, collection: &'static str, page_size: i32) {
        let objects: Vec<_> = self.objects.iter().filter(|object| object.collection == collection).collect();
        let since: Vec<_> = objects.iter().map(|object| object.acknowledged()).collect();
        let (mut found, mut resume_token) = (HashMap::new(), String::new());
        'again: loop {
            let request =
                LoadRequest { collection: collection.to_owned(), page_size, resume_token: resume_token.clone(), ..Default::default() };
            let mut client = self.client().await;
            let Ok(pages) = client.load(request).await else { continue };
            let mut pages = pages.into_inner();
            loop {
                match pages.message().await {
                    Ok(Some(page)) => {
                        found.extend(page.rows.into_iter().map(|row| (row.key[0].clone(), shown(row.json.as_deref()))));
                        resume_token = page.resume_token;
                    }
                    Ok(None) => break 'again,
                    Err(status) => {
                        assert!(is_trouble(&status), "{status:?}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue 'again;
                    }
                }
            }
        }
        for (object, since) in objects.into_iter().zip(since) {
            object.check(found.get(&object.id).copied().flatten(), since, "a load");
        }
        self.loads.fetch_add(1, Ordering::Relaxed);
    }
}

fn shown(json: Option<&[u8]>) -> Shown {
    let row: Value = serde_json::from_slice(json?).expect("JSON");
    Some((row["a"].as_i64(), row["b"].as_i64()))
}

/// What a daemon without Postgres, one that dies, or no daemon says.
fn is_trouble(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled | Code::Internal)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_under_load_and_trouble_show_what_was_acknowledged_and_nothing_twice() {
    let mut random = Rng::with_seed(seed("reads"));
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("collections.docs.version_column", "a")
        .set("drain.retry_wait_max", "100 ms")
        .set("drain.relational_retry", "0 ms")
        .set("drain.generation_objects_max", "40")
        .expect_in_log("postgres")
        .expect_in_log("torn")
        .expect_in_log("23505");
    let mut daemon = setup.start().await;
    let address = watch::Sender::new(daemon.grpc().await);
    let object = |collection: &'static str, n: usize| Object {
        collection,
        id: format!("{collection}-{n}"),
        history: Mutex::new(History { states: vec![None], acknowledged: 0 }),
    };
    let objects = (0..THINGS).map(|n| object("things", n)).chain((0..DOCS).map(|n| object("docs", n))).collect();
    let world = Arc::new(World {
        objects,
        address: address.subscribe(),
        over: AtomicBool::default(),
        saves: AtomicU64::default(),
        gets: AtomicU64::default(),
        gets_pending: AtomicU64::default(),
        loads: AtomicU64::default(),
    });
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    clients.extend((0..THINGS + DOCS).map(|n| tokio::spawn(Arc::clone(&world).write(n, random.fork()))));
    clients.extend((0..READERS).map(|_| tokio::spawn(Arc::clone(&world).read(random.fork()))));
    clients.push(tokio::spawn(Arc::clone(&world).load_all(random.fork())));
    for n in 0..runs("FOREBAY_READS", 8) {
        poison(&daemon, n).await;
        match random.u8(..4) {
            0 => {
                database.stop_postgres();
                tokio::time::sleep(Duration::from_millis(random.u64(100..600))).await;
                poison_many(&daemon, n).await;
                database.start_postgres();
            }
            1 => {
                daemon.kill().await;
                daemon = setup.start().await;
                address.send_replace(daemon.grpc().await);
            }
            2 => {
                database.execute("update slowness set ms = 10").await;
                tokio::time::sleep(Duration::from_millis(random.u64(200..800))).await;
                database.execute("update slowness set ms = 0").await;
            }
            _ => poison_many(&daemon, n).await,
        }
        tokio::time::sleep(Duration::from_millis(random.u64(50..300))).await;
        assert!(!clients.iter().any(JoinHandle::is_finished), "no client ends before it is over");
    }
    world.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("what was read was right");
    }
    check_quiet(&world, &daemon, &database).await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (saves, gets, pending, loads) = (count(&world.saves), count(&world.gets), count(&world.gets_pending), count(&world.loads));
    let failed = database.number("select count(*) from forebay.failed_save").await;
    println!("reads: {saves} saves, {failed} failed, {gets} gets ({pending} of something pending), {loads} loads, all as they must be");
    assert!(pending > 0 && loads > 0 && failed > 0, "the story was dull");
    daemon.stop().await;
}

/// A save that is refused for what another row holds: its generation is halved down to it.
async fn poison(daemon: &Daemon, n: u64) {
    let mut client = daemon.client().await;
    for name in ["first", "second"] {
        client.save(request(set("things", &[&format!("poison-{name}-{n}")], json!({"u": n})))).await.expect("accepted");
    }
}

async fn poison_many(daemon: &Daemon, n: u64) {
    for part in 1..6 {
        poison(daemon, n * 100 + 1_000 + part).await;
    }
}

/// In the end every object is shown as its last state is, and stored so.
async fn check_quiet(world: &World, daemon: &Daemon, database: &Database) {
    let mut client = daemon.client().await;
    client.flush(FlushRequest::default()).await.expect("flushed");
    let rows = database.rows("select id, a, b from things union all select id, a, b from docs").await;
    let number = |text: &Option<String>| text.as_ref().map(|text| text.parse::<i64>().expect("a number"));
    let stored: BTreeMap<_, _> = rows.into_iter().map(|row| (row[0].clone().expect("an id"), (number(&row[1]), number(&row[2])))).collect();
    for object in &world.objects {
        let read = client.get(get_request(object.collection, &[&object.id])).await.expect("an answer").into_inner();
        assert!(!read.pending && read.unknown_columns.is_empty());
        object.check(shown(read.found.then_some(&read.json[..])), object.acknowledged(), "the last get");
        object.check(stored.get(&object.id).copied(), object.acknowledged(), "the row");
    }
    world.load("things", 5).await;
}
