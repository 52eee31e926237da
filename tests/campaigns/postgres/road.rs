//! The network between the daemon and Postgres: an address that leads to whatever server it is told to, over a road that may be
//! slow, blocked or cut. It knows nothing of what it carries.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

use crate::support::free_port;

/// Bytes that are carried at once where the road is clear.
const LOAD_BYTES: usize = 1 << 16;

/// How what is carried fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::campaigns) enum Condition {
    Clear,
    /// Pieces of up to so many bytes, each after up to so long.
    Slow {
        bytes_max: usize,
        wait_max: Duration,
    },
    /// Nothing arrives until it is clear again; then everything does.
    Blocked,
}

/// An address of the daemon's `postgres.url`; gone when the test's runtime is.
pub(in crate::campaigns) struct Road {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// The port of a server on this host; none: who connects is turned away.
    to: watch::Sender<Option<u16>>,
    condition: watch::Sender<Condition>,
    /// Counts cuts.
    cuts: watch::Sender<u64>,
    random: Mutex<Rng>,
}

impl Road {
    /// A clear one.
    pub(super) async fn new(to: Option<u16>, random: Rng) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("it was free");
        let (to, condition, cuts) = (watch::Sender::new(to), watch::Sender::new(Condition::Clear), watch::Sender::new(0));
        let shared = Shared { to, condition, cuts, random: Mutex::new(random) };
        let road = Self { port, shared: Arc::new(shared) };
        tokio::spawn(accept(listener, Arc::clone(&road.shared)));
        road
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Who connects from now on comes there. Connections that are open stay.
    pub(super) fn lead_to(&self, port: Option<u16>) {
        self.shared.to.send_replace(port);
    }

    /// Of connections that are open too.
    pub(in crate::campaigns) fn set_condition(&self, condition: Condition) {
        self.shared.condition.send_replace(condition);
    }

    /// Resets every connection that is open; what was under way is lost.
    pub(super) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (daemon, _) = listener.accept().await.expect("the port stays open");
        let to = *shared.to.borrow();
        if let Some(port) = to {
            tokio::spawn(carry(daemon, port, Arc::clone(&shared)));
        }
    }
}

/// Until both ends have closed, or the road is cut.
async fn carry(mut daemon: TcpStream, port: u16, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    // Nobody listens while a server is stopped: the daemon's connection closes.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for end in [&daemon, &server] {
        end.set_nodelay(true).expect("a socket");
    }
    let ((from_daemon, to_daemon), (from_server, to_server)) = (daemon.split(), server.split());
    let both = async { tokio::join!(one_way(from_daemon, to_server, &shared), one_way(from_server, to_daemon, &shared)) };
    tokio::select! {
        _ = both => return,
        _ = cuts.changed() => {}
    }
    for end in [&daemon, &server] {
        end.set_zero_linger().expect("a socket");
    }
}

async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) {
    let (mut condition, mut bytes) = (shared.condition.subscribe(), vec![0; LOAD_BYTES]);
    let mut random = shared.random.lock().expect("nobody panics with it").fork();
    loop {
        let now = *condition.borrow_and_update();
        let room = if let Condition::Slow { bytes_max, .. } = now { random.usize(1..=bytes_max) } else { LOAD_BYTES };
        let Ok(read @ 1..) = from.read(&mut bytes[..room]).await else { break };
        if let Condition::Slow { wait_max, .. } = now {
            tokio::time::sleep(wait_max.mul_f64(random.f64())).await;
        }
        if condition.wait_for(|condition| *condition != Condition::Blocked).await.is_err() {
            break;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    // The other end may have gone.
    let _ = to.shutdown().await;
}
