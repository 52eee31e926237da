//! A receiver of webhooks that fails, stalls, dies and comes back as it is told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::eventually;

/// What it does with the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Answers with this status.
    Answer(u16),
    /// Sends elsewhere.
    Redirect(String),
    /// Answers once it is told to do otherwise.
    Stall,
    /// One of four fails, one of eight stalls: drawn from this seed and the number of the request.
    Moody(u64),
}

/// A request, whatever it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) answered: u16,
}

pub(crate) struct Receiver {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    /// None while it is dead.
    listening: Option<AbortOnDropHandle<()>>,
}

struct Shared {
    conduct: watch::Sender<Conduct>,
    got: Mutex<Vec<Got>>,
}

impl Got {
    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a message is JSON")
    }
}

impl Receiver {
    pub(crate) async fn start(conduct: Conduct) -> Self {
        Self::start_with(conduct, None).await
    }

    pub(crate) async fn start_with(conduct: Conduct, tls: Option<TlsAcceptor>) -> Self {
        let shared = Arc::new(Shared { conduct: watch::Sender::new(conduct), got: Mutex::default() });
        let mut receiver = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls, shared, listening: None };
        receiver.revive().await;
        receiver
    }

    /// Its port refuses connections, and those that were open are cut.
    pub(crate) async fn die(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// Listens again where it did.
    pub(crate) async fn revive(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.address = listener.local_addr().expect("it is bound");
        let listening = tokio::spawn(listen(listener, self.tls.clone(), Arc::clone(&self.shared)));
        self.listening = Some(AbortOnDropHandle::new(listening));
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}/hook?a=b", self.address.port())
    }

    pub(crate) fn conduct(&self, conduct: Conduct) {
        self.shared.conduct.send_replace(conduct);
    }

    /// Every request so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.shared.got().clone()
    }

    /// What it answered with 2xx, by id; that a message is the same every time is checked here.
    pub(crate) fn told(&self) -> BTreeMap<String, Value> {
        let mut told = BTreeMap::new();
        for got in self.got().iter().filter(|got| (200..300).contains(&got.answered)) {
            let json = got.json();
            let before = told.insert(got.id().to_owned(), json.clone());
            assert!(before.is_none_or(|before: Value| before["data"] == json["data"]), "{} says something else", got.id());
        }
        told
    }

    /// Waits until so many different messages were answered with 2xx.
    pub(crate) async fn told_of(&self, count: usize) -> BTreeMap<String, Value> {
        eventually(&format!("{count} messages"), || async { Some(self.told()).filter(|told| told.len() >= count) }).await
    }

    /// Waits until so many requests have come.
    pub(crate) async fn tried(&self, count: usize) {
        eventually(&format!("{count} requests"), || async { (self.got().len() >= count).then_some(()) }).await;
    }
}

impl Shared {
    fn got(&self) -> MutexGuard<'_, Vec<Got>> {
        self.got.lock().expect("no test panics while it holds the requests")
    }

    /// Takes a request; the answer may be long in coming.
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<String>, hyper::Error> {
        let (parts, body) = request.into_parts();
        assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "/hook?a=b"));
        let text = |value: &header::HeaderValue| value.to_str().expect("text").to_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = String::from_utf8(read(body).await?).expect("JSON is UTF-8");
        let number = {
            let mut got = self.got();
            got.push(Got { headers, body, answered: 0 });
            got.len() - 1
        };
        let mut conduct = self.conduct.subscribe();
        let response = loop {
            let now = conduct.borrow_and_update().clone();
            match now.decide(number) {
                Some(response) => break response,
                None => conduct.changed().await.expect("the sender lives as long as we do"),
            }
        };
        self.got()[number].answered = response.status().as_u16();
        Ok(response)
    }
}

impl Conduct {
    /// The answer; `None` as long as it stalls.
    fn decide(&self, number: usize) -> Option<Response<String>> {
        let status = match self {
            Self::Answer(status) => *status,
            Self::Redirect(_) => 307,
            Self::Stall => return None,
            Self::Moody(seed) => match fastrand::Rng::with_seed(seed.wrapping_add(number as u64)).u8(..8) {
                0 => return None,
                1 | 2 => 503,
                _ => 204,
            },
        };
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        if let Self::Redirect(to) = self {
            response.headers_mut().insert(header::LOCATION, to.parse().expect("a header"));
        }
        Some(response)
    }
}

async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with us: the connections go too.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => answer(stream, shared).await,
                // A client that trusts nobody here ends the handshake.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let serve = service_fn(|request| shared.serve(request));
    // Cut by the other side: killed, or out of patience.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        bytes.extend(frame?.into_data().unwrap_or_default());
    }
    Ok(bytes)
}
