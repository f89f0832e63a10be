//! Names of hosts to their addresses, through the system's own resolver, which can be neither hurried nor called off.
//!
//! Each look takes a thread of its own, one for each name at a time; whoever waits has a bound, and what was found is kept for some
//! seconds. Numeric addresses and `localhost` are never looked up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::aside::{NoAnswer, Threads};
use crate::clock::{Mono, human};

/// How long a name server is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Names that are looked up at a time.
const MOST: usize = 32;
/// The steps of a capture, and a scrape and its limits, need no look each.
const FRESH: Duration = Duration::from_secs(5);
/// An older answer is better than none where the name server is silent, but not for ever: addresses pass to others.
const USABLE: Duration = Duration::from_secs(600);
const MAX_KNOWN: usize = 4_096;

/// The host needs no name server.
pub(super) fn is_plain(url: &Url) -> bool {
    url.domain().is_none_or(is_local)
}

fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The last answer for each name, and when it came.
type Known = HashMap<String, (Vec<IpAddr>, Mono)>;
type Look = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What is known of names, and the threads that look for more. Clones share both.
#[derive(Clone)]
pub(super) struct Names {
    look: Arc<Look>,
    threads: Threads,
    known: Arc<Mutex<Known>>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("the name server did not answer within {}", human(*.0))]
    Silent(Duration),
    #[error(transparent)]
    Refused(#[from] io::Error),
    #[error("the name has no address")]
    Empty,
    #[error("{0}")]
    Broken(NoAnswer),
}

impl Default for Names {
    fn default() -> Names {
        Names::by(Arc::new(|name: &str| Ok((name, 0).to_socket_addrs()?.map(|a| a.ip()).collect())))
    }
}

impl Names {
    fn by(look: Arc<Look>) -> Names {
        Names { look, threads: Threads::new("names", MOST), known: Arc::default() }
    }

    /// For a client that does not wait for longer than this.
    pub fn within(&self, patience: Duration) -> Resolver {
        Resolver { names: self.clone(), patience: patience.min(PATIENCE) }
    }

    fn known(&self, name: &str, age: Duration) -> Option<Vec<IpAddr>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(_, at)| Mono::now().since(*at) < age).map(|(addresses, _)| addresses.clone())
    }

    fn keep(&self, name: String, addresses: Vec<IpAddr>) {
        let now = Mono::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (_, at)| now.since(*at) < FRESH);
        }
        known.insert(name, (addresses, now));
    }

    async fn addresses(&self, name: String, patience: Duration) -> Result<Vec<IpAddr>, Unknown> {
        if is_local(&name) {
            // as Go's own `localhost:6060` listens: on IPv4 where there is a choice
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Some(fresh) = self.known(&name, FRESH) {
            return Ok(fresh);
        }
        let (names, asked) = (self.clone(), name.clone());
        let looked = self.threads.run_for(&name, patience, move || {
            // found by the look that this one has waited for
            if let Some(fresh) = names.known(&asked, FRESH) {
                return Ok(fresh);
            }
            let found = (names.look)(&asked)?;
            if !found.is_empty() {
                names.keep(asked, found.clone());
            }
            Ok::<_, io::Error>(found)
        });
        match looked.await {
            Ok(Ok(found)) if found.is_empty() => Err(Unknown::Empty),
            Ok(found) => Ok(found?),
            Err(NoAnswer::Late(patience)) => self.known(&name, USABLE).ok_or(Unknown::Silent(patience)),
            Err(broken) => Err(Unknown::Broken(broken)),
        }
    }
}

/// What an HTTP client asks.
pub(super) struct Resolver {
    names: Names,
    patience: Duration,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, patience) = (self.names.clone(), self.patience);
        Box::pin(async move {
            let found = names.addresses(name.as_str().to_owned(), patience).await?;
            // the client puts the port in
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(100);

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    /// Counts how often it is asked, and says so each time; `silent` names get no answer before `end` is dropped.
    fn names(silent: &'static str) -> (Names, Asked, mpsc::Sender<()>) {
        let (end, told) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let (count, told) = (Arc::new(AtomicUsize::new(0)), Mutex::new(told));
        let asked = Asked { count: count.clone(), begun };
        let look = move |name: &str| {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = begins.send(());
            if name.starts_with(silent) {
                let _ = told.lock().unwrap().recv();
            }
            match name {
                "empty" => Ok(Vec::new()),
                "none" => Err(io::Error::other("Name or service not known")),
                _ => Ok(vec![ip(7)]),
            }
        };
        (Names::by(Arc::new(look)), asked, end)
    }

    struct Asked {
        count: Arc<AtomicUsize>,
        begun: mpsc::Receiver<()>,
    }

    impl Asked {
        fn times(&self) -> usize {
            self.count.load(Ordering::Relaxed)
        }
    }

    async fn ask(names: &Names, name: &str, patience: Duration) -> Result<Vec<IpAddr>, String> {
        names.addresses(name.to_owned(), patience).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn names_that_get_no_answer_hold_up_no_other_name() {
        let (names, asked, end) = names("silent");
        for n in 0..MOST - 1 {
            let said = ask(&names, &format!("silent-{n}"), Duration::from_millis(1)).await.unwrap_err();
            assert!(said.starts_with("the name server did not answer within"), "{said}");
            asked.begun.recv_timeout(LONG).unwrap();
            assert_eq!(ask(&names, "silent-0", Duration::from_millis(1)).await.unwrap_err(), "the name server did not answer within 1ms");
        }
        assert_eq!(ask(&names, "search", LONG).await, Ok(vec![ip(7)]));
        assert_eq!(asked.times(), MOST, "one look for each name, however often it was wanted");
        drop(end);
    }

    #[tokio::test]
    async fn localhost_is_not_looked_up() {
        let (names, asked, _end) = names("");
        let here: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for name in ["localhost", "LOCALHOST.", "svc.localhost"] {
            assert_eq!(ask(&names, name, LONG).await, Ok(here.clone()));
        }
        assert_eq!(asked.times(), 0);
        for (url, plain) in [("http://localhost/", true), ("http://127.0.0.1:1/", true), ("http://[::1]/", true), ("http://search/", false)]
        {
            assert_eq!(is_plain(&Url::parse(url).unwrap()), plain, "{url}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_and_an_old_one_serves_while_the_name_server_is_silent() {
        let (names, asked, end) = names("search");
        assert!(ask(&names, "search", SHORT).await.is_err());
        drop(end);
        assert_eq!(ask(&names, "search", LONG).await, Ok(vec![ip(7)]));
        assert_eq!(ask(&names, "search", LONG).await, Ok(vec![ip(7)]));
        assert_eq!(asked.times(), 1);

        let (_end, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let silent = Names { look: Arc::new(move |_| told.lock().unwrap().recv().map(|()| Vec::new()).map_err(io::Error::other)), ..names };
        let aged = |by: Duration| silent.known.lock().unwrap().get_mut("search").unwrap().1 = Mono::now() - by;
        aged(FRESH);
        assert_eq!(ask(&silent, "search", SHORT).await, Ok(vec![ip(7)]));
        aged(USABLE);
        assert!(ask(&silent, "search", SHORT).await.is_err());
    }

    #[tokio::test]
    async fn what_the_name_server_says_is_said() {
        let (names, _asked, _end) = names("silent");
        assert_eq!(ask(&names, "none", LONG).await.unwrap_err(), "Name or service not known");
        assert_eq!(ask(&names, "empty", LONG).await.unwrap_err(), "the name has no address");
    }
}
