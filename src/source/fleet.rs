//! One query to a server with the Prometheus query API: one instance for each series.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use super::get::{Ask, Trouble, get};
use super::{Door, patience};
use crate::client::Credentials;
use crate::config::{Pprof, Prometheus, QueryLimit, Target};
use crate::metrics::query::{self, Answer, QueryError, Series};
use crate::metrics::{self, MAX_SERIES_TEXT, canonical, label_for_people};
use crate::poll::{Found, Remote, Who};
use crate::units::ByteSize;

const ACCEPT: &str = "application/json";
/// 5,000 series have some 2 MB.
const MAX_BODY: u64 = 64 << 20;
/// Instances of one target.
const MAX_SERIES: usize = 20_000;
/// Limits are changed by people and orchestrators now and then.
const LIMIT_REFRESH: Duration = Duration::from_secs(30);
/// Those of instances that are new may come a moment later than their RSS.
const LIMIT_SOON: Duration = Duration::from_secs(1);
/// A body from which on reading it would hold up everything else for too long: it takes a millisecond.
const LARGE: usize = 256 << 10;

pub(super) struct Fleet<'t> {
    target: &'t Target,
    prometheus: &'t Prometheus,
    door: Door<'t>,
    known: Known,
    limits: Limits,
    limit_source: Arc<str>,
}

/// The instances seen in the last answers, so that what does not change of them is made once.
#[derive(Default)]
struct Known {
    /// With the number of the answer that had them last.
    instances: HashMap<Arc<str>, (Arc<Who>, u64)>,
    answers: u64,
}

type ByKey = HashMap<String, Result<Option<u64>, Arc<str>>>;

/// The limits by the values of the labels that they are joined on.
#[derive(Default)]
struct Limits {
    by_key: ByKey,
    asked: Option<Instant>,
    /// When they are asked for again, after that.
    pause: Duration,
    /// Instances that the query gave none for.
    lacking: usize,
    /// Why the last question for them failed.
    trouble: Option<String>,
}

impl<'t> Fleet<'t> {
    pub fn new(target: &'t Target, prometheus: &'t Prometheus, door: Door<'t>) -> Fleet<'t> {
        let limit_source = match &prometheus.limit {
            None => "",
            Some(QueryLimit::Fixed(_)) => "limit in the configuration",
            Some(QueryLimit::Query { .. }) => "the limit's query",
        };
        Fleet { target, prometheus, door, known: Known::default(), limits: Limits::default(), limit_source: limit_source.into() }
    }

    pub async fn ask(&mut self) -> Result<Found, String> {
        let timeout = patience(self.target.interval);
        let base = Url::parse(&self.prometheus.url).map_err(|e| format!("the URL in `prometheus` is not usable: {e}"))?;
        let (client, credentials) = self.door.open(&base).await?;
        let server = Server { base, client: client.clone(), credentials: credentials.clone(), until: Instant::now() + timeout, timeout };
        let main = server.query(&self.prometheus.query, None);
        // at the same time, so that a slow limit does not cost the reading
        let due = self.limits.asked.is_none_or(|at| at.elapsed() >= self.limits.pause);
        let body = match &self.prometheus.limit {
            Some(QueryLimit::Query { query, by }) if due => {
                let (body, limits) = tokio::join!(main, server.query(query, None));
                let by_key = limits.map_err(|t| in_its_words(&t)).and_then(|body| limits_of(&body, by).map_err(|e| e.to_string()));
                self.limits.renew(by_key);
                body
            }
            _ => main.await,
        };
        let body = body.map_err(|trouble| {
            self.door.close_if_turned_away(&trouble);
            in_its_words(&trouble)
        })?;
        let (answer, mut read) = self.read(body).await?;
        self.limits.lack(read.lacking);
        let mut trouble: Vec<String> = self.limits.trouble.iter().map(|why| format!("limits: {why}")).collect();
        if let Some((query, time)) = self.prometheus.started.as_ref().zip(answer.time) {
            // as of the same moment: no start time may be newer than its RSS
            let times = server.query(query, Some(time)).await.map_err(|t| in_its_words(&t));
            if let Err(why) = times.and_then(|body| put_start_times(&body, &mut read).map_err(|e| e.to_string())) {
                trouble.push(format!("start times: {why}"));
            }
        }
        if read.too_long > 0 {
            trouble.push(format!("{} series have longer labels than {MAX_SERIES_TEXT} bytes and are not watched", read.too_long));
        }
        Ok(Found {
            readings: read.readings,
            partial: answer.partial,
            trouble: (!trouble.is_empty()).then(|| trouble.join("; ")),
            limit_source: self.limit_source.clone(),
        })
    }

    async fn read(&mut self, body: Vec<u8>) -> Result<(Answer, Read), String> {
        let known = std::mem::take(&mut self.known);
        let limits = std::mem::take(&mut self.limits);
        let (limit, pprof) = (self.prometheus.limit.clone(), self.target.pprof.clone());
        let large = body.len() > LARGE;
        let work = move || {
            let mut read = Read { known, limits, limit, pprof, readings: Vec::new(), too_long: 0, lacking: 0 };
            let answer = read.all(&body).map_err(|e| e.to_string());
            (answer, read)
        };
        let (answer, mut read) = match large {
            true => self
                .door
                .threads
                .run_for(self.door.name, patience(self.target.interval), work)
                .await
                .map_err(|why| format!("the answer: {why}"))?,
            false => work(),
        };
        self.known = std::mem::take(&mut read.known);
        self.limits = std::mem::take(&mut read.limits);
        answer.map(|answer| (answer, read))
    }
}

/// The server, for the questions of one interval.
struct Server {
    base: Url,
    client: reqwest::Client,
    credentials: Credentials,
    until: Instant,
    timeout: Duration,
}

impl Server {
    /// The body of an answer. `time` is the server's.
    async fn query(&self, query: &str, time: Option<f64>) -> Result<Vec<u8>, Trouble> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/api/v1/query", url.path().trim_end_matches('/')));
        url.query_pairs_mut().append_pair("query", query);
        if let Some(time) = time {
            url.query_pairs_mut().append_pair("time", &format!("{time:.3}"));
        }
        let (client, credentials, until, timeout) = (&self.client, &self.credentials, self.until, self.timeout);
        let mut body = Vec::new();
        get(Ask { client, url, credentials, accept: ACCEPT, until, timeout, max_bytes: MAX_BODY }, &mut body).await?;
        Ok(body)
    }
}

