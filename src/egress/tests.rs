//! Uploads and claims against a store in memory; the worker against a directory.

use std::fs;
#[cfg(feature = "s3")]
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::arbiter::{self, Claimant, Claimed, Theirs};
use super::claim::{GENERATIONS, LIFE, Sighting};
use super::store::Store;
use super::upload::{self, UploadError, Uploaded};
use super::*;
use crate::bundle::{self, Bundle, Hash};
use crate::config::{Auth, Channel, Destination, Notify, Receiver, ReceiverUrl, StoreSecrets, Target, Upload};
use crate::trigger::{Fired, Trigger};

fn run<T>(job: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(job)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_500_000 + seconds)
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

fn published(dir: &Path, heap: &[u8]) -> Arc<Bundle> {
    let files: [(&str, &[u8]); 2] = [("heap.pb.gz", heap), ("verdict.json", b"{\"cause\":\"live_heap\"}")];
    let published = bundle::tests::publish_with(dir, "checkout", at(0), &files);
    Arc::new(bundle::open(dir, &published.id).unwrap())
}

struct Shelf {
    memory: Arc<InMemory>,
    store: Store,
}

impl Shelf {
    fn new() -> Shelf {
        let memory = Arc::new(InMemory::new());
        Shelf { store: Store::of(memory.clone()), memory }
    }

    fn upload(&self, bundle: &Arc<Bundle>) -> Result<Uploaded, UploadError> {
        let (_go, stop) = watch::channel(false);
        run(upload::bundle(&self.store, bundle, false, stop))
    }

    fn get(&self, name: &str) -> Vec<u8> {
        run(async { self.memory.get(&Key::from(name)).await.unwrap().bytes().await.unwrap() }).to_vec()
    }

    fn put(&self, name: &str, content: &[u8]) {
        run(self.memory.put(&Key::from(name), content.to_vec().into())).unwrap();
    }

    /// Names below the prefix, in the order in which they were written.
    fn names(&self, dir: &str) -> Vec<String> {
        let found = run(self.memory.list_with_delimiter(Some(&Key::from(format!("p/{dir}"))))).unwrap();
        let mut objects = found.objects;
        objects.sort_by_key(|o| o.last_modified);
        objects.into_iter().map(|o| o.location.filename().unwrap().to_owned()).collect()
    }
}

fn archive_of(bundle: &Bundle) -> Vec<u8> {
    bundle::archive::write(bundle, Vec::new()).unwrap()
}

#[test]
fn the_manifest_comes_last_and_tells_the_archives_sum() {
    let (dir, shelf) = (tempfile::tempdir().unwrap(), Shelf::new());
    let bundle = published(dir.path(), b"profile");
    let uploaded = shelf.upload(&bundle).unwrap();
    let stem = uploaded.object.strip_suffix(".tar.gz").unwrap();
    assert!(stem.starts_with(&format!("{}-", bundle.id)), "{stem}");
    let name = stem.split('/').next_back().unwrap();
    assert_eq!(shelf.names("checkout"), [".tar.gz", ".verdict.json", ".manifest.json"].map(|kind| format!("{name}{kind}")));
    let archive = shelf.get(&format!("p/{stem}.tar.gz"));
    assert_eq!(archive, archive_of(&bundle));
    let mut hash = Hash::default();
    hash.update(&archive);
    assert_eq!(hash.finish(), uploaded.archive);
    let manifest: serde_json::Value = serde_json::from_slice(&shelf.get(&format!("p/{stem}.manifest.json"))).unwrap();
    let expected = serde_json::json!({ "object": format!("{name}.tar.gz"), "bytes": archive.len(), "sha256": uploaded.archive.sha256 });
    assert_eq!((&manifest["archive"], manifest["target"].as_str()), (&expected, Some("checkout")));
    assert_eq!(shelf.get(&format!("p/{stem}.verdict.json")), b"{\"cause\":\"live_heap\"}");
}

#[test]
fn a_large_bundle_goes_in_parts_and_arrives_as_one() {
    let (dir, shelf) = (tempfile::tempdir().unwrap(), Shelf::new());
    let bundle = published(dir.path(), &noise(20 << 20));
    let uploaded = shelf.upload(&bundle).unwrap();
    assert!(uploaded.archive.bytes > 20 << 20);
    assert!(shelf.get(&format!("p/{}", uploaded.object)) == archive_of(&bundle));
}

