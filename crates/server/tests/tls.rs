//! TLS with a certificate from a file, and files without a certificate.

mod common;

use common::server;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use zonda_server::listen::{Listen, Tls, serve};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tls").join(name)
}

#[tokio::test]
async fn a_request_over_tls_is_answered() {
    let tls = Tls::from_files(&file("cert.pem"), &file("key.pem")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listen = Listen { tls: Some(tls), ..Listen::default() };
    tokio::spawn(serve(listener, server(), listen, std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("cert.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"ok\""), "{answer}");

    // A client without TLS is refused, and other clients are not affected.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP"));
}

#[test]
fn files_without_certificate_or_key_are_named() {
    let fails = |certificate: &str, key: &str| {
        Tls::from_files(&file(certificate), &file(key)).unwrap_err().to_string()
    };
    assert!(fails("absent.pem", "key.pem").contains("absent.pem"));
    assert!(fails("cert.pem", "absent.pem").contains("absent.pem"));
    assert!(fails("key.pem", "key.pem").contains("certificate"));
    assert!(fails("cert.pem", "cert.pem").contains("cert.pem"));
}
