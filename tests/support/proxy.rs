//! A proxy between the daemon and Postgres that reads the protocol: it counts the messages of a lane's transactions, and breaks
//! the connection at a chosen one in a chosen way.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What a writing transaction of the daemon's begins with.
const BEGIN: &[u8] = b"begin isolation level read committed read write";

/// A running proxy; gone when the test's runtime is.
pub(crate) struct Proxy {
    url: String,
    shared: Arc<Shared>,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToDaemon,
}

/// What happens to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Both ends are reset.
    Reset,
    /// Both ends are closed.
    Close,
    /// The way of the message is closed, the other stays open.
    HalfClose,
    /// Nothing more arrives at either end until the daemon begins again over another connection. Then everything does.
    Stall,
    /// The same until [`Proxy::release`].
    Hold,
}

/// What is to happen at one message, counted from the BEGIN of the first writing transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) way: Way,
    pub(crate) message: usize,
    /// Whether that message still arrives. (What stalls arrives later.)
    pub(crate) delivered: bool,
    pub(crate) how: Break,
}

/// The messages that passed since [`Proxy::watch`], as text, over the connection that began a transaction first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) to_server: Vec<String>,
    pub(crate) to_daemon: Vec<String>,
    /// What went to the server, from the first message of the connection on.
    pub(crate) bytes: Vec<u8>,
}

struct Shared {
    server: SocketAddr,
    seen: Mutex<Seen>,
    /// Counts releases.
    released: watch::Sender<u64>,
    /// Whether the fault has happened.
    happened: watch::Sender<bool>,
    /// Connections are refused.
    down: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    /// None before [`Proxy::watch`].
    passed: Option<Passed>,
    fault: Option<Fault>,
    /// The one that is watched.
    connection: Option<u64>,
    /// A transaction that begins over another connection releases what stalls.
    stalled: bool,
}

impl Proxy {
    /// In front of this database.
    pub(crate) async fn start(url: &str) -> Self {
        let host = url.split(['@', '/', '?']).nth(3).expect("a url with user and host");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            server: host.parse().expect("Postgres has an address and a port"),
            seen: Mutex::default(),
            released: watch::Sender::default(),
            happened: watch::Sender::default(),
            down: watch::Sender::default(),
        });
        let proxy = Self { url: url.replace(host, &address.to_string()), shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            for number in 0.. {
                let (daemon, _) = listener.accept().await.expect("the port stays open");
                if !*shared.down.borrow() {
                    tokio::spawn(Connection::serve(number, daemon, Arc::clone(&shared)));
                }
            }
        });
        proxy
    }

    /// What the daemon is to connect to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Begins to count at the next writing transaction, for a fault or for none.
    pub(crate) fn watch(&self, fault: Option<Fault>) {
        self.release();
        self.shared.happened.send_replace(false);
        *self.shared.seen() = Seen { passed: Some(Passed::default()), fault, ..Seen::default() };
    }

    /// Whether the fault has happened.
    pub(crate) fn has_happened(&self) -> bool {
        *self.shared.happened.borrow()
    }

    /// Waits until the fault has happened.
    pub(crate) async fn happened(&self) {
        let mut happened = self.shared.happened.subscribe();
        let wait = happened.wait_for(|happened| *happened);
        tokio::time::timeout(super::HANG, wait).await.expect("the message comes").expect("the proxy runs");
    }

    /// What has passed since [`Proxy::watch`].
    pub(crate) fn passed(&self) -> Passed {
        self.shared.seen().passed.clone().expect("something is watched")
    }

    /// Lets everything that is held back go where it was sent, as far as somebody is still there.
    pub(crate) fn release(&self) {
        self.shared.released.send_modify(|released| *released += 1);
    }

    /// Whether new connections are refused.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.down.send_replace(down);
    }

    /// Sends these bytes over a connection of their own, as a network that kept them would, and returns what the server says to
    /// all of them: the same text as in [`Passed::to_daemon`].
    pub(crate) async fn replay(&self, bytes: &[u8]) -> Vec<String> {
        let mut server = End::connect(self.shared.server).await;
        server.write(bytes).await;
        server.close().await;
        let mut said = Vec::new();
        while let Some(message) = server.message().await {
            said.push(told(&message));
        }
        said
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while holding it")
    }

    /// A message is about to pass: the fault, if it is meant.
    fn passes(&self, connection: &Connection, way: Way, message: &[u8]) -> Option<Fault> {
        let mut seen = self.seen();
        let begins = way == Way::ToServer && message[0] == b'Q' && message[5..].starts_with(BEGIN);
        if begins && seen.connection != Some(connection.number) && std::mem::take(&mut seen.stalled) {
            self.released.send_modify(|released| *released += 1);
        }
        seen.passes(connection, way, message, begins).inspect(|_| {
            self.happened.send_replace(true);
        })
    }
}

