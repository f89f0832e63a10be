//! Connections to addresses of this host over which credentials go: whoever listens is looked at before and after each is made, and
//! nothing is sent unless both looks see the same, and see someone who may be shown them.
//!
//! One look before would leave time to take the port over; one after would not tell who it was that took the connection. A socket that
//! listens before and after was there in between: no two have one inode.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use crate::aside::Threads;
use crate::host::peer::{Look, Peer};

const PATIENCE: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why no credentials were sent, and so nothing at all: a sentence that names the cure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Withheld(pub String);

/// Two looks did not see the same.
pub(super) const CHANGED: &str = "credentials are not sent there: who listens on the address changed in this very moment, or is not seen";

/// Where the kernel's tables are looked at; a look takes milliseconds.
pub(super) fn threads() -> Threads {
    Threads::new("peer", 16)
}

/// Of a client whose every connection passes it.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub peer: Arc<Peer>,
    pub threads: Threads,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, R> Service<R> for Gated<S>
where
    S: Service<R, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let clone = self.inner.clone();
        // the one that was ready
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gate = self.gate.clone();
        Box::pin(async move {
            let before = gate.look().await?;
            let connection = inner.call(request).await?;
            let after = gate.look().await?;
            if after != before || after.is_empty() {
                return Err(Withheld(CHANGED.into()).into());
            }
            Ok(connection)
        })
    }
}

impl Gate {
    async fn look(&self) -> Result<Look, BoxError> {
        let peer = self.peer.clone();
        Ok(self.threads.run(PATIENCE, move || peer.look()).await?.map_err(Withheld)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::*;
    use crate::host::ProcFs;
    use crate::host::trust::Trusted;

    /// A connector in whose time something happens to the address.
    #[derive(Clone)]
    struct Connect(Arc<dyn Fn() + Send + Sync>);

    impl Service<()> for Connect {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            (self.0)();
            std::future::ready(Ok(()))
        }
    }

    async fn connects(listener: &Arc<Mutex<Option<TcpListener>>>, meanwhile: impl Fn() + Send + Sync + 'static) -> Result<(), BoxError> {
        let address = listener.lock().unwrap().as_ref().unwrap().local_addr().unwrap();
        let url = format!("http://{address}/").parse().unwrap();
        let procfs = ProcFs::host();
        let peer = Peer::of_url(&procfs, &url, Trusted::of_address(&procfs, None).unwrap(), None).unwrap();
        Gate { peer: Arc::new(peer), threads: threads() }.layer(Connect(Arc::new(meanwhile))).call(()).await
    }

    #[tokio::test]
    async fn a_port_that_changes_hands_while_it_is_connected_to_is_sent_nothing() {
        let bind = || Arc::new(Mutex::new(Some(TcpListener::bind("127.0.0.1:0").unwrap())));
        let steady = bind();
        assert!(connects(&steady, || {}).await.is_ok());
        let taken = bind();
        let port = taken.lock().unwrap().as_ref().unwrap().local_addr().unwrap();
        let theirs = taken.clone();
        let result = connects(&taken, move || {
            let mut listener = theirs.lock().unwrap();
            *listener = None;
            *listener = Some(TcpListener::bind(port).unwrap());
        });
        assert!(result.await.unwrap_err().to_string().contains("changed in this very moment"));
        let left = bind();
        let theirs = left.clone();
        assert!(connects(&left, move || drop(theirs.lock().unwrap().take())).await.is_err());
    }
}
