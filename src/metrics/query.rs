//! The answer to an instant query (`/api/v1/query`) of Prometheus and those that speak its API: Thanos, Mimir, VictoriaMetrics.
//!
//! Series are handed over one by one while the JSON is read, so that an answer with thousands costs little more than its bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::text::one_line;

/// Of a warning or an error of the server.
const MAX_TEXT: usize = 300;
const MAX_WARNINGS: usize = 8;
/// Real series have some ten or twenty.
const MAX_LABELS: usize = 256;

/// What an answer says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub series: usize,
    /// When it was evaluated, by the server's clock, in seconds since 1970; `None` without series.
    pub time: Option<f64>,
    /// Series may be missing, and why: a part of the servers behind this one did not answer.
    pub partial: Option<String>,
}

/// One series.
#[derive(Debug)]
pub struct Series<'a> {
    /// Without `__name__`, sorted.
    pub labels: &'a [(Cow<'a, str>, Cow<'a, str>)],
    pub value: Result<f64, NoNumber>,
}

impl Series<'_> {
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.labels.iter().map(|(name, value)| (&**name, &**value))
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// Why a series has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    #[error("it is a histogram, not a number")]
    Histogram,
    #[error("its value is no number")]
    NotANumber,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// In the server's words.
    #[error("the server says {kind}: {message}")]
    Refused { kind: String, message: String },
    #[error("the query gives a {0}, not an instant vector: leave out ranges such as [5m], and functions that make one number of all")]
    NoVector(String),
    #[error("the answer has more than {0} series: narrow the query")]
    TooMany(usize),
    #[error("the answer is not that of the Prometheus query API ({0}): is it the right URL?")]
    NotAnAnswer(String),
}

/// Reads an answer, and hands over each of its at most `max` series. On an error some may have been handed over: none of them counts.
pub fn read(body: &[u8], max: usize, each: &mut dyn FnMut(Series<'_>)) -> Result<Answer, QueryError> {
    let no_answer = |e: serde_json::Error| QueryError::NotAnAnswer(one_line(&e.to_string(), 120));
    let top: Top = serde_json::from_slice(body).map_err(no_answer)?;
    match top.status.as_ref().map(|status| &*status.0) {
        Some("success") => {}
        Some("error") => {
            let or = |text: Option<Text>, other: &str| text.map_or_else(|| other.into(), |text| text.shown());
            return Err(QueryError::Refused { kind: or(top.error_type, "error"), message: or(top.error, "nothing more") });
        }
        _ => return Err(QueryError::NotAnAnswer("it has no status".into())),
    }
    let data = top.data.ok_or_else(|| QueryError::NotAnAnswer("it has no data".into()))?;
    if let Some(kind) = data.kind.filter(|kind| kind.0 != "vector") {
        return Err(QueryError::NoVector(kind.shown()));
    }
    let warnings: Vec<String> = top.warnings.iter().flatten().take(MAX_WARNINGS).map(Text::shown).collect();
    let partial = match warnings.as_slice() {
        [] => top.partial.unwrap_or(false).then(|| "the server says that its answer is partial".into()),
        warnings => Some(warnings.join("; ")),
    };
    let mut list = List { each, max, answer: Answer { partial, ..Answer::default() } };
    // VictoriaMetrics writes an empty result as null, now and then
    if data.result.get() != "null" {
        let read = serde_json::Deserializer::from_str(data.result.get()).deserialize_seq(&mut list);
        if list.answer.series > max {
            return Err(QueryError::TooMany(max));
        }
        read.map_err(no_answer)?;
    }
    Ok(list.answer)
}

#[derive(Deserialize)]
struct Top<'b> {
    #[serde(borrow)]
    status: Option<Text<'b>>,
    #[serde(borrow, rename = "errorType")]
    error_type: Option<Text<'b>>,
    #[serde(borrow)]
    error: Option<Text<'b>>,
    #[serde(borrow)]
    warnings: Option<Vec<Text<'b>>>,
    /// VictoriaMetrics
    #[serde(rename = "isPartial")]
    partial: Option<bool>,
    #[serde(borrow)]
    data: Option<Data<'b>>,
}

#[derive(Deserialize)]
struct Data<'b> {
    #[serde(borrow, rename = "resultType")]
    kind: Option<Text<'b>>,
    /// Read when its kind is known.
    #[serde(borrow)]
    result: &'b RawValue,
}

#[derive(Deserialize)]
struct One<'b> {
    #[serde(borrow, default)]
    metric: BTreeMap<Text<'b>, Text<'b>>,
    #[serde(borrow)]
    value: Option<(f64, Text<'b>)>,
    histogram: Option<IgnoredAny>,
}

/// A string of the body, without a copy where it has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
struct Text<'b>(#[serde(borrow)] Cow<'b, str>);

impl Text<'_> {
    fn shown(&self) -> String {
        one_line(&self.0, MAX_TEXT)
    }
}

/// The list of series, one at a time.
struct List<'s> {
    each: &'s mut dyn FnMut(Series<'_>),
    max: usize,
    answer: Answer,
}

