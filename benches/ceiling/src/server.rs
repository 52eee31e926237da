//! tonic, with the HTTP/2 windows of the daemon.

use std::{io, net::SocketAddr, pin::Pin, slice};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    journal::{Done, Journal},
    proto::{
        Acknowledged, Save, Saves,
        ceiling_server::{Ceiling, CeilingServer},
    },
};

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const ANSWERS_MAX: usize = 64;

/// Starts to serve on a free port of the loopback.
pub(crate) async fn start(journal: Journal) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(CeilingServer::new(Service { journal }));
    let incoming = TcpListenerStream::new(listener).map(|stream| stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

struct Service {
    journal: Journal,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Acknowledged, Status>> + Send>>;

#[tonic::async_trait]
impl Ceiling for Service {
    async fn one(&self, request: Request<Save>) -> Result<Response<Acknowledged>, Status> {
        Ok(Response::new(append(&self.journal, slice::from_ref(request.get_ref())).await))
    }

    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<Save>>) -> Result<Response<Answers>, Status> {
        let (done, answers) = mpsc::unbounded_channel();
        let (journal, mut saves) = (self.journal.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(save)) = saves.next().await {
                journal.append(slice::from_ref(&save), Done::InOrder(done.clone())).await;
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers).map(Ok))))
    }

    type BatchStream = Answers;

    async fn batch(&self, request: Request<Streaming<Saves>>) -> Result<Response<Answers>, Status> {
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        let (journal, mut batches) = (self.journal.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                if answer.send(Ok(append(&journal, &batch.saves).await)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

async fn append(journal: &Journal, saves: &[Save]) -> Acknowledged {
    let (done, acknowledged) = oneshot::channel();
    journal.append(saves, Done::Once(done)).await;
    acknowledged.await.expect("the file's thread answers")
}