#[test]
fn what_has_arrived_is_recognised_and_what_was_spoilt_is_sent_again() {
    let (dir, shelf) = (tempfile::tempdir().unwrap(), Shelf::new());
    let bundle = published(dir.path(), b"profile");
    let first = shelf.upload(&bundle).unwrap();
    assert_eq!(shelf.upload(&bundle).unwrap(), Uploaded { already: true, ..first.clone() });
    let object = format!("p/{}", first.object);
    let good = shelf.get(&object);
    let mut spoilt = good.clone();
    spoilt[20] ^= 1;
    for content in [&spoilt[..], b"short"] {
        shelf.put(&object, content);
        assert_eq!(shelf.upload(&bundle).unwrap(), first);
        assert_eq!(shelf.get(&object), good);
    }
}

#[test]
fn another_memtraps_bundle_keeps_its_name() {
    let (one, other, shelf) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Shelf::new());
    let theirs = published(one.path(), b"profile");
    let first = format!("p/{}", shelf.upload(&theirs).unwrap().object);
    let before = shelf.get(&first);
    // on the same host, of the same incident, in the same second
    let ours = published(other.path(), b"another profile");
    assert_eq!(ours.id, theirs.id);
    let uploaded = shelf.upload(&ours).unwrap();
    assert_ne!(format!("p/{}", uploaded.object), first);
    assert_eq!(shelf.upload(&ours).unwrap(), Uploaded { already: true, ..uploaded });
    assert_eq!((shelf.get(&first), shelf.names("checkout").len()), (before, 6));
}

#[test]
fn nothing_of_a_damaged_bundle_is_seen_in_the_store() {
    for size in [100, 20 << 20] {
        let (dir, shelf) = (tempfile::tempdir().unwrap(), Shelf::new());
        let mut heap = noise(size);
        let bundle = published(dir.path(), &heap);
        *heap.last_mut().unwrap() ^= 1;
        fs::write(bundle.path.join("heap.pb.gz"), heap).unwrap();
        assert!(matches!(shelf.upload(&bundle), Err(UploadError::Damaged(_))));
        assert_eq!(shelf.names("checkout"), [""; 0], "{size}");
    }
}

#[test]
fn a_stop_ends_an_upload_and_leaves_nothing() {
    for size in [100, 20 << 20] {
        let (dir, shelf) = (tempfile::tempdir().unwrap(), Shelf::new());
        let bundle = published(dir.path(), &noise(size));
        // puts take their time, so that the stop comes first
        let slow = ThrottleConfig { wait_put_per_call: Duration::from_secs(60), ..Default::default() };
        let store = Store::of(Arc::new(ThrottledStore::new(shelf.memory.clone(), slow)));
        let (_go, stop) = watch::channel(true);
        let ended = run(upload::bundle(&store, &bundle, false, stop));
        assert!(matches!(ended, Err(UploadError::Stopped)), "{ended:?}");
        assert_eq!(shelf.names("checkout"), [""; 0], "{size}");
    }
}

fn claimant(name: &str) -> Claimant {
    Claimant { holder: name.into(), host: format!("host-{name}") }
}

/// An epoch is as long as the cooldown, and one begins at 0.
fn seen(seconds: u64) -> Sighting {
    Sighting::new("shop", "boot/7/99".into(), 1, at(seconds), Duration::from_secs(900))
}

impl Shelf {
    fn claim(&self, who: &str, sighted: u64, now: u64) -> Claimed {
        run(arbiter::claim(&self.store, &seen(sighted), &claimant(who), at(now))).unwrap()
    }

    /// As [`Shelf::claim`], for one who must get it.
    fn held(&self, who: &str, sighted: u64, now: u64) -> arbiter::Held {
        match self.claim(who, sighted, now) {
            Claimed::Ours(held) => held,
            theirs => panic!("{who}: {theirs:?}"),
        }
    }
}

fn theirs(who: &str, bundle: Option<&str>) -> Claimed {
    Claimed::Theirs(Theirs { host: format!("host-{who}"), bundle: bundle.map(str::to_owned) })
}

