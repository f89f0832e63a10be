//! The analysis is a process of its own, and whatever it does, the bundle is good.

use std::os::unix::fs::PermissionsExt;

use super::service::{Service, healthy};
use super::*;
use crate::bundle::{Outcome, verify};

/// A program that does this instead of analysing.
async fn with_analyser(script: &str) -> Caught {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("analyser");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let service = Service::start(healthy).await;
    Trial { analyser: Some(program), ..Trial::of(service.pprof()) }.run().await
}

#[tokio::test]
async fn an_analysis_that_crashes_or_babbles_leaves_a_good_bundle_that_says_so() {
    for (script, why) in [
        ("exit 3", "exit status: 3"),
        ("kill -SEGV $$", "signal: 11"),
        ("echo memtrap: out of memory >&2; exit 1", "out of memory"),
        ("cat >/dev/null; echo hello", "something else than a verdict"),
        ("cat >/dev/null; head -c 20000000 /dev/zero", "larger than"),
    ] {
        let caught = with_analyser(script).await;
        assert_eq!(caught.captured.outcome, Outcome::Complete, "{script}");
        assert_eq!(caught.captured.verdict, None);
        assert_eq!(caught.status("verdict"), Status::Failed, "{script}");
        assert!(caught.reason("verdict").contains(why), "{script}: {}", caught.reason("verdict"));
        assert!(verify(&caught.captured.path).unwrap().problems.is_empty());
    }
}

#[tokio::test]
async fn an_analysis_that_cannot_be_started_is_said_so() {
    let service = Service::start(healthy).await;
    let caught = Trial { analyser: Some("/nowhere/memtrap".into()), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!((caught.captured.outcome, caught.status("verdict")), (Outcome::Complete, Status::Failed));
    assert!(caught.reason("verdict").contains("could not be started"), "{}", caught.reason("verdict"));
}