impl Limits {
    /// Those that were known stay where the question failed.
    fn renew(&mut self, by_key: Result<ByKey, String>) {
        self.asked = Some(Instant::now());
        self.pause = (self.pause * 2).clamp(LIMIT_SOON, LIMIT_REFRESH);
        match by_key {
            Ok(by_key) => (self.by_key, self.trouble) = (by_key, None),
            Err(why) => self.trouble = Some(why),
        }
    }

    /// So many instances have none. Once there are more, they are asked for soon, and then less and less often: some never get one.
    fn lack(&mut self, lacking: usize) {
        if lacking > self.lacking {
            self.pause = LIMIT_SOON;
        } else if lacking == 0 {
            self.pause = LIMIT_REFRESH;
        }
        self.lacking = lacking;
    }
}

/// The server's JSON tells more than its status.
fn in_its_words(trouble: &Trouble) -> String {
    if let Trouble::Status { code, text } = trouble
        && let Err(refused @ QueryError::Refused { .. }) = query::read(text.as_bytes(), 0, &mut |_| {})
    {
        return format!("HTTP {}: {refused}", code.as_u16());
    }
    trouble.to_string()
}

/// Values of some labels, as one text that no other values have.
fn key<'l>(by: &[String], label: impl Fn(&str) -> Option<&'l str>, out: &mut String) -> Result<(), String> {
    out.clear();
    for name in by {
        let value = label(name).filter(|v| !v.is_empty()).ok_or_else(|| name.clone())?;
        out.push_str(&format!("{}:{value}", value.len()));
    }
    Ok(())
}

fn limits_of(body: &[u8], by: &[String]) -> Result<ByKey, QueryError> {
    let mut limits = ByKey::new();
    let mut text = String::new();
    query::read(body, MAX_SERIES, &mut |series| {
        if key(by, |name| series.label(name), &mut text).is_err() {
            return;
        }
        let value = series.value.map_err(|e| e.to_string()).and_then(|v| metrics::limit(v).map_err(|e| e.to_string()));
        let value = value.map_err(|why| Arc::from(format!("in the limit's query {why}")));
        limits
            .entry(text.clone())
            .and_modify(|known| {
                if *known != value {
                    *known = Err("the limit's query gives several, different ones: name more labels in `by`".into());
                }
            })
            .or_insert(value);
    })?;
    Ok(limits)
}