#[test]
fn one_claims_and_the_other_learns_of_its_bundle() {
    let shelf = Shelf::new();
    let held = shelf.held("a", 100, 100);
    assert_eq!(shelf.claim("b", 103, 103), theirs("a", None));
    assert_eq!(shelf.held("a", 100, 130), shelf.held("a", 100, 130), "one's own stays one's own");
    run(arbiter::fulfil(&shelf.store, &held, "shop/x.tar.gz")).unwrap();
    assert_eq!(shelf.claim("b", 104, 200), theirs("a", Some("shop/x.tar.gz")));
    assert_eq!(shelf.claim("c", 895, 895), theirs("a", Some("shop/x.tar.gz")), "one that has just started");
    assert_eq!(shelf.claim("c", 905, 905), theirs("a", Some("shop/x.tar.gz")), "in the next epoch");
}

#[test]
fn of_many_at_once_exactly_one_gets_it() {
    for around in [450, 870, 900, 930] {
        // every answer takes its time, so that all are at it together
        let wait = Duration::from_millis(1);
        let slow =
            ThrottleConfig { wait_put_per_call: wait, wait_get_per_call: wait * 2, wait_delete_per_call: wait, ..Default::default() };
        let slow = Store::of(Arc::new(ThrottledStore::new(InMemory::new(), slow)));
        let all = async {
            let mut asked = tokio::task::JoinSet::new();
            for n in 0..20u64 {
                let store = slow.clone();
                // clocks up to a minute apart
                let sighted = around - 30 + n * 3;
                asked.spawn(async move { arbiter::claim(&store, &seen(sighted), &claimant(&n.to_string()), at(sighted)).await.unwrap() });
            }
            asked.join_all().await
        };
        let ours = run(all).into_iter().filter(|c| matches!(c, Claimed::Ours(_))).count();
        assert_eq!(ours, 1, "around {around}");
    }
}

#[test]
fn near_a_border_who_loses_the_second_lets_go_of_the_first() {
    let shelf = Shelf::new();
    shelf.held("b", 935, 935);
    // by a's clock it is earlier, and both epochs are to be claimed; neighbours alone would not show it b's claim
    assert_eq!(shelf.claim("a", 880, 880), theirs("b", None));
    assert_eq!(shelf.names(".claims/shop").len(), 1);
}

#[test]
fn a_dead_holder_is_followed_by_one_and_does_not_come_back() {
    let shelf = Shelf::new();
    let first = shelf.held("a", 100, 100);
    let over = 100 + LIFE.as_secs() + 31;
    assert_eq!(shelf.claim("b", 105, over - 2), theirs("a", None));
    shelf.held("b", 105, over);
    assert_eq!(shelf.claim("c", 106, over), theirs("b", None));
    assert_eq!(shelf.claim("a", 100, over + 1), theirs("b", None), "it was too late");
    // though it may have believed otherwise while it was cut off
    run(arbiter::fulfil(&shelf.store, &first, "shop/late.tar.gz")).unwrap();
    assert_eq!(shelf.claim("a", 100, over + 1), theirs("b", None));
}

#[test]
fn garbage_where_a_claim_would_be_holds_nobody_up() {
    let shelf = Shelf::new();
    let sighting = seen(100);
    let epoch = *sighting.epochs().start();
    for generation in 1..GENERATIONS {
        shelf.put(&format!("p/{}", sighting.key(epoch, generation)), b"\xff{");
    }
    assert_ne!(shelf.held("a", 100, 100), arbiter::Held::default(), "the last is free");
    shelf.put(&format!("p/{}", sighting.key(epoch, GENERATIONS)), b"");
    assert_eq!(shelf.held("b", 100, 100), arbiter::Held::default(), "captured without a claim");
}

#[test]
fn a_probe_leaves_nothing() {
    let shelf = Shelf::new();
    for claims in [false, true] {
        run(arbiter::probe(&shelf.store, claims, "x")).unwrap();
    }
    assert_eq!(shelf.names(".claims"), [""; 0]);
}

/// Takes whatever is put, whether or not it is there already.
#[cfg(feature = "s3")]
fn careless_s3() -> String {
    careless_s3_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
}

