//! Sockets: plain or TLS, connection limits, timeouts for slow clients, graceful shutdown.

use crate::app::app;
use crate::connections::{Connections, Entered, Impatient, Refused, Visit};
use crate::server::Server;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// How connections are served.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Certificate and key, for TLS.
    pub tls: Option<Tls>,
    /// How long a request's head, or a TLS handshake, may take.
    pub head_timeout: Duration,
    /// How long a client may read nothing while data waits to be sent to it.
    pub write_timeout: Duration,
    /// Maximum number of open connections. At this number, connections without an accepted request are closed; if there
    /// are none, new ones wait.
    pub max_connections: usize,
    /// Maximum number of open connections from one address.
    pub max_per_address: usize,
    /// How long running requests may continue after shutdown begins.
    pub drain: Duration,
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            tls: None,
            head_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            max_connections: 4096,
            max_per_address: 1024,
            drain: Duration::from_secs(30),
        }
    }
}

/// A certificate and its key, ready for use.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read or holds no certificate or key.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file is empty.
    #[error("{}: expected at least one certificate in PEM, found none", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not match, or their type is not supported.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl Tls {
    /// Reads a chain of certificates and a private key, both PEM.
    ///
    /// # Errors
    /// If a file can't be read, or certificate and key can't be used.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Tls, TlsError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::File { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(file(certificates))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(certificates.to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Serves until `stop` resolves. Then it accepts no new connections and waits for the running requests, at most for
/// [`Listen::drain`]. Returns whether all of them ended.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    listen: Listen,
    stop: impl Future<Output = ()>,
) -> bool {
    let router = app(server.clone());
    let connections = Arc::new(Connections::new(listen.max_connections, listen.max_per_address));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, entered) = match accepted {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(error) => {
                // Most likely there are no free file descriptors: some will be closed soon.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let stream = Impatient::new(stream, listen.write_timeout);
        let (router, watcher) = (router.clone(), graceful.watcher());
        let (tls, limit) = (listen.tls.clone(), listen.head_timeout);
        tokio::spawn(async move {
            let visit = entered.visit.clone();
            let serving = async {
                match tls {
                    None => connection(stream, router, visit.clone(), limit, watcher).await,
                    Some(Tls(acceptor)) => match tokio::time::timeout(limit, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, router, visit.clone(), limit, watcher).await,
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "a TLS handshake failed");
                            Ok(())
                        }
                        Err(_) => {
                            tracing::debug!("a TLS handshake took too long");
                            Ok(())
                        }
                    },
                }
            };
            tokio::select! {
                result = serving => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
                () = visit.closed() => tracing::debug!("an idle connection was closed to make room"),
            }
        });
    }
    server.drain();
    drop(listener);
    tokio::time::timeout(listen.drain, graceful.shutdown()).await.is_ok()
}

/// The next connection; `None` if its address has too many.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
) -> io::Result<Option<(TcpStream, Entered)>> {
    let (stream, address) = listener.accept().await?;
    loop {
        match connections.enter(address.ip()) {
            Ok(entered) => return Ok(Some((stream, entered))),
            Err(Refused::Address) => {
                tracing::debug!(address = %address.ip(), "an address has too many connections");
                return Ok(None);
            }
            Err(Refused::Full) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: axum::Router,
    visit: Visit,
    head_timeout: Duration,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(visit.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await
}