/// Fills in when the instances started. A start time without its instance, or one that is none, is passed over.
fn put_start_times(body: &[u8], read: &mut Read) -> Result<(), QueryError> {
    let places: HashMap<Arc<str>, usize> = read.readings.iter().enumerate().map(|(i, r)| (r.who.series.clone(), i)).collect();
    let mut text = String::new();
    query::read(body, MAX_SERIES, &mut |series| {
        canonical(series.pairs(), &mut text);
        if let Some(reading) = places.get(text.as_str()).and_then(|i| read.readings.get_mut(*i)) {
            reading.started_unix_ms = series.value.ok().and_then(metrics::start_time);
        }
    })?;
    Ok(())
}

/// An answer on its way to readings.
struct Read {
    known: Known,
    limits: Limits,
    limit: Option<QueryLimit>,
    pprof: Option<Pprof>,
    readings: Vec<Remote>,
    too_long: usize,
    lacking: usize,
}

impl Read {
    fn all(&mut self, body: &[u8]) -> Result<Answer, QueryError> {
        self.known.answers += 1;
        self.readings.reserve(self.known.instances.len());
        let (mut text, mut join) = (String::new(), String::new());
        let mut twice: Vec<Arc<str>> = Vec::new();
        let answer = query::read(body, MAX_SERIES, &mut |series| {
            canonical(series.pairs(), &mut text);
            if text.len() > MAX_SERIES_TEXT {
                self.too_long += 1;
            } else if let Some(who) = self.known.meet(&text, &series, self.pprof.as_ref()) {
                let limit = self.limit_for(&series, &mut join);
                self.readings.push(Remote {
                    started_unix_ms: None,
                    rss: series.value.map_err(|e| e.to_string()).and_then(|v| metrics::bytes(v).map_err(|e| format!("RSS: {e}"))),
                    limit,
                    go: None,
                    collector: None,
                    who,
                });
            } else {
                twice.push(text.as_str().into());
            }
        })?;
        if !twice.is_empty() {
            twice.sort_unstable();
            for reading in self.readings.iter_mut().filter(|r| twice.binary_search(&r.who.series).is_ok()) {
                reading.rss = Err("several series have these labels: let the query give one metric only".into());
            }
        }
        let now = self.known.answers;
        // a partial answer, or one failed scrape, is no reason to forget
        self.known.instances.retain(|_, (_, seen)| now - *seen < 100);
        Ok(answer)
    }

    fn limit_for(&mut self, series: &Series<'_>, join: &mut String) -> Result<Option<u64>, Arc<str>> {
        match &self.limit {
            None => Ok(None),
            Some(QueryLimit::Fixed(ByteSize(bytes))) => Ok(Some(*bytes)),
            Some(QueryLimit::Query { by, .. }) => {
                if let Err(missing) = key(by, |name| series.label(name), join) {
                    return Err(format!("the series has no label `{missing}`, which `by` names").into());
                }
                match self.limits.by_key.get(join.as_str()) {
                    Some(limit) => limit.clone(),
                    None => {
                        self.lacking += 1;
                        Err("the limit's query gives none for it".into())
                    }
                }
            }
        }
    }
}

impl Known {
    /// Who this is; `None` if the same answer had it already.
    fn meet(&mut self, text: &str, series: &Series<'_>, pprof: Option<&Pprof>) -> Option<Arc<Who>> {
        if let Some((who, seen)) = self.instances.get_mut(text) {
            let before = std::mem::replace(seen, self.answers);
            return (before != self.answers).then(|| who.clone());
        }
        let pprof = match pprof {
            Some(Pprof::Template(template)) => Some(template.fill(|name| series.label(name)).map_err(|e| e.to_string())),
            _ => None,
        };
        let who = Arc::new(Who { series: text.into(), label: label_for_people(series.pairs()), pprof });
        self.instances.insert(who.series.clone(), (who.clone(), self.answers));
        Some(who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_newcomers_lack_are_asked_for_soon_and_then_less_and_less_often() {
        let mut limits = Limits::default();
        let mut pauses = |lacking: &[usize]| -> Vec<u64> {
            let pause = |n: &usize| {
                limits.renew(Ok(ByKey::new()));
                limits.lack(*n);
                limits.pause.as_secs()
            };
            lacking.iter().map(pause).collect()
        };
        assert_eq!(pauses(&[3, 3, 3, 3, 3, 3, 3]), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses(&[5, 5, 2, 0]), [1, 2, 4, 30]);
    }
}