#[cfg(feature = "s3")]
fn careless_s3_on(listener: std::net::TcpListener) -> String {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
            let _ = stream.read_exact(&mut vec![0; length]);
            let when = "ETag: \"x\"\r\nLast-Modified: Mon, 23 Nov 2026 08:13:36 GMT\r\nConnection: close";
            let answer = match head.split(' ').next() {
                Some("get") => format!("206 Partial Content\r\n{when}\r\nContent-Range: bytes 0-6/7\r\nContent-Length: 7\r\n\r\nmemtrap"),
                _ => format!("200 OK\r\n{when}\r\nContent-Length: 0\r\n\r\n"),
            };
            let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes());
        }
    });
    format!("http://{address}")
}

#[cfg(feature = "s3")]
#[test]
fn a_store_that_overwrites_what_is_to_be_created_once_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = s3_config(careless_s3(), dir.path()).upload.unwrap();
    crate::capture::install_tls_provider();
    let said = run(probe(&config)).unwrap_err().0;
    assert!(said.contains("it cannot arbitrate; set claim = false"), "{said}");
    config.claim = false;
    assert_eq!(run(probe(&config)), Ok("AmazonS3(b)/".into()));
}

#[cfg(feature = "s3")]
#[test]
fn the_configured_proxy_is_used_and_not_for_what_is_near() {
    let dir = tempfile::tempdir().unwrap();
    let far = |proxy: Option<String>| {
        let mut upload = s3_config("http://store.invalid".into(), dir.path()).upload.unwrap();
        upload.proxy = proxy;
        run(probe(&upload))
    };
    assert!(far(None).is_err(), "a name that does not exist");
    let said = far(Some(careless_s3())).unwrap_err().0;
    assert!(said.contains("cannot arbitrate"), "the server behind the proxy's address has answered: {said}");
    let mut near = s3_config(careless_s3(), dir.path()).upload.unwrap();
    near.proxy = Some("http://127.0.0.1:1".into());
    assert!(run(probe(&near)).unwrap_err().0.contains("cannot arbitrate"));
}

/// Another user of this host.
const EVE: u32 = 4_711;

fn of_eve() -> Option<std::net::TcpListener> {
    crate::host::fake::as_user(EVE, || std::net::TcpListener::bind("127.0.0.1:0").unwrap())
}

#[cfg(feature = "s3")]
#[test]
fn a_store_or_proxy_of_another_user_of_this_host_is_sent_nothing_unless_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    crate::capture::install_tls_provider();
    let Some(listener) = of_eve() else { return };
    let theirs = careless_s3_on(listener);
    let mut store = s3_config(theirs.clone(), dir.path()).upload.unwrap();
    store.claim = false;
    let mut proxy = s3_config("http://store.invalid".into(), dir.path()).upload.unwrap();
    (proxy.claim, proxy.proxy) = (false, Some(theirs));
    for mut upload in [store, proxy] {
        let said = run(probe(&upload)).unwrap_err().0;
        assert!(said.contains("credentials are not sent there") && said.contains(&format!("is of user {EVE}")), "{said}");
        upload.user = Some(EVE.to_string().parse().unwrap());
        assert_eq!(run(probe(&upload)), Ok("AmazonS3(b)/".into()));
    }
}