impl Seen {
    fn passes(&mut self, connection: &Connection, way: Way, message: &[u8], begins: bool) -> Option<Fault> {
        let passed = self.passed.as_mut()?;
        if begins && self.connection.is_none() {
            self.connection = Some(connection.number);
            passed.bytes.clone_from(&connection.hello);
        }
        if self.connection != Some(connection.number) {
            return None;
        }
        let messages = match way {
            Way::ToServer => {
                passed.bytes.extend(message);
                &mut passed.to_server
            }
            Way::ToDaemon => &mut passed.to_daemon,
        };
        let number = messages.len();
        messages.push(told(message));
        let fault = self.fault.take_if(|fault| (fault.way, fault.message) == (way, number));
        self.stalled |= fault.is_some_and(|fault| fault.how == Break::Stall);
        fault
    }
}

/// One connection of the daemon's.
struct Connection {
    number: u64,
    shared: Arc<Shared>,
    /// Its first message, which has no tag.
    hello: Vec<u8>,
}

impl Connection {
    async fn serve(number: u64, daemon: TcpStream, shared: Arc<Shared>) {
        let (mut daemon, mut server) = (End::new(daemon), End::connect(shared.server).await);
        let Some(hello) = daemon.hello().await else { return };
        server.write(&hello).await;
        Self { number, shared, hello }.pass(daemon, server).await;
    }

    /// Until both ways are closed.
    async fn pass(self, mut daemon: End, mut server: End) {
        while daemon.speaks || server.speaks {
            let (way, message) = tokio::select! {
                message = daemon.message(), if daemon.speaks => (Way::ToServer, message),
                message = server.message(), if server.speaks => (Way::ToDaemon, message),
            };
            let to = if way == Way::ToServer { &mut server } else { &mut daemon };
            let Some(message) = message else {
                to.close().await;
                continue;
            };
            // Before the fault can be seen: whoever sees it may release at once.
            let mut released = self.shared.released.subscribe();
            let fault = self.shared.passes(&self, way, &message);
            if fault.is_none_or(|fault| fault.delivered) {
                to.write(&message).await;
            }
            let Some(fault) = fault else { continue };
            match fault.how {
                Break::Close => return,
                Break::Reset => {
                    daemon.reset();
                    server.reset();
                    return;
                }
                Break::HalfClose => to.close().await,
                Break::Stall | Break::Hold => {
                    // Nobody is left to release anything when the test has ended.
                    let _ = released.changed().await;
                    if !fault.delivered {
                        to.write(&message).await;
                    }
                }
            }
        }
    }
}

/// One end of a connection.
struct End {
    stream: TcpStream,
    read: Vec<u8>,
    /// More may come from it.
    speaks: bool,
    /// It was told that nothing more comes.
    closed: bool,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self { stream, read: Vec::new(), speaks: true, closed: false }
    }

    async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("Postgres listens"))
    }

    /// The first message: a length that counts itself, and the rest.
    async fn hello(&mut self) -> Option<Vec<u8>> {
        self.take(0).await
    }

    /// The next message: a tag, a length that counts itself, and the rest. None at the end. Safe to cancel.
    async fn message(&mut self) -> Option<Vec<u8>> {
        self.take(1).await
    }

    async fn take(&mut self, tag: usize) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = self.read.get(tag..tag + 4) {
                let whole = tag + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                if self.read.len() >= whole {
                    return Some(self.read.drain(..whole).collect());
                }
            }
            if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                self.speaks = false;
                return None;
            }
        }
    }

    /// What nobody reads any more is lost on the way.
    async fn write(&mut self, bytes: &[u8]) {
        if !self.closed {
            let _ = self.stream.write_all(bytes).await;
        }
    }

    async fn close(&mut self) {
        self.closed = true;
        let _ = self.stream.shutdown().await;
    }

    fn reset(&self) {
        self.stream.set_zero_linger().expect("a socket");
    }
}

/// A message as text: its tag; with a simple query its first words, with an answer its tag or code.
fn told(message: &[u8]) -> String {
    let tag = char::from(message[0]);
    let text = String::from_utf8_lossy(&message[5..]);
    let detail = match tag {
        'Q' | 'C' => text.split(['\0', ';']).next().unwrap_or_default(),
        'E' => text.split('\0').find_map(|field| field.strip_prefix('C')).unwrap_or_default(),
        _ => "",
    };
    format!("{tag} {detail}").trim_end().to_owned()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, message, delivered, how } = self;
        write!(f, "{how:?} at message {message} {way:?}, {}", if *delivered { "delivered" } else { "not delivered" })
    }
}
