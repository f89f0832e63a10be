//! One body, with as many attempts as the service still deserves.

use std::time::Duration;

use super::fetch::{self, Bounds, Endpoint, Failure};
use super::reach::{Contact, RetryBudget};
use super::run::Runner;
use super::sink::{Body, Inflatable, Judged, Sink, judge};
use super::step_result::StepResult;
use super::watch::Ended;
use crate::bundle::Sum;
use crate::client::Credentials;
use crate::pprof::validate::Summary;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub file: &'a str,
    /// `NAME?QUERY` below the endpoint.
    pub rest: &'a str,
    pub body: Body,
    /// How long the service collects before it answers.
    pub seconds: u64,
}

/// What came of it.
pub(super) struct Got {
    pub taken: StepResult,
    pub failure: Option<Failure>,
    /// What a complete profile holds.
    pub summary: Option<Summary>,
}

/// What came of one attempt: what is kept of it, and a remark or a failure.
struct Attempt {
    file: Option<(String, Sum)>,
    summary: Option<Summary>,
    result: Result<Option<String>, Failure>,
}

/// A body's file, closed.
enum Closed {
    Empty,
    Good(Sum, Judged),
    Rejected((String, Sum), String),
}

impl Runner<'_> {
    pub(super) async fn fetch(&mut self, endpoint: &Endpoint, want: Want<'_>) -> Got {
        let config = &self.request.target.capture;
        let mut taken = StepResult { source: Some(endpoint.shown(want.rest)), ..StepResult::default() };
        let brief = self.reach.why_brief();
        loop {
            let budget = self.reach.budget(config);
            taken.attempts += 1;
            let attempt = self.attempt(endpoint, want, budget).await;
            if let Some(file) = attempt.file {
                self.keep(&mut taken, file).await;
            }
            let failure = match attempt.result {
                Ok(note) => {
                    self.reach.note(Contact::Answered, true);
                    taken.notes.extend(note);
                    return Got { taken, failure: None, summary: attempt.summary };
                }
                Err(failure) => failure,
            };
            // the service goes on making this text after nobody waits for it, and would make it twice
            let costly = want.body == Body::MemStats && matches!(failure, Failure::TimedOut { .. });
            let last = !failure.is_passing() || costly || taken.attempts >= budget.attempts;
            self.reach.note(failure.contact(), last);
            // this failure may have been one too many
            let last = last || taken.attempts >= self.reach.budget(config).attempts;
            let ended = if last { None } else { self.watch.pause(config.retry_delay).await };
            if last || ended.is_some() {
                taken.notes.extend(brief.map(str::to_owned));
                taken = taken.failed(failure.to_string());
                taken.notes.extend(ended.map(|why| why.to_string()));
                return Got { taken, failure: Some(failure), summary: None };
            }
            taken.notes.push(format!("attempt {}: {failure}", taken.attempts));
        }
    }

    async fn attempt(&mut self, endpoint: &Endpoint, want: Want<'_>, budget: RetryBudget) -> Attempt {
        let timeout = budget.timeout.saturating_add(Duration::from_secs(want.seconds));
        let bounds = Bounds { timeout, max_bytes: self.max_file_size().0 };
        let client = if budget.quick { &endpoint.quick } else { &endpoint.client };
        let sink = Sink::new(self.partial.files(), want.file, want.body);
        let (sink, mut result) = fetch::get(endpoint, client, endpoint.url(want.rest), bounds, (sink, &self.lane), &mut self.watch).await;
        if let Err(Failure::Connect { .. } | Failure::Broken { .. } | Failure::Unanswered(_)) = result
            && let Some(why @ Ended::Gone(_)) = self.watch.check()
        {
            result = Err(Failure::Ended(why));
        }
        if let Err(full @ Failure::Disk(_)) = result {
            // what is left of it would take the room that later steps and the manifest need
            let (files, name) = (self.partial.files(), want.file.to_owned());
            let clear = move || {
                drop(sink);
                files.remove(&name)
            };
            let _ = self.lane.run(clear).await;
            return Attempt { file: None, summary: None, result: Err(full) };
        }
        let closed = match self.close(sink, want, &endpoint.credentials).await {
            Ok(closed) => closed,
            Err(e) => return Attempt { file: None, summary: None, result: Err(Failure::Disk(e)) },
        };
        match (closed, result) {
            (Closed::Empty, Ok(())) => Attempt { file: None, summary: None, result: Err(Failure::Content("the answer is empty".into())) },
            (Closed::Empty, Err(failure)) => Attempt { file: None, summary: None, result: Err(failure) },
            (Closed::Good(sum, judged), result) => {
                let result = match result {
                    Err(late) if want.body == Body::Profile => {
                        Ok(Some(format!("the profile is complete, though its answer did not end well: {late}")))
                    }
                    result => result.map(|()| None),
                };
                Attempt { file: Some((want.file.to_owned(), sum)), summary: judged.summary, result }
            }
            (Closed::Rejected(file, why), result) => {
                Attempt { file: Some(file), summary: None, result: result.and(Err(Failure::Content(why))) }
            }
        }
    }

    /// Takes the file of this attempt in the place of an earlier attempt's.
    async fn keep(&self, taken: &mut StepResult, file: (String, Sum)) {
        let (files, new) = (self.partial.files(), file.0.clone());
        if let Some((old, _)) = taken.file.replace(file)
            && old != new
        {
            // one that stays is found as unlisted by `verify`; nothing worse
            let _ = self.lane.run(move || files.remove(&old)).await;
        }
    }

    /// Ends a body's file and says what it is.
    async fn close(&mut self, sink: Option<Sink>, want: Want<'_>, credentials: &Credentials) -> std::io::Result<Closed> {
        let Some(sink) = sink else { return Ok(Closed::Empty) };
        let (files, file, body, credentials) = (self.partial.files(), want.file.to_owned(), want.body, credentials.clone());
        let mut left = self.inflatable;
        let closing = self.lane.run(move || -> std::io::Result<(Closed, Inflatable)> {
            let Some(sum) = sink.finish()? else { return Ok((Closed::Empty, left)) };
            let closed = match judge(&files, &file, body, &mut left) {
                Ok(judged) => Closed::Good(sum, judged),
                Err(why) => Closed::Rejected(files.reject(&file, |bytes| credentials.redact_bytes(bytes))?, why),
            };
            Ok((closed, left))
        });
        let (closed, left) = closing.await.map_err(std::io::Error::other)??;
        self.inflatable = left;
        Ok(closed)
    }
}
