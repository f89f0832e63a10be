//! `https`, with certificates of one's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// Certificate and key files, by name in the trial's directory.
struct Pair {
    pem: rcgen::CertifiedKey<rcgen::KeyPair>,
    cert: PathBuf,
    key: PathBuf,
}

fn pair(trial: &Trial, name: &str) -> Pair {
    let pem = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (cert, key) = (trial.dir.path().join(format!("{name}.crt")), trial.dir.path().join(format!("{name}.key")));
    std::fs::write(&cert, pem.cert.pem()).unwrap();
    std::fs::write(&key, pem.signing_key.serialize_pem()).unwrap();
    Pair { pem, cert, key }
}

/// Answers every request with a profile; wants a certificate that `client` signed. Ends with the test's process.
fn serve(server: &Pair, client: &Pair) -> SocketAddr {
    crate::capture::install_tls_provider();
    let mut roots = RootCertStore::empty();
    roots.add(client.pem.cert.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.pem.signing_key.serialize_der()));
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let config = Arc::new(config.with_single_cert(vec![server.pem.cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let body = profile(3);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&body);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    addr
}

fn only_heap(trial: Trial, addr: SocketAddr, auth: Auth) -> Trial {
    let pprof = Some(Pprof::Http(format!("https://{addr}/debug/pprof")));
    let mut target = Target { pprof, auth, ..trial.target.clone() };
    let others = "memstats goroutine threadcreate allocs heap_gc goroutineleak goroutine_text mutex block profile heap_gc_after cmdline";
    target.capture.skip = others.split(' ').map(String::from).collect();
    Trial { target, ..trial }
}

#[tokio::test]
async fn own_roots_and_a_client_certificate_open_the_door() {
    let trial = Trial::of(None);
    let (server, client) = (pair(&trial, "server"), pair(&trial, "client"));
    let addr = serve(&server, &client);
    let auth =
        Auth { ca_file: Some(server.cert), client_cert_file: Some(client.cert), client_key_file: Some(client.key), ..Auth::default() };
    let caught = only_heap(trial, addr, auth).run().await;
    assert_eq!((caught.status("heap"), caught.reason("heap")), (Status::Ok, ""));
}

#[tokio::test]
async fn an_unknown_certificate_is_named_as_the_reason() {
    let trial = Trial::of(None);
    let (server, client) = (pair(&trial, "server"), pair(&trial, "client"));
    let addr = serve(&server, &client);
    let caught = only_heap(trial, addr, Auth { ca_file: Some(client.cert), ..Auth::default() }).run().await;
    assert_eq!(caught.status("heap"), Status::Failed);
    assert!(caught.reason("heap").contains("certificate"), "{}", caught.reason("heap"));
}

#[tokio::test]
async fn plain_http_to_a_port_of_tls_is_told_the_scheme_and_not_tried_again() {
    let trial = Trial::of(None);
    let (server, client) = (pair(&trial, "server"), pair(&trial, "client"));
    let addr = serve(&server, &client);
    let trial = only_heap(trial, addr, Auth::default());
    let pprof = Some(Pprof::Http(format!("http://{addr}/debug/pprof")));
    let caught = Trial { target: Target { pprof, ..trial.target.clone() }, ..trial }.run().await;
    assert!(caught.reason("heap").contains("write https:// if it serves TLS"), "{}", caught.reason("heap"));
    assert_eq!(caught.entry("heap").attempts, 1);
}
