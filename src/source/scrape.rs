//! One exposition endpoint, one instance.

use std::io::{self, Write};
use std::sync::Arc;

use reqwest::Url;
use tokio::time::Instant;

use super::get::{Ask, get};
use super::{Door, patience};
use crate::config::{MetricLimit, Metrics, Target};
use crate::metrics::exposition::{Page, Reader};
use crate::metrics::{self, Pick};
use crate::poll::{Found, Remote, Who};
use crate::units::ByteSize;

/// Text first, since that is what every service has; OpenMetrics is as good.
const ACCEPT: &str = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,\
                      application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1";
/// The page of a service with ten thousand series has some 2 MB.
const MAX_PAGE: u64 = 64 << 20;

pub(super) struct Scrape<'t> {
    target: &'t Target,
    metrics: &'t Metrics,
    /// What the page is read for: RSS, and the limit's metric if there is one.
    picks: Vec<&'t Pick>,
    url: Result<Url, String>,
    who: Arc<Who>,
    limit_source: Arc<str>,
    door: Door<'t>,
}

impl<'t> Scrape<'t> {
    pub fn new(target: &'t Target, metrics: &'t Metrics, door: Door<'t>) -> Scrape<'t> {
        let url = Url::parse(&metrics.url).map_err(|e| format!("the URL in `metrics` is not usable: {e}"));
        let shown = shown(&metrics.url);
        let (limit_metric, limit_source) = match &metrics.limit {
            None => (None, String::new()),
            Some(MetricLimit::Fixed(_)) => (None, "limit in the configuration".into()),
            Some(MetricLimit::Metric(pick)) => (Some(pick), format!("metric {pick}")),
        };
        let picks = std::iter::once(&metrics.rss).chain(limit_metric).collect();
        let who = Arc::new(Who { series: shown.as_str().into(), label: shown, pprof: None });
        Scrape { target, metrics, picks, url, who, limit_source: limit_source.into(), door }
    }

    pub async fn ask(&mut self) -> Result<Found, String> {
        let url = self.url.clone()?;
        let (client, credentials) = self.door.open(&url).await?;
        let mut page = PageWriter(Reader::new(self.picks.iter().copied()));
        let timeout = patience(self.target.interval);
        let until = Instant::now() + timeout;
        match get(Ask { client, url, credentials, accept: ACCEPT, until, timeout, max_bytes: MAX_PAGE }, &mut page).await {
            Ok(()) => Ok(self.found(page.0.finish())),
            Err(trouble) => {
                self.door.close_if_turned_away(&trouble);
                Err(trouble.to_string())
            }
        }
    }

    fn found(&self, page: Page) -> Found {
        let mut values = page.values.into_iter();
        let rss = match values.next() {
            Some(Ok(value)) => metrics::bytes(value).map_err(|bad| format!("{}: {bad}", self.metrics.rss)),
            // the page is fine, and the series is not on it
            Some(Err(absent)) if absent.is_vanished() => {
                return Found { trouble: Some(absent.to_string()), limit_source: self.limit_source.clone(), ..Found::default() };
            }
            Some(Err(absent)) => Err(absent.to_string()),
            None => Err("the page was not read".into()),
        };
        let limit = match (&self.metrics.limit, values.next()) {
            (Some(MetricLimit::Fixed(ByteSize(bytes))), _) => Ok(Some(*bytes)),
            (Some(MetricLimit::Metric(pick)), Some(Ok(value))) => metrics::limit(value).map_err(|bad| format!("{pick}: {bad}").into()),
            (_, Some(Err(absent))) => Err(absent.to_string().into()),
            _ => Ok(None),
        };
        let reading = Remote {
            who: self.who.clone(),
            started_unix_ms: page.started.and_then(metrics::start_time),
            rss,
            limit,
            go: page.go.map(Box::new),
            collector: page.collector.map(Box::new),
        };
        Found { readings: vec![reading], partial: None, trouble: None, limit_source: self.limit_source.clone() }
    }
}

/// The URL without its query, which may hold a secret.
fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

struct PageWriter<'p>(Reader<'p>);

impl Write for PageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
