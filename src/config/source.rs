//! Where a target's readings come from: `process`, `metrics` or `prometheus`, and what `limit` may then be.

use toml::de::DeValue;

use super::endpoint::Invalid;
use super::reader::{Read, Table, Value, checked, fault, list, or_off, parsed, text};
use super::{ADDRESS, Auth, Pprof, Process, ProcessLimit, Rules, User, auth};
use crate::metrics::{self, Pick};
use crate::units::{ByteSize, SizeOrPercent};

/// Who is watched, and by what.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Processes of this host, through procfs.
    Process(Process),
    Metrics(Metrics),
    Prometheus(Prometheus),
}

impl<P: Into<Process>> From<P> for Source {
    fn from(process: P) -> Source {
        Source::Process(process.into())
    }
}

impl Source {
    pub fn process(&self) -> Option<&Process> {
        match self {
            Source::Process(process) => Some(process),
            _ => None,
        }
    }
}

/// One exposition endpoint: one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// `http` or `https`, without credentials.
    pub url: String,
    /// Who serves it and pprof, where they are on this host and credentials are sent.
    pub user: Option<User>,
    pub rss: Pick,
    pub limit: Option<MetricLimit>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MetricLimit {
    Fixed(ByteSize),
    /// Of the same page.
    Metric(Pick),
}

