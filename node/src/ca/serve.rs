//! `mesh ca serve`: the authority for as long as new hosts join, on the machine where its key is.
//!
//! The key stays where it was: no agent has it, and none forwards to it. An agent that could issue would be, to whoever takes over its
//! host, the right to be any agent; and an agent that only passes requests on would be one more party that sees tokens. So the one
//! process that may sign is a command of the operator's that listens while it is wanted and ends by itself. It is also the simplest to
//! explain: while `mesh ca serve` runs, tokens work; when it does not, they do not.
//!
//! A caller has no certificate yet, so anybody may connect: callers are bounded in number, time and size, and learn nothing without a
//! token. Where agents are named it talks to the mesh as the authority itself: certificates are issued only after the audit has it,
//! and a host whose build is too old for the log is refused. It never opens, forms or changes anything of the mesh.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mesh_proto::MeshId;
use mesh_proto::join::{JoinAnswer, JoinAsk, TokenRefusal, TokenTried};
use mesh_proto::operator::{Answer, Ask, StatusView};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::authority_server::{Authority, AuthorityServer};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::desk::{Desk, Looked, tried};
use super::{CaError, make, open, sign};
use crate::cli::client::Client;
use crate::crowd::Sparing;
use crate::rpc::envelope;
use crate::tls::material::Files;
use crate::tls::{Identity, Material, first};

/// Callers at a time. A join is one call; the others are refused and come again.
const CALLERS: usize = 32;
/// How long a caller may stay, from its first byte on.
const STAY: Duration = Duration::from_secs(40);
/// How long its handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Largest request: a token and the request for a certificate are below 2 KiB.
const LARGEST: usize = 16 * 1024;
/// For how long the authority's own certificate is valid: longer than anybody serves it.
const LASTS_DAYS: i64 = 2;

/// Something that whoever serves the authority sees.
#[derive(Debug)]
pub struct Event {
    /// Which token was tried, from where, and what came of it.
    pub tried: TokenTried,
    /// Why the mesh has no record of it, where it has none.
    pub unrecorded: Option<String>,
}

/// Who it is towards new hosts and the mesh: a key that is never written.
pub struct Standing {
    mesh: MeshId,
    authority: String,
    cert: String,
    key: String,
}

impl Standing {
    /// Makes it, with the authority's key.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn of(dir: &Path) -> Result<Self, CaError> {
        let authority = open(dir)?;
        let key = KeyPair::generate().map_err(make)?;
        let lasts = jiff::Span::new().days(LASTS_DAYS);
        let cert = sign(&authority, &Identity::Authority, &[], lasts, &key)?.pem();
        let text = std::fs::read_to_string(dir.join("ca.crt"))
            .map_err(|source| CaError::NoAuthority { dir: dir.to_owned(), source })?;
        Ok(Self { mesh: authority.0, authority: text, cert, key: key.serialize_pem() })
    }

    /// The mesh it is of.
    #[must_use]
    pub const fn mesh(&self) -> &MeshId {
        &self.mesh
    }

    /// What it shows to agents.
    ///
    /// # Errors
    /// [`CaError::Make`]: the authority's own certificate is not valid any more, say.
    pub fn material(&self) -> Result<Material, CaError> {
        let path = Path::new("ca.crt");
        let files = Files { ca: path, cert: path, key: path, crl: None };
        let texts = (self.authority.as_str(), self.cert.as_str(), self.key.as_str());
        Material::check(texts, files, &self.mesh, &Identity::Authority).map_err(make)
    }

    fn acceptor(&self) -> Result<TlsAcceptor, CaError> {
        let certificate = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).map_err(make);
        let chain = vec![certificate(&self.cert)?, certificate(&self.authority)?];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(make)?;
        Ok(TlsAcceptor::from(Arc::new(first::server(chain, key).map_err(make)?)))
    }
}

/// Serves until `stop` completes.
///
/// # Errors
/// [`CaError`] where it cannot begin to.
pub async fn serve(
    standing: &Standing,
    desk: Desk,
    mesh: Option<Client>,
    listener: TcpListener,
    events: mpsc::Sender<Event>,
    stop: impl Future<Output = ()>,
) -> Result<(), CaError> {
    let (ready, incoming) = mpsc::channel(CALLERS);
    let accepting = tokio::spawn(accept(listener, standing.acceptor()?, ready));
    let service = Service {
        mesh: standing.mesh.clone(),
        asked: Arc::new(Mutex::new(Counter { desk, mesh, events })),
        strangers: Arc::default(),
    };
    let service = AuthorityServer::new(service).max_decoding_message_size(LARGEST);
    let routes = tonic::service::Routes::new(service);
    let served = crate::rpc::server::serve(routes, ReceiverStream::new(incoming), stop).await;
    accepting.abort();
    served.map_err(make)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, ready: mpsc::Sender<io::Result<Stranger>>) {
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors, say: another attempt at once would only burn the processor.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&callers).try_acquire_owned() else { continue };
        let (tls, ready) = (tls.clone(), ready.clone());
        let stay = Box::pin(tokio::time::sleep(STAY));
        tokio::spawn(async move {
            // Who speaks no TLS, or too slowly, is nobody to be told anything.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                let _gone = ready.send(Ok(Stranger { stream, from, stay, _place: place })).await;
            }
        });
    }
}