#[test]
fn a_receiver_of_another_user_of_this_host_is_shown_no_credentials_unless_it_is_named() {
    use std::io::{Read, Write};
    use std::sync::mpsc::channel;

    let Some(listener) = of_eve() else { return };
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = vec![0; 16 << 10];
            let length = stream.read(&mut head).unwrap_or(0);
            let _ = tell.send(String::from_utf8_lossy(&head[..length]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let with_token = || Auth { bearer_file: Some(file("token", "s3cr3t-t0ken")), ..Auth::default() };
    let deliver = |url: ReceiverUrl, auth: Auth, user: Option<u32>| {
        let user = user.map(|uid| uid.to_string().parse().unwrap());
        let to = Notify {
            name: "hook".into(),
            how: Channel::Webhook(Receiver { url, auth, user }),
            targets: None,
            message: Default::default(),
            timeout: Duration::from_secs(20),
        };
        let notice = notice::Notice::of_a_test("host", 1, at(0));
        run(deliver::deliver(&notice, &to, None, &crate::client::Clients::default(), at(0)))
    };
    let secret = || ReceiverUrl::File(file("url", &url));
    let inline = || ReceiverUrl::Inline(url.clone());
    for (url, auth) in [(inline(), with_token()), (secret(), Auth::default())] {
        let why = deliver(url.clone(), auth.clone(), None).unwrap_err();
        assert!(why.contains("credentials are not sent there") && why.contains(&format!("is of user {EVE}")), "{why}");
        assert!(told.try_recv().is_err(), "nothing was sent");
        assert_eq!(deliver(url, auth, Some(EVE)), Ok(()));
        assert!(told.recv().unwrap().starts_with("POST /hook"));
    }
    assert_eq!(deliver(inline(), Auth::default(), None), Ok(()), "what holds no secret goes where the configuration says");
}

/// A daemon's configuration with this store.
fn config(to: Destination, endpoint: Option<String>) -> Config {
    let upload = Upload {
        to,
        prefix: String::new(),
        endpoint,
        region: None,
        allow_http: true,
        ca_file: None,
        proxy: None,
        user: None,
        secrets: StoreSecrets::default(),
        delete_after_upload: false,
        claim: true,
    };
    Config { daemon: Default::default(), retention: Default::default(), upload: Some(upload), notify: Vec::new(), targets: Vec::new() }
}

/// The same with an S3 API, and credentials in a file of `dir`.
#[cfg(feature = "s3")]
fn s3_config(endpoint: String, dir: &Path) -> Config {
    let key = dir.join("key");
    fs::write(&key, "k").unwrap();
    let mut config = config(Destination::S3 { bucket: "b".into() }, Some(endpoint));
    if let Some(upload) = &mut config.upload {
        upload.secrets = StoreSecrets { access_key_id: Some(key.clone()), secret_access_key: Some(key), ..StoreSecrets::default() };
    }
    config
}

fn jobs(state: &Path, kind: &str) -> usize {
    let entries = fs::read_dir(state.join("egress/upload")).map(|d| d.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.iter().filter(|e| e.path().extension().is_some_and(|e| e == kind)).count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("after 10 s still not so: {what}");
}

#[test]
fn bundles_of_a_killed_run_are_found_and_one_that_was_deleted_blocks_none() {
    let (state, bundles, share) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let publish = |second| bundle::tests::publish(bundles.path(), "checkout", at(second)).id;
    // killed after the bundle was published and before it was queued
    let lost = publish(1);
    let dir = share.path().join("mount");
    let config = config(Destination::Directory(dir.clone()), None);
    let new = || Egress::new(state.path().into(), bundles.path().into(), "host-a".into(), Meters::default());
    let mut egress = new();
    egress.configure(&config);
    wait_until("it is queued", || jobs(state.path(), "job") == 1);
    let (deleted, kept) = (publish(2), publish(3));
    egress.bundle_saved(&deleted);
    egress.bundle_saved(&kept);
    wait_until("all are queued", || jobs(state.path(), "job") == 3);
    run(egress.stop());

    // by retention, while the store was down
    fs::remove_dir_all(bundles.path().join(&deleted)).unwrap();
    fs::create_dir(&dir).unwrap();
    let mut egress = new();
    egress.configure(&config);
    egress.configure(&config);
    wait_until("two have arrived and nothing is left", || (jobs(state.path(), "job"), jobs(state.path(), "done")) == (0, 2));
    for id in [lost, kept] {
        let (target, name) = id.split_once('/').unwrap();
        let arrived = |e: fs::DirEntry| e.file_name().to_str().is_some_and(|n| n.starts_with(name) && n.ends_with(".manifest.json"));
        assert!(fs::read_dir(dir.join(target)).unwrap().flatten().any(arrived), "{id}");
    }
    run(egress.stop());
    assert_eq!(jobs(state.path(), "done"), 2, "they are not sent again");
}

#[test]
fn nothing_is_started_or_written_without_an_upload() {
    let (state, bundles) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut egress = Egress::new(state.path().into(), bundles.path().into(), "h".into(), Meters::default());
    egress.configure(&Config { upload: None, ..config(Destination::Directory("/".into()), None) });
    egress.bundle_saved("checkout/x");
    run(egress.stop());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn the_metrics_tell_what_waits_for_whom() {
    let (state, bundles, share) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receiver = |name: &str, program: &str| Notify {
        name: name.into(),
        how: Channel::Exec(vec![program.into()]),
        targets: None,
        message: Default::default(),
        timeout: Duration::from_secs(10),
    };
    let dir = share.path().join("mount");
    let mut config = config(Destination::Directory(dir.clone()), None);
    config.notify = vec![receiver("well", "/bin/true"), receiver("down", "/bin/false")];
    let meters = Meters::default();
    let told = || {
        let (mut registry, mut text) = (Registry::default(), String::new());
        meters.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        let mut series: Vec<String> = text.lines().filter_map(|l| l.strip_prefix("memtrap_egress_waiting")).map(str::to_owned).collect();
        series.sort();
        series
    };
    let mut egress = Egress::new(state.path().into(), bundles.path().into(), "h".into(), meters.clone());
    assert!(told().is_empty(), "nobody is to be told of anything");
    egress.configure(&config);
    let id = bundle::tests::publish(bundles.path(), "checkout", at(1)).id;
    egress.bundle_saved(&id);
    let all = [r#"{receiver="down"} 1"#, r#"{receiver="upload"} 1"#, r#"{receiver="well"} 0"#];
    wait_until("one waits for whoever takes nothing", || told() == all);

    config.notify.pop();
    fs::create_dir(&dir).unwrap();
    egress.configure(&config);
    wait_until("who is gone is no series", || told() == [r#"{receiver="upload"} 0"#, r#"{receiver="well"} 0"#]);
    run(egress.stop());
}

/// A capture that is about to begin.
fn request(trigger: Trigger) -> Request {
    let target = Target::with_defaults("checkout".into(), crate::config::Selector::Pid(7));
    Request {
        incident_id: "i".into(),
        part: 1,
        scope: crate::capture::Scope::Full,
        target: Arc::new(target),
        instance: Some(InstanceId { pid: 7, start_ticks: 99 }),
        instance_label: "pid 7".into(),
        workload: None,
        remote: None,
        no_pprof: None,
        warning: None,
        fired: Fired { trigger, ..Fired::manual(1, None, "x".into()) },
        started: at(100),
        timeline: Arc::default(),
        floors: Vec::new(),
        oom: None,
        answers_early: false,
        min_free: crate::units::ByteSize(0),
        hurry: false,
        baselines: None,
        lang: crate::lang::Lang::En,
    }
}

#[test]
fn two_daemons_ask_the_store_and_a_person_asks_nobody() {
    let share = tempfile::tempdir().unwrap();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut pair = dirs.each_ref().map(|d| Egress::new(d.path().into(), d.path().into(), "one-host".into(), Meters::default()));
    let config = config(Destination::Directory(share.path().into()), None);
    pair.iter_mut().for_each(|e| e.configure(&config));
    let ask = |e: &Egress| run(e.claim(&request(Trigger::Threshold), "boot").unwrap());
    assert_eq!(ask(&pair[0]), None);
    assert_eq!(ask(&pair[1]), Some(Theirs { host: "one-host".into(), bundle: None }), "even on one host");
    assert!(pair[1].claim(&request(Trigger::Manual), "boot").is_none());
    let [first, second] = pair;
    run(first.stop());
    let mut again = Egress::new(dirs[0].path().into(), dirs[0].path().into(), "one-host".into(), Meters::default());
    again.configure(&config);
    assert_eq!(ask(&again), None, "a restart keeps its name, and so its claim");
    run(again.stop());
    run(second.stop());
}

#[cfg(feature = "s3")]
#[test]
fn a_store_that_never_answers_does_not_hold_a_capture() {
    crate::capture::install_tls_provider();
    let dir = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let config = s3_config(endpoint, dir.path());
    let mut egress = Egress::new(dir.path().into(), dir.path().into(), "h".into(), Meters::default());
    egress.configure(&config);
    let before = crate::clock::Mono::now();
    assert_eq!(run(egress.claim(&request(Trigger::Slope), "boot").unwrap()), None);
    let waited = crate::clock::Mono::now().since(before);
    assert!((PATIENCE..PATIENCE * 2).contains(&waited), "{waited:?}");
    run(egress.stop());
}
