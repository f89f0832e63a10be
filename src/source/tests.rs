//! Sources against a server in this process that answers as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::config;
use crate::poll::Remote;

/// What the server says to a request for a path with its query: status, further headers, body. `None`: nothing, for a second.
type Says = Box<dyn Fn(&str) -> Option<(u16, String, Vec<u8>)> + Send>;

struct Server {
    address: SocketAddr,
    /// Paths and headers.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Lives as long as the test binary.
    fn start(says: Says) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), says)
    }

    fn on(listener: TcpListener, says: Says) -> Server {
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let log = seen.clone();
        std::thread::spawn(move || listener.incoming().for_each(|stream| drop(answer(stream.unwrap(), &says, &log))));
        Server { address, seen }
    }

    fn text(body: &'static str) -> Server {
        Server::start(Box::new(move |_| Some((200, String::new(), body.into()))))
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().join("\n")
    }
}

fn answer(mut stream: TcpStream, says: &Says, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let head: Vec<String> = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let path = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or_default().to_owned();
    log.lock().unwrap().push(head.join("\n"));
    match says(&path) {
        None => std::thread::sleep(Duration::from_secs(1)),
        Some((status, headers, body)) => {
            write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
            stream.write_all(&body)?;
        }
    }
    Ok(())
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A target as a file with these keys makes it.
fn target(keys: &str) -> Target {
    let text = format!("[[target]]\nname = \"t\"\nthreshold = \"1GiB\"\ninterval = \"300ms\"\n{keys}");
    config::parse(&text, "f").unwrap_or_else(|e| panic!("{e}")).0.targets.remove(0).as_ref().clone()
}

fn scraped(server: &Server, keys: &str) -> Target {
    target(&format!("metrics = {{ url = \"http://{}/metrics?token=s3cr3t\" }}\n{keys}", server.address))
}

fn queried(server: &Server, keys: &str) -> Target {
    target(&format!("prometheus = {{ url = \"http://{}/prom\", query = 'process_resident_memory_bytes' }}\n{keys}", server.address))
}

async fn ask(target: &Target) -> Result<Found, String> {
    ask_once(target, &Clients::default()).await
}

async fn one(target: &Target) -> Remote {
    let mut found = ask(target).await.unwrap();
    assert_eq!((found.readings.len(), &found.trouble, &found.partial), (1, &None, &None));
    found.readings.remove(0)
}

const PAGE: &str = "process_resident_memory_bytes 1048576\nprocess_start_time_seconds 1700000000.5\nmax 4194304\nmax_none 0\n\
                    go_memstats_heap_alloc_bytes 1\ngo_memstats_heap_inuse_bytes 2\ngo_memstats_heap_idle_bytes 3\ngo_memstats_heap_released_bytes 1\n";

#[tokio::test]
async fn a_page_is_one_reading_with_all_that_it_tells() {
    let server = Server::text(PAGE);
    let reading = one(&scraped(&server, "limit = { metric = \"max\" }")).await;
    assert_eq!((reading.rss, reading.started_unix_ms, reading.limit), (Ok(1 << 20), Some(1_700_000_000_500), Ok(Some(4 << 20))));
    assert_eq!(reading.go.unwrap().heap_inuse, 2);
    assert_eq!(reading.who.label, format!("http://{}/metrics", server.address), "without the query, which may hold a secret");
    assert!(server.seen().contains("/metrics?token=s3cr3t") && server.seen().contains("accept-encoding: gzip"), "{}", server.seen());
    assert_eq!(one(&scraped(&server, "limit = { metric = \"max_none\" }")).await.limit, Ok(None));
    assert_eq!(one(&scraped(&server, "limit = \"2GiB\"")).await.limit, Ok(Some(2 << 30)));
    assert_eq!(&*one(&scraped(&server, "limit = { metric = \"other\" }")).await.limit.unwrap_err(), "the page has no other");
}

#[tokio::test]
async fn gzip_is_understood_and_bounded() {
    let server = Server::start(Box::new(|_| Some((200, "Content-Encoding: gzip\r\n".into(), gzip(PAGE.as_bytes())))));
    assert_eq!(one(&scraped(&server, "")).await.rss, Ok(1 << 20));
    // one long comment, which is cheap to read
    let bomb = gzip(&vec![b'#'; 65 << 20]);
    let server = Server::start(Box::new(move |_| Some((200, "Content-Encoding: gzip\r\n".into(), bomb.clone()))));
    let mut slow = scraped(&server, "");
    slow.interval = Duration::from_secs(60);
    assert_eq!(ask(&slow).await.unwrap_err(), "the answer is larger than 64.0MiB");
    let server = Server::start(Box::new(|_| Some((200, "Content-Encoding: br\r\n".into(), b"x".to_vec()))));
    assert_eq!(ask(&scraped(&server, "")).await.unwrap_err(), "the answer has the encoding `br`, which was not asked for");
}

#[tokio::test]
async fn why_a_page_tells_nothing_is_said_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cr3t-token").unwrap();
    let auth = format!("auth = {{ bearer_file = \"{}\" }}", token.display());
    let says = |status: u16, headers: &'static str, body: &'static str| {
        Server::start(Box::new(move |_| Some((status, headers.into(), body.into()))))
    };
    for (server, why) in [
        (says(500, "", "oops: s3cr3t-token\nat x.go:3"), "HTTP 500 `oops: [secret]`"),
        (says(401, "", ""), "HTTP 401: it wants credentials, or other ones; check `auth` in the configuration"),
        (says(404, "", "404 page not found"), "HTTP 404 `404 page not found`: check the path of the URL"),
        (
            says(302, "Location: http://evil.example/x?token=s3cr3t-token\r\n", ""),
            "redirected to http://evil.example, which is not followed: write the final address",
        ),
        (Server::start(Box::new(|_| None)), "no whole answer within 270ms; a longer interval gives it more time"),
    ] {
        let mut target = scraped(&server, &auth);
        if !why.contains("270ms") {
            // who listens is looked at first, which a busy machine takes its time for
            target.interval = Duration::from_secs(30);
        }
        assert_eq!(ask(&target).await.unwrap_err(), why);
        assert!(server.seen().contains("authorization: Bearer s3cr3t-token"));
        assert_eq!(server.seen().matches("HTTP/1.1").count(), 1, "{}", server.seen());
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = target(&format!("metrics = {{ url = \"http://{nobody}/metrics\" }}"));
    assert_eq!(ask(&refused).await.unwrap_err(), "connection refused: does it run, and listen there?");
    std::fs::remove_file(&token).unwrap();
    let unreadable = ask(&scraped(&Server::text(PAGE), &auth)).await.unwrap_err();
    assert!(unreadable.starts_with("cannot read") && unreadable.contains("token"), "{unreadable}");
}

#[tokio::test]
async fn a_page_without_the_series_is_not_a_page_with_a_wrong_one() {
    let found = ask(&scraped(&Server::text("other 1\n"), "")).await.unwrap();
    assert_eq!((found.readings.len(), found.trouble.as_deref()), (0, Some("the page has no process_resident_memory_bytes")));
    for (page, why) in [
        ("process_resident_memory_bytes NaN\n", "process_resident_memory_bytes: the value is NaN"),
        ("process_resident_memory_bytes -1\n", "process_resident_memory_bytes: the value is negative"),
        (
            "process_resident_memory_bytes 1\nprocess_resident_memory_bytes{a=\"1\"} 1\n",
            "2 series of process_resident_memory_bytes fit: add to `labels` what tells them apart",
        ),
        ("<html>\n", "the answer is a web page, not metrics: is it the right URL?"),
    ] {
        assert_eq!(one(&scraped(&Server::text(page), "")).await.rss, Err(why.into()), "{page}");
    }
}

/// Answers the queries whose names these are; what else is asked is refused as Prometheus does.
fn prometheus(answers: &'static [(&'static str, &'static str)]) -> Server {
    Server::start(Box::new(move |path| {
        let asked = path.strip_prefix("/prom/api/v1/query?query=")?;
        match answers.iter().find(|(query, _)| asked.split('&').next() == Some(query)) {
            Some((_, result)) => {
                let body = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{result}]}}}}"#);
                Some((200, String::new(), body.into_bytes()))
            }
            None => Some((400, String::new(), br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#.to_vec())),
        }
    }))
}