/// A caller without a certificate, for a bounded time.
struct Stranger {
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    stay: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Where a caller is.
#[derive(Debug, Clone, Copy)]
struct Whence(SocketAddr);

impl Connected for Stranger {
    type ConnectInfo = Whence;
    fn connect_info(&self) -> Whence {
        Whence(self.from)
    }
}

impl AsyncRead for Stranger {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so the reader is whom the end wakes.
        if self.stay.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stranger {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Service {
    mesh: MeshId,
    asked: Arc<Mutex<Counter>>,
    strangers: Arc<Sparing>,
}

/// One caller at a time: what is looked at must still be so when it is issued.
struct Counter {
    desk: Desk,
    mesh: Option<Client>,
    events: mpsc::Sender<Event>,
}

#[tonic::async_trait]
impl Authority for Service {
    async fn join(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let from =
            request.extensions().get::<Whence>().map(|from| from.0.ip().to_string()).unwrap_or_default();
        // A new host does not know the mesh's name until it has the certificate.
        let ask: JoinAsk = envelope::open_local(&self.mesh, request.get_ref())?;
        // In a task of its own: a caller that goes away must not leave a token half used.
        let (asked, strangers) = (Arc::clone(&self.asked), Arc::clone(&self.strangers));
        let answered =
            tokio::spawn(async move { asked.lock().await.answer(&ask, &from, &strangers).await }).await;
        let answer =
            answered.map_err(|_| Status::internal("the authority failed; look at what it prints"))?;
        Ok(Response::new(envelope::seal(&self.mesh, &answer)?))
    }
}

impl Counter {
    async fn answer(&self, ask: &JoinAsk, from: &str, strangers: &Sparing) -> JoinAnswer {
        match self.decide(ask, from, strangers).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(error = crate::cli::with_causes(&error), "a token could not be looked at");
                JoinAnswer::Refused(TokenRefusal::Failed)
            }
        }
    }

    async fn decide(
        &self,
        ask: &JoinAsk,
        from: &str,
        strangers: &Sparing,
    ) -> Result<JoinAnswer, super::TokenError> {
        let good = match self.desk.look(ask, None, now())? {
            Looked::Good(_) => {
                let status = match self.status().await {
                    Ok(status) => status,
                    Err(why) => return Ok(JoinAnswer::Refused(TokenRefusal::NotRecorded { why })),
                };
                match self.desk.look(ask, status.as_ref(), now())? {
                    Looked::Good(good) => Ok((good, status)),
                    Looked::Refused { why, record } => Err((why, record)),
                }
            }
            Looked::Refused { why, record } => Err((why, record)),
        };
        match good {
            Ok((good, status)) => {
                let said = tried(good.identity(), from, good.number(), None);
                if good.number().is_some()
                    && let Err(why) = self.written(&said).await
                {
                    return Ok(JoinAnswer::Refused(TokenRefusal::NotRecorded { why }));
                }
                let answer = self.desk.issue(*good, status, stamped(&said))?;
                self.tell(said, None).await;
                Ok(answer)
            }
            Err((why, Some(record))) => {
                let said = tried(&record.identity, from, None, Some(&why));
                let audited = self.desk.refuse(*record, stamped(&said))?;
                let unrecorded = if audited { self.written(&said).await.err() } else { None };
                self.tell(said, unrecorded).await;
                Ok(JoinAnswer::Refused(why))
            }
            // Nobody who has a token: anybody who reaches this port can cause it, and fills nothing.
            Err((why, None)) => {
                if strangers.line(Instant::now()).is_some() {
                    self.tell(tried(&ask.identity, from, None, Some(&why)), None).await;
                }
                Ok(JoinAnswer::Refused(why))
            }
        }
    }

    async fn tell(&self, tried: TokenTried, unrecorded: Option<String>) {
        // Nobody listens any more when it is about to end.
        let _gone = self.events.send(Event { tried, unrecorded }).await;
    }

    /// How the mesh is; `None` where none was named.
    async fn status(&self) -> Result<Option<StatusView>, String> {
        let Some(mesh) = &self.mesh else { return Ok(None) };
        match mesh.ask(Ask::Status).await {
            Ok(Answer::Status(view)) => Ok(Some(*view)),
            Ok(Answer::Refused(refusal)) => Err(refusal.what),
            Ok(_) => Err(format!("the agent at {} answers another question", mesh.place())),
            Err(error) => Err(crate::cli::with_causes(&error)),
        }
    }

    /// Has the audit of the mesh say it; there is none to say it to where no mesh was named.
    async fn written(&self, tried: &TokenTried) -> Result<(), String> {
        let Some(mesh) = &self.mesh else { return Ok(()) };
        match mesh.ask(Ask::TokenTried(tried.clone())).await {
            Ok(Answer::Done(_)) => Ok(()),
            Ok(Answer::Refused(refusal)) => Err(refusal.what),
            Ok(_) => Err(format!("the agent at {} answers another question", mesh.place())),
            Err(error) => Err(crate::cli::with_causes(&error)),
        }
    }
}

fn stamped(tried: &TokenTried) -> String {
    format!("{}: {tried}", jiff::Timestamp::now().strftime("%FT%TZ"))
}

/// Seconds since 1970, by this machine's clock.
pub fn now() -> u64 {
    u64::try_from(crate::tls::ends::now()).unwrap_or_default()
}