impl<'b> Visitor<'b> for &mut List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of series")
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(One { mut metric, value, histogram }) = seq.next_element()? {
            self.answer.series += 1;
            if self.answer.series > self.max {
                return Err(A::Error::custom("too many series"));
            }
            if metric.len() > MAX_LABELS {
                return Err(A::Error::custom("a series with hundreds of labels"));
            }
            metric.remove(&Text("__name__".into()));
            let value = match (value, histogram) {
                (_, Some(_)) => Err(NoNumber::Histogram),
                (Some((time, text)), None) => {
                    self.answer.time = Some(time);
                    text.0.trim().parse().map_err(|_| NoNumber::NotANumber)
                }
                (None, None) => Err(NoNumber::NotANumber),
            };
            let labels: Vec<_> = metric.into_iter().map(|(Text(name), Text(value))| (name, value)).collect();
            (self.each)(Series { labels: &labels, value });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::canonical;

    type Found = Vec<(String, Result<f64, NoNumber>)>;

    fn ask(body: &str, max: usize) -> Result<(Answer, Found), QueryError> {
        let mut found = Vec::new();
        let answer = read(body.as_bytes(), max, &mut |series| {
            let mut labels = String::new();
            canonical(series.pairs(), &mut labels);
            found.push((labels, series.value));
        })?;
        Ok((answer, found))
    }

    fn error(body: &str) -> String {
        ask(body, 10).unwrap_err().to_string()
    }

    const PROMETHEUS: &str = r#"{"status":"success","data":{"resultType":"vector","result":[
        {"metric":{"__name__":"rss","job":"shop","instance":"10.0.0.1:6060"},"value":[1795421616.781,"1572864000"]},
        {"metric":{"instance":"h\"}\n\u00e9","__name__":"rss"},"value":[1795421616.781,"NaN"]}]}}"#;

    #[test]
    fn each_series_has_its_labels_without_the_name_and_its_value() {
        let (answer, found) = ask(PROMETHEUS, 10).unwrap();
        assert_eq!((answer.series, answer.time, answer.partial), (2, Some(1_795_421_616.781), None));
        assert_eq!(found[0], (r#"{instance="10.0.0.1:6060",job="shop"}"#.into(), Ok(1_572_864_000.0)));
        assert_eq!(found[1].0, "{instance=\"h\\\"}\\né\"}");
        assert!(found[1].1.unwrap().is_nan());
    }

    #[test]
    fn the_order_of_keys_and_further_ones_do_not_matter() {
        let body = r#"{"data":{"result":[{"value":[1,"2"],"x":{},"metric":{}}],"stats":[1],"resultType":"vector"},"infos":["i"],"status":"success"}"#;
        assert_eq!(ask(body, 10).unwrap().1, [("{}".into(), Ok(2.0))]);
        assert_eq!(ask(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, 10).unwrap().0.series, 0);
    }

    #[test]
    fn a_partial_answer_says_so() {
        let body = |more: &str| format!(r#"{{"status":"success",{more}"data":{{"resultType":"vector","result":[]}}}}"#);
        let partial = |more: &str| ask(&body(more), 10).unwrap().0.partial;
        assert_eq!(partial(r#""warnings":["store 2: timeout","b\nc"],"#).as_deref(), Some("store 2: timeout; b c"));
        assert_eq!(partial(r#""isPartial":true,"#).as_deref(), Some("the server says that its answer is partial"));
        assert_eq!(partial(r#""isPartial":false,"warnings":null,"#), None);
    }

    #[test]
    fn what_is_no_vector_is_said() {
        for (data, kind) in [
            (r#""resultType":"matrix","result":[{"metric":{},"values":[[1,"2"]]}]"#, "matrix"),
            (r#""resultType":"scalar","result":[1,"2"]"#, "scalar"),
            (r#""result":[1,"x"],"resultType":"string""#, "string"),
        ] {
            let text = error(&format!(r#"{{"status":"success","data":{{{data}}}}}"#));
            // where the kind comes last, the list itself is what cannot be read
            assert!(text.starts_with(&format!("the query gives a {kind}, not")) || kind == "string", "{text}");
        }
        let histogram = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"2"}]}]}}"#;
        assert_eq!(ask(histogram, 10).unwrap().1[0].1, Err(NoNumber::Histogram));
    }

    #[test]
    fn the_servers_own_error_is_told() {
        let body = r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error:\u001b[31m unexpected end"}"#;
        assert_eq!(error(body), "the server says bad_data: 1:5: parse error:\\u{1b}[31m unexpected end");
        let null = r#"{"status":"error","errorType":"timeout","error":"query timed out","data":null}"#;
        assert_eq!(error(null), "the server says timeout: query timed out");
    }

    #[test]
    fn other_json_and_other_text_are_no_answer() {
        for body in ["", "<html>", "[]", "{}", "null", "{\"status\":\"success\"}", "{\"status\":\"success\",\"data\":{}}", "{\"status\":1}"]
        {
            assert!(error(body).starts_with("the answer is not that of the Prometheus query API ("), "{body}: {}", error(body));
        }
        for cut in 0..PROMETHEUS.len() {
            if PROMETHEUS.is_char_boundary(cut) {
                assert!(ask(&PROMETHEUS[..cut], 10).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn more_series_than_allowed_are_an_error() {
        assert_eq!(ask(PROMETHEUS, 1).unwrap_err(), QueryError::TooMany(1));
        assert!(ask(PROMETHEUS, 2).is_ok());
        let labels: Vec<String> = (0..300).map(|i| format!("\"l{i}\":\"x\"")).collect();
        let body = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{{}}}}}]}}}}"#, labels.join(","));
        assert!(error(&body).contains("hundreds of labels"));
    }
}