const RSS: &str = "process_resident_memory_bytes";
const START: &str = "process_start_time_seconds";

#[tokio::test]
async fn one_query_gives_instances_start_times_limits_and_addresses() {
    let server = prometheus(&[
        (
            RSS,
            r#"{"metric":{"__name__":"r","instance":"a:1","pod":"p"},"value":[1700000100.5,"1048576"]},{"metric":{"instance":"../x"},"value":[1700000100.5,"2097152"]}"#,
        ),
        (
            START,
            r#"{"metric":{"__name__":"s","instance":"a:1","pod":"p"},"value":[1700000100.5,"1700000000"]},{"metric":{"instance":"gone"},"value":[1,"1"]}"#,
        ),
        ("max", r#"{"metric":{"pod":"p","x":"1"},"value":[1,"4194304"]},{"metric":{"pod":"q"},"value":[1,"1"]}"#),
    ]);
    let t = queried(&server, "pprof = \"http://{instance}/debug/pprof\"\nlimit = { query = 'max', by = [\"pod\"] }");
    let found = ask(&t).await.unwrap();
    let [a, hostile] = found.readings.as_slice() else { panic!("{found:#?}") };
    assert_eq!((&*a.who.series, a.who.label.as_str()), (r#"{instance="a:1",pod="p"}"#, "a:1"));
    assert_eq!((&a.rss, a.started_unix_ms, &a.limit), (&Ok(1 << 20), Some(1_700_000_000_000), &Ok(Some(4 << 20))));
    assert_eq!(a.who.pprof, Some(Ok("http://a:1/debug/pprof".into())));
    assert!(hostile.who.pprof.as_ref().unwrap().as_ref().unwrap_err().contains("characters that no host has"));
    assert_eq!(hostile.limit.as_ref().unwrap_err().as_ref(), "the series has no label `pod`, which `by` names");
    assert_eq!((found.trouble, &*found.limit_source), (None, "the limit's query"));
    assert!(server.seen().contains("query=process_start_time_seconds&time=1700000100.500"), "{}", server.seen());
}

#[tokio::test]
async fn what_goes_wrong_beside_the_main_query_costs_no_reading() {
    let server = prometheus(&[(RSS, r#"{"metric":{"instance":"a:1"},"value":[5,"1048576"]}"#)]);
    let found = ask(&queried(&server, "limit = { query = 'max', by = [\"instance\"] }")).await.unwrap();
    assert_eq!((found.readings.len(), &found.readings[0].rss), (1, &Ok(1 << 20)));
    assert_eq!(
        found.trouble.as_deref(),
        Some("limits: HTTP 400: the server says bad_data: parse error; start times: HTTP 400: the server says bad_data: parse error")
    );
}

#[tokio::test]
async fn series_that_cannot_be_told_apart_are_none() {
    let server = prometheus(&[
        (
            RSS,
            r#"{"metric":{"__name__":"a","i":"1"},"value":[5,"1048576"]},{"metric":{"__name__":"b","i":"1"},"value":[5,"1048576"]},{"metric":{"i":"2"},"value":[5,"NaN"]}"#,
        ),
        (START, ""),
        (
            "max",
            r#"{"metric":{"i":"2","n":"1"},"value":[1,"7000000"]},{"metric":{"i":"2","n":"2"},"value":[1,"8000000"]},{"metric":{"i":"1"},"value":[1,"NaN"]}"#,
        ),
    ]);
    let found = ask(&queried(&server, "limit = { query = 'max', by = [\"i\"] }")).await.unwrap();
    let rss: Vec<&str> = found.readings.iter().map(|r| r.rss.as_ref().unwrap_err().as_str()).collect();
    assert_eq!(rss, ["several series have these labels: let the query give one metric only", "RSS: the value is NaN"]);
    let limits: Vec<&str> = found.readings.iter().map(|r| &**r.limit.as_ref().unwrap_err()).collect();
    assert_eq!(
        limits,
        ["in the limit's query the value is NaN", "the limit's query gives several, different ones: name more labels in `by`"]
    );
}

#[tokio::test]
async fn a_server_that_refuses_or_is_none_is_told_in_its_words() {
    assert_eq!(ask(&queried(&prometheus(&[]), "")).await.unwrap_err(), "HTTP 400: the server says bad_data: parse error");
    let unavailable = Server::start(Box::new(|_| Some((503, String::new(), b"Service Unavailable".to_vec()))));
    assert_eq!(ask(&queried(&unavailable, "")).await.unwrap_err(), "HTTP 503 `Service Unavailable`");
    let other = ask(&queried(&Server::text("<html>Sign in</html>"), "")).await.unwrap_err();
    assert!(other.starts_with("the answer is not that of the Prometheus query API"), "{other}");
    let partial = Server::text(r#"{"status":"success","warnings":["store 2 timed out"],"data":{"resultType":"vector","result":[]}}"#);
    assert_eq!(ask(&queried(&partial, "")).await.unwrap().partial.as_deref(), Some("store 2 timed out"));
}

#[tokio::test]
async fn tasks_follow_the_configuration_and_tell_the_watcher() {
    let server = Server::text(PAGE);
    let config = |targets: Vec<Target>| Config {
        daemon: config::Daemon::default(),
        retention: config::Retention::default(),
        upload: None,
        notify: Vec::new(),
        targets: targets.into_iter().map(Arc::new).collect(),
    };
    let (tell, told) = std::sync::mpsc::channel();
    let mut sources = Sources::start(&config(vec![scraped(&server, "")]), Clients::default(), tell);
    let mut heard = 0;
    while heard < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        heard += told.try_iter().filter(|c| matches!(c, Command::Readings(r) if r.found.is_ok())).count();
    }
    sources.end_changed(&config(Vec::new()));
    let _ = told.try_iter().count();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(told.try_iter().count(), 0);
}

#[tokio::test]
async fn endpoints_are_not_all_asked_at_once() {
    let server = Server::text("");
    let at = |name: &str| spread(&Target { name: name.into(), ..scraped(&server, "") });
    let times: std::collections::BTreeSet<Duration> = (0..50).map(|i| at(&format!("t{i}"))).collect();
    assert!(times.len() > 20 && times.iter().all(|t| *t < Duration::from_millis(300)), "{times:?}");
}

#[tokio::test]
async fn a_page_that_another_user_of_this_host_serves_is_shown_no_credentials() {
    const EVE: u32 = 54_321;
    let Some(listener) = crate::host::fake::as_user(EVE, || TcpListener::bind("127.0.0.1:0").unwrap()) else { return };
    let server = Server::on(listener, Box::new(|_| Some((200, String::new(), b"process_resident_memory_bytes 7\n".to_vec()))));
    let secrets = tempfile::tempdir().unwrap();
    let token = secrets.path().join("token");
    std::fs::write(&token, "s3cr3t").unwrap();
    let mut target = scraped(&server, &format!("auth = {{ bearer_file = {:?} }}", token.display().to_string()));
    target.interval = Duration::from_secs(30);
    let why = ask_once(&target, &Clients::default()).await.unwrap_err();
    assert!(why.contains(&format!("is of user {EVE}; if that is the service's, say so")), "{why}");
    assert_eq!(server.seen(), "");
    let Source::Metrics(metrics) = &mut target.source else { panic!() };
    metrics.user = Some(EVE.to_string().parse().unwrap());
    assert!(ask_once(&target, &Clients::default()).await.is_ok());
    assert!(server.seen().contains("Bearer s3cr3t"));
}