/// A server with the Prometheus query API: one instance for each series of the query.
#[derive(Clone, Debug, PartialEq)]
pub struct Prometheus {
    /// Without `/api/v1/query`.
    pub url: String,
    /// Who serves it, where it is on this host and credentials are sent.
    pub user: Option<User>,
    pub query: String,
    /// Gives the start times of the same instances, with the same labels; `None`: restarts are not seen.
    pub started: Option<String>,
    /// For the server; that of the target is for pprof.
    pub auth: Auth,
    pub limit: Option<QueryLimit>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum QueryLimit {
    Fixed(ByteSize),
    /// Its series are matched with those of the main query by the values of these labels.
    Query {
        query: String,
        by: Vec<String>,
    },
}

pub(super) const METRICS_EXAMPLE: &str = r#"{ url = "http://search:6060/metrics" }"#;
pub(super) const PROMETHEUS_EXAMPLE: &str = r#"{ url = "http://prometheus:9090", query = 'process_resident_memory_bytes{job="shop"}' }"#;
const LIMIT_EXAMPLE: &str = r#"limit = "4GiB""#;
/// Below it, no Go process runs.
const MIN_LIMIT: ByteSize = ByteSize::mib(1);
const MAX_LABELS: usize = 32;

/// `metrics = { url, metric, labels }`
pub(super) fn read_metrics(mut t: Table<'_, '_>) -> Option<Metrics> {
    let url = t.take("url", |v| address(v, "an exposition's URL such as \"http://search:6060/metrics\"", true));
    let user = t.take("user", user);
    let rss = pick(&mut t, Some(metrics::RSS));
    if !t.has("url") {
        t.missing(format_args!("url: missing; write for example metrics = {METRICS_EXAMPLE}"));
    }
    t.finish(&[]);
    Some(Metrics { url: url?, user, rss: rss?, limit: None })
}

/// `prometheus = { url, query, started, auth }`
pub(super) fn read_prometheus(mut t: Table<'_, '_>) -> Option<Prometheus> {
    let url = t.take("url", |v| address(v, "the server's URL such as \"http://prometheus:9090\"", false));
    let user = t.take("user", user);
    let query = t.take("query", promql);
    let started = t.take("started", or_off(promql));
    let mut server_auth = Auth::default();
    if let Some(auth) = t.table("auth", auth::EXAMPLE) {
        server_auth = auth::read_table(auth, &auth::Uses::url(url.as_deref(), "prometheus.url"));
    }
    for key in ["url", "query"] {
        if !t.has(key) {
            t.missing(format_args!("{key}: missing; write for example prometheus = {PROMETHEUS_EXAMPLE}"));
        }
    }
    let derived = query.as_deref().and_then(start_times_of).filter(|_| !t.has("started"));
    t.finish(&[]);
    Some(Prometheus { url: url?, user, query: query?, started: started.unwrap_or(derived), auth: server_auth, limit: None })
}

/// A user of this host.
pub(super) fn user(value: &Value<'_>) -> Read<User> {
    text(value, "a user such as \"checkout\" or \"1001\"")?.parse().or_else(|e: Invalid| fault(value, e.to_string()))
}

/// What pprof may be depends on what is watched.
pub(super) fn check_pprof(t: &mut Table<'_, '_>, pprof: Option<&Pprof>, source: Option<&Source>) {
    let (Some(at), Some(pprof), Some(source)) = (t.place_of("pprof"), pprof, source) else { return };
    match (pprof, source) {
        (Pprof::Template(template), Source::Process(_)) => {
            if let Some(label) = template.labels().find(|label| *label != ADDRESS) {
                let why = "of a process only {address} is known, its own; labels are those of series, which only `prometheus` gives";
                t.error(at, format_args!("pprof: {{{label}}}: {why}"));
            }
        }
        (Pprof::Template(_), Source::Metrics(_)) => {
            t.error(at, "pprof: {label} is filled in from the labels of series, which only `prometheus` gives; write the address");
        }
        (Pprof::Auto, Source::Metrics(_) | Source::Prometheus(_)) => {
            t.error(at, "pprof: \"auto\" looks at the sockets of a process on this host, and needs `process`; write the address");
        }
        (Pprof::Http(_) | Pprof::Unix { .. }, Source::Prometheus(_)) => {
            t.warning(at, "pprof: the same for every instance that the query gives; name a label, as in http://{instance}/debug/pprof");
        }
        _ => {}
    }
}

/// A share of a limit needs one.
pub(super) fn check_rules(t: &mut Table<'_, '_>, source: Option<&Source>, rules: &Rules) {
    if let (Some(Source::Prometheus(_)), Some(at)) = (source, t.place_of("gc").filter(|_| rules.gc.is_some())) {
        t.warning(at, "gc: has no effect, because a query tells RSS only: watch the process itself, or scrape it with metrics");
    }
    let limit_is_unknown = match source {
        Some(Source::Metrics(metrics)) => metrics.limit.is_none(),
        Some(Source::Prometheus(prometheus)) => prometheus.limit.is_none(),
        Some(Source::Process(_)) | None => false,
    };
    if t.has("limit") || !limit_is_unknown || !rules.need_limit() {
        return;
    }
    let why = "nothing says what the limit is, which a rule of it needs (a percentage, or eta): set limit";
    let size = |level: &SizeOrPercent| matches!(level, SizeOrPercent::Size(_));
    if rules.threshold.iter().any(size) || rules.slope.iter().chain(&rules.leak).any(|rate| size(&rate.rise)) || rules.gc.is_some() {
        t.warning_here(why);
    } else {
        t.missing(format_args!("it could never fire: {why}"));
    }
}

/// `limit`, whatever it is: what kind fits is a matter of the source.
pub(super) enum Limit {
    Fixed(ByteSize),
    Metric(Pick),
    Query { query: String, by: Vec<String> },
    Env(String),
}

/// Reads `limit` and puts it where it belongs, or says why it does not.
pub(super) fn read_limit(target: &mut Table<'_, '_>, source: Option<&mut Source>) {
    const WHAT: &str = "a size such as \"4GiB\", { metric = \"…\" }, or { query = '…', by = [\"instance\"] }";
    let limit = if matches!(target.get("limit").map(|v| v.get_ref()), Some(DeValue::Table(_))) {
        target.table("limit", WHAT).and_then(read_limit_table)
    } else {
        let size = target.take("limit", checked(parsed::<ByteSize>(WHAT), at_least_one));
        size.map(Limit::Fixed)
    };
    let Some(at) = target.place_of("limit") else { return };
    let (Some(limit), Some(source)) = (limit, source) else { return };
    let wrong = match (source, limit) {
        (Source::Metrics(metrics), Limit::Fixed(size)) => {
            metrics.limit = Some(MetricLimit::Fixed(size));
            None
        }
        (Source::Metrics(metrics), Limit::Metric(pick)) => {
            metrics.limit = Some(MetricLimit::Metric(pick));
            None
        }
        (Source::Prometheus(prometheus), Limit::Fixed(size)) => {
            prometheus.limit = Some(QueryLimit::Fixed(size));
            None
        }
        (Source::Prometheus(prometheus), Limit::Query { query, by }) => {
            prometheus.limit = Some(QueryLimit::Query { query, by });
            None
        }
        (Source::Process(process), Limit::Fixed(size)) => {
            process.limit = Some(ProcessLimit::Fixed(size));
            None
        }
        (Source::Process(process), Limit::Env(name)) => {
            process.limit = Some(ProcessLimit::Env(name));
            None
        }
        (Source::Process(_), _) => {
            Some("of a process, write a size or { env = \"MEMORY_LIMIT\" }; its cgroups' and the host's count besides")
        }
        (_, Limit::Env(_)) => Some("memtrap's environment tells the limit of a `process` beside it; here write a size"),
        (Source::Metrics(_), Limit::Query { .. }) => Some("a query needs `prometheus`; with `metrics` write a size or { metric = \"…\" }"),
        (Source::Prometheus(_), Limit::Metric(_)) => {
            Some("a metric is read from a page; with `prometheus` write a size or { query = '…', by = [\"instance\"] }")
        }
    };
    if let Some(why) = wrong {
        target.error(at, format_args!("limit: {why}"));
    }
}

fn at_least_one(size: &ByteSize) -> Result<(), String> {
    if *size >= MIN_LIMIT { Ok(()) } else { Err(format!("{size} is too small: at least {MIN_LIMIT}")) }
}

fn read_limit_table(mut t: Table<'_, '_>) -> Option<Limit> {
    let query = t.take("query", promql);
    let by = t.take("by", list("a list of labels such as [\"instance\"]", MAX_LABELS, label_name));
    let env = t.take("env", env_name);
    if t.has("env") {
        if t.has("query") || t.has("metric") {
            t.error_here("env and something else; write one of them");
        }
        t.finish(&["by", "labels", "metric"]);
        return env.map(Limit::Env);
    }
    let pick = pick(&mut t, None);
    let by_is_empty = by.as_ref().is_some_and(Vec::is_empty);
    match (t.has("query"), t.has("metric")) {
        (true, true) => t.error_here("a query and a metric; write one of them"),
        (false, false) => t.error_here(format_args!("write a size such as {LIMIT_EXAMPLE}, a metric of the same page, or a query")),
        (true, false) if t.has("labels") => t.error_here("labels: they belong to `metric`; in a query they stand in its braces"),
        (true, false) if !t.has("by") || by_is_empty => {
            t.missing("by: missing; the labels that tell whose limit it is, such as by = [\"instance\"]");
        }
        (false, true) if t.has("by") => t.error_here("by: it belongs to `query`; a metric is that of the same page"),
        _ => {}
    }
    t.finish(&[]);
    match query {
        Some(query) => Some(Limit::Query { query, by: by.filter(|by| !by.is_empty())? }),
        None => pick.map(Limit::Metric),
    }
}

/// `metric` and `labels`.
fn pick(t: &mut Table<'_, '_>, default: Option<&str>) -> Option<Pick> {
    let metric = t.take("metric", metric_name);
    let mut labels = Vec::new();
    if let Some(mut table) = t.table("labels", r#"{ job = "search" }"#) {
        let entries = table.entries();
        if entries.len() > MAX_LABELS {
            table.error_here(format_args!("at most {MAX_LABELS} labels"));
        }
        for (name, at, value) in entries.into_iter().take(MAX_LABELS) {
            match value.get_ref() {
                DeValue::String(text) if text.len() <= 1_024 => labels.push((name.to_owned(), text.clone().into_owned())),
                _ => {
                    table.error(at, format_args!("{}: expected a string of at most 1024 bytes", name.chars().take(64).collect::<String>()))
                }
            }
        }
        labels.sort();
    }
    let metric = if t.has("metric") { metric? } else { default?.to_owned() };
    Some(Pick { metric, labels })
}

fn env_name(value: &Value<'_>) -> Read<String> {
    let name = text(value, "the name of an environment variable such as \"MEMORY_LIMIT\"")?;
    match name.is_empty() || name.len() > 256 || name.contains(['=', '\0']) {
        true => fault(value, "not the name of an environment variable"),
        false => Ok(name.to_owned()),
    }
}

fn metric_name(value: &Value<'_>) -> Read<String> {
    match text(value, "the name of a metric such as \"process_resident_memory_bytes\"")? {
        name if name.contains(['{', '}']) => fault(value, "a name only: labels are written as labels = { job = \"search\" }"),
        name if name.contains(char::is_control) || name.len() > 256 => fault(value, "not the name of a metric"),
        name => Ok(name.to_owned()),
    }
}

fn label_name(value: &Value<'_>) -> Read<String> {
    match text(value, "the name of a label such as \"instance\"")? {
        "__name__" => fault(value, "the name of the metric is no label to match by: the two queries have different ones"),
        name if name.contains(char::is_control) || name.len() > 256 => fault(value, "not the name of a label"),
        name => Ok(name.to_owned()),
    }
}

fn promql(value: &Value<'_>) -> Read<String> {
    let query = text(value, "a query such as 'process_resident_memory_bytes{job=\"shop\"}'")?.trim();
    Ok(query.to_owned())
}

/// A URL of one server. A query is allowed in an exposition's, never shown and thus no place for secrets that are worth something.
fn address(value: &Value<'_>, what: &str, may_query: bool) -> Read<String> {
    let written = text(value, what)?.trim();
    match check_address(written, may_query) {
        Ok(url) => Ok(url),
        Err(Invalid(why)) => fault(value, format!("{why}; write {what}")),
    }
}

fn check_address(written: &str, may_query: bool) -> Result<String, Invalid> {
    let bad = |why: &str| Err(Invalid(why.into()));
    let url = match reqwest::Url::parse(written) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => return bad("not an http or https URL"),
        Err(_) if !written.contains("://") => {
            return Err(Invalid("not a URL: it begins with neither http:// nor https://".into()));
        }
        Err(e) => return Err(Invalid(format!("not a URL: {e}"))),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return bad("a URL with a user or password in it would end up in logs and bundles: use auth = { basic = { … } }");
    }
    if url.fragment().is_some() {
        return bad("a URL with a fragment is not what is asked for");
    }
    if url.query().is_some() && !may_query {
        return bad("the server's URL has no query: that is the key `query`");
    }
    if !may_query && url.path().trim_end_matches('/').ends_with("/api/v1/query") {
        return bad("leave /api/v1/query out");
    }
    Ok(if may_query { url.into() } else { String::from(url).trim_end_matches('/').to_owned() })
}

