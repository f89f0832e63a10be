//! The answer to an instant query (`/api/v1/query`) of Prometheus and those that speak its API: Thanos, Mimir, VictoriaMetrics.
//!
//! Series are handed over one by one while the JSON is read, so that an answer with thousands costs little more than its bytes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
pub fn read<'b>(body: &'b [u8], max: usize, each: &mut dyn FnMut(Series<'_>)) -> Result<Answer, QueryError> {
    let mut state = State { each, max, labels: Vec::new(), answer: Answer::default(), kind: None, too_many: false };
    let mut json = serde_json::Deserializer::from_slice(body);
    let top = Top { state: &mut state }.deserialize(&mut json).and_then(|top| json.end().map(|()| top));
    let (kind, too_many, mut answer) = (state.kind, state.too_many, state.answer);
    if too_many {
        return Err(QueryError::TooMany(max));
    }
    if let Some(kind) = kind.filter(|kind| kind != "vector") {
        return Err(QueryError::NoVector(kind));
    }
    let top = top.map_err(|e| QueryError::NotAnAnswer(one_line(&e.to_string(), 120)))?;
    match top.status.as_deref() {
        Some("success") if top.data => {}
        Some("error") => {
            let or = |text: Option<String>, other: &str| text.unwrap_or_else(|| other.into());
            return Err(QueryError::Refused { kind: or(top.error_type, "error"), message: or(top.error, "nothing more") });
        }
        Some("success") => return Err(QueryError::NotAnAnswer("it has no data".into())),
        _ => return Err(QueryError::NotAnAnswer("it has no status".into())),
    }
    answer.partial = match top.warnings.as_slice() {
        [] => top.partial.then(|| "the server says that its answer is partial".into()),
        warnings => Some(warnings.join("; ")),
    };
    Ok(answer)
}

struct State<'b, 's> {
    each: &'s mut dyn FnMut(Series<'_>),
    max: usize,
    /// Of the series being read.
    labels: Vec<(Cow<'b, str>, Cow<'b, str>)>,
    answer: Answer,
    /// `resultType`
    kind: Option<String>,
    too_many: bool,
}

#[derive(Default)]
struct TopLevel {
    status: Option<String>,
    error_type: Option<String>,
    error: Option<String>,
    warnings: Vec<String>,
    partial: bool,
    data: bool,
}

/// A string of the body, without a copy where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'b>(#[serde(borrow)] Cow<'b, str>);

impl Text<'_> {
    fn shown(&self) -> String {
        one_line(&self.0, MAX_TEXT)
    }
}

struct Top<'t, 'b, 's> {
    state: &'t mut State<'b, 's>,
}

impl<'b> DeserializeSeed<'b> for Top<'_, 'b, '_> {
    type Value = TopLevel;

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<TopLevel, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'b> Visitor<'b> for Top<'_, 'b, '_> {
    type Value = TopLevel;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a status")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<TopLevel, A::Error> {
        let mut top = TopLevel::default();
        while let Some(key) = map.next_key::<Text<'b>>()? {
            match &*key.0 {
                "status" => top.status = Some(map.next_value::<Text<'b>>()?.shown()),
                "errorType" => top.error_type = Some(map.next_value::<Text<'b>>()?.shown()),
                "error" => top.error = Some(map.next_value::<Text<'b>>()?.shown()),
                "warnings" => top.warnings = map.next_value_seed(Warnings)?,
                // VictoriaMetrics
                "isPartial" => top.partial = map.next_value::<Option<bool>>()?.unwrap_or(false),
                "data" => top.data = map.next_value_seed(Data { state: self.state })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(top)
    }
}

/// A list of strings, of which a few are kept.
struct Warnings;

impl<'b> DeserializeSeed<'b> for Warnings {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<Vec<String>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Warnings {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of warnings")
    }

    fn visit_unit<E>(self) -> Result<Vec<String>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut kept = Vec::new();
        while let Some(warning) = seq.next_element::<Text<'b>>()? {
            if kept.len() < MAX_WARNINGS {
                kept.push(warning.shown());
            }
        }
        Ok(kept)
    }
}

/// `data`: true unless it is null.
struct Data<'t, 'b, 's> {
    state: &'t mut State<'b, 's>,
}

impl<'b> DeserializeSeed<'b> for Data<'_, 'b, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Data<'_, 'b, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a result")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut result = false;
        while let Some(key) = map.next_key::<Text<'b>>()? {
            match &*key.0 {
                "resultType" => self.state.kind = Some(map.next_value::<Text<'b>>()?.shown()),
                "result" => {
                    result = true;
                    map.next_value_seed(List { state: self.state })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(result)
    }
}

/// `result`: the list of series.
struct List<'t, 'b, 's> {
    state: &'t mut State<'b, 's>,
}

impl<'b> DeserializeSeed<'b> for List<'_, 'b, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for List<'_, 'b, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of series")
    }

    /// VictoriaMetrics writes an empty result so, now and then.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(One { state: self.state })?.is_some() {
            if self.state.answer.series >= self.state.max {
                self.state.too_many = true;
                return Err(A::Error::custom("too many series"));
            }
            self.state.answer.series += 1;
        }
        Ok(())
    }
}

/// One element of `result`.
struct One<'t, 'b, 's> {
    state: &'t mut State<'b, 's>,
}

impl<'b> DeserializeSeed<'b> for One<'_, 'b, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'b> Visitor<'b> for One<'_, 'b, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a series with its labels and value")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.state;
        state.labels.clear();
        let mut value = Err(NoNumber::NotANumber);
        while let Some(key) = map.next_key::<Text<'b>>()? {
            match &*key.0 {
                "metric" => map.next_value_seed(Labels { labels: &mut state.labels })?,
                "value" => {
                    let (time, text) = map.next_value::<(f64, Text<'b>)>()?;
                    state.answer.time = Some(time);
                    value = text.0.trim().parse().map_err(|_| NoNumber::NotANumber);
                }
                "histogram" => {
                    map.next_value::<IgnoredAny>()?;
                    value = Err(NoNumber::Histogram);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        state.labels.sort_unstable();
        (state.each)(Series { labels: &state.labels, value });
        Ok(())
    }
}

struct Labels<'t, 'b> {
    labels: &'t mut Vec<(Cow<'b, str>, Cow<'b, str>)>,
}

impl<'b> DeserializeSeed<'b> for Labels<'_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'b> Visitor<'b> for Labels<'_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(name), Text(value))) = map.next_entry::<Text<'b>, Text<'b>>()? {
            if self.labels.len() == MAX_LABELS {
                return Err(A::Error::custom("a series with hundreds of labels"));
            }
            if name != "__name__" {
                self.labels.push((name, value));
            }
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
