//! Requests over connections that memtrap makes itself, for what the HTTP client cannot connect to: services in other network namespaces,
//! or below another root.
//!
//! Plain HTTP/1.1, a connection for each request, no name to look up. Redirects are followed as the others' are.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use reqwest::header::{ACCEPT, HOST, HeaderMap, LOCATION, USER_AGENT};
use reqwest::{Body, Response, ResponseBuilderExt, Url};

use super::{AGENT, Cause, MAX_REDIRECTS, Unsent};
use crate::aside::Threads;
use crate::host::netns::{Door, ENTER, NotReached, Stream, WRITE};
use crate::host::peer::Peer;

/// A client of one process.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    pub door: Arc<Door>,
    /// For each connection.
    pub connect: Duration,
    pub threads: Threads,
    /// Who must answer there, where credentials are sent: looked at before and after each connection is made, as `gate` says.
    pub peer: Option<Arc<Peer>>,
}

/// What looks and connections may take beyond the patience with one address.
const LOOKS: Duration = Duration::from_secs(5);

/// Where connections are made; each thread ends with its own.
pub(super) fn threads() -> Threads {
    Threads::new("connect", 16)
}

impl Direct {
    /// The response's head. If the future is dropped, nothing more is sent.
    pub async fn get(&self, url: Url, headers: &HeaderMap) -> Result<Response, Unsent> {
        let mut url = url;
        for _ in 0..MAX_REDIRECTS {
            let response = self.once(&url, headers).await?;
            let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            match to.and_then(|to| url.join(to.to_str().ok()?).ok()).filter(|to| to.origin() == url.origin()) {
                Some(to) => url = to,
                None => return Ok(response),
            }
        }
        self.once(&url, headers).await
    }

    async fn once(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Unsent> {
        let (door, peer, patience) = (self.door.clone(), self.peer.clone(), self.connect);
        let connecting = self.threads.run(patience + LOOKS, move || connect(&door, peer.as_deref(), patience));
        let stream = connecting.await.map_err(|why| Unsent::Connect(Cause::passing(&why.to_string())))??;
        let unready = |e: std::io::Error| Unsent::Connect(Cause::of(&e));
        match stream {
            Stream::Tcp(stream) => {
                let ready = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
                self.exchange(TokioIo::new(ready.map_err(unready)?), url, headers).await
            }
            Stream::Unix(stream) => {
                let ready = stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
                self.exchange(TokioIo::new(ready.map_err(unready)?), url, headers).await
            }
        }
    }

    /// One request and its answer's head, over a connection that ends with it.
    async fn exchange(&self, io: impl Read + Write + Unpin + Send + 'static, url: &Url, headers: &HeaderMap) -> Result<Response, Unsent> {
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| Unsent::Unanswered(Cause::of(&e)))?;
        // ends with the response, or with whoever waits for it
        tokio::spawn(connection);
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut request = Request::get(path).header(HOST, url.authority()).header(USER_AGENT, AGENT).header(ACCEPT, "*/*");
        if let Some(all) = request.headers_mut() {
            all.extend(headers.clone());
        }
        let request = request.body(Body::default()).map_err(|e| Unsent::Unanswered(Cause::of(&e)))?;
        let response = sender.send_request(request).await.map_err(|e| Unsent::Unanswered(Cause::of(&e)))?;
        let (head, body) = response.into_parts();
        let marked = hyper::Response::builder().url(url.clone()).body(()).map_err(|e| Unsent::Unanswered(Cause::of(&e)))?;
        let mut response = hyper::Response::from_parts(head, Body::wrap(body));
        response.extensions_mut().extend(marked.into_parts().0.extensions);
        Ok(response.into())
    }
}

fn connect(door: &Door, peer: Option<&Peer>, patience: Duration) -> Result<Stream, Unsent> {
    let look = || peer.map(|peer| peer.look().map_err(Unsent::Withheld)).transpose();
    let before = look()?;
    let stream = door.connect(patience).map_err(|e| {
        Unsent::Connect(match e {
            NotReached::Closed { .. } => Cause::lasting(&e, ENTER),
            NotReached::Forbidden => Cause::lasting(&e, WRITE),
            e => Cause::of(&e),
        })
    })?;
    let after = look()?;
    if after != before || after.is_some_and(|look| look.is_empty()) {
        return Err(Unsent::Withheld(super::gate::CHANGED.into()));
    }
    Ok(stream)
}