/// The start times of the instances that a plain selector of RSS means, else `None`.
fn start_times_of(query: &str) -> Option<String> {
    let matchers = query.strip_prefix(metrics::RSS)?.trim_start();
    if matchers.is_empty() {
        return Some(metrics::START_TIME.into());
    }
    let inner = matchers.strip_prefix('{')?;
    let mut quote = None;
    let mut escaped = false;
    let end = inner.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '}') => return Some(at),
            _ => {}
        }
        None
    })?;
    inner.get(end + 1..).filter(|rest| rest.trim().is_empty()).map(|_| format!("{}{matchers}", metrics::START_TIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_known_for_a_plain_selector_only() {
        let of = |query: &str| start_times_of(query);
        assert_eq!(of("process_resident_memory_bytes").as_deref(), Some("process_start_time_seconds"));
        assert_eq!(
            of(r#"process_resident_memory_bytes {job="a}\"b", x='}'}"#).as_deref(),
            Some(r#"process_start_time_seconds{job="a}\"b", x='}'}"#)
        );
        for other in [
            "process_resident_memory_bytes{job=\"a\"} > 5",
            "process_resident_memory_bytes{job=\"a\"} offset 5m",
            "max by (pod) (process_resident_memory_bytes)",
            "process_resident_memory_bytes_total",
            "process_resident_memory_bytes{job=\"a\"",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
