use super::path::{container_of, of_process, owner_of_pod, unit_of};
use super::*;
use crate::host::fake::FakeHost;

const ID: &str = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";
const OTHER: &str = "aa4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778b";
const UID: &str = "2f9e1b6c-77aa-4d5e-9c3b-0a1b2c3d4e5f";

fn workload(host: &FakeHost, cgroup: &str, exe: &str, go: Option<&str>) -> Workload {
    let id = host.process(7, "app").file("cgroup", format!("0::{cgroup}\n")).write();
    let procfs = host.procfs();
    let go = go.map(|package| Go { package: Some(package.into()) });
    Workload::of(&procfs, &procfs.dir_of(id).unwrap(), Some(Path::new(exe)), go.as_ref())
}

#[test]
fn a_container_is_known_by_the_path_that_each_runtime_gives_its_cgroup() {
    let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
    let paths = [
        format!("/docker/{ID}"),
        format!("/system.slice/docker-{ID}.scope"),
        format!("/kubepods/burstable/pod{UID}/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{ID}.scope"),
        format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-{ID}.scope"),
        format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-{ID}.scope/container"),
        format!("/system.slice/containerd.service/{slice}:cri-containerd:{ID}"),
        format!("/machine.slice/libpod-{ID}.scope/container"),
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
        format!("/k8s.io/{ID}"),
        // a cluster in a container: the inner one is the service's
        format!("/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-{slice}/cri-containerd-{ID}.scope"),
        format!("/../../{ID}"),
    ];
    for path in &paths {
        let found = container_of(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!((found.id.as_str(), found.is_named), (ID, false), "{path}");
        assert_eq!(found.pod_uid.is_some(), path.contains("pod2f9e"), "{path}");
        assert!(found.pod_uid.is_none_or(|uid| uid == UID), "{path}");
    }
}

#[test]
fn a_machine_of_systemd_and_a_container_of_lxc_are_known_by_name() {
    let name = |path: &str| container_of(path).filter(|found| found.is_named).map(|found| found.id);
    assert_eq!(name(r"/machine.slice/machine-web\x2d1.scope/payload/system.slice/shop.service").as_deref(), Some("web-1"));
    assert_eq!(name("/machine.slice/systemd-nspawn@shop.service/payload").as_deref(), Some("shop"));
    assert_eq!(name("/lxc.payload.shop/system.slice/x.service").as_deref(), Some("shop"));
    assert_eq!(name("/lxc/shop").as_deref(), Some("shop"));
}

#[test]
fn what_only_stands_beside_a_container_is_none() {
    for path in [
        format!("/machine.slice/libpod-conmon-{ID}.scope"),
        format!("/kubepods.slice/crio-conmon-{ID}.scope"),
        format!("/system.slice/{}.scope", &ID[1..]),
        "/system.slice/containerd.service".into(),
        "/user.slice/user-1000.slice/session-3.scope".into(),
        "/".into(),
    ] {
        assert_eq!(container_of(&path), None, "{path}");
    }
}

#[test]
fn the_path_is_that_of_the_hierarchy_that_tells_most() {
    let first = |text: &str| of_process(text).first().map(|path| path.to_string());
    assert_eq!(first("0::/system.slice/a.service\n").as_deref(), Some("/system.slice/a.service"));
    assert_eq!(first("9:memory:/docker/x\n1:name=systemd:/docker/y\n0::/\n").as_deref(), Some("/docker/x"));
    assert_eq!(first("5:memory:/\n1:name=systemd:/system.slice/a.service\n").as_deref(), Some("/system.slice/a.service"));
    assert_eq!(first(&format!("5:memory:/a\n1:name=systemd:/docker/{ID}\n")), Some(format!("/docker/{ID}")));
    assert_eq!(first("0::/a (deleted)\n").as_deref(), Some("/a"));
    assert_eq!(first(""), None);
    assert_eq!(of_process("4:memory:/x/svc\n3:cpu:/svc\n2:pids:/svc\n"), ["/x/svc", "/svc"]);
}

#[test]
fn a_pods_owner_is_what_kubernetes_made_its_name_from() {
    for (pod, owner) in [
        ("checkout-7d9f8b6c5d-x2x9z", "checkout"),
        ("shop-api-66bb5f9c7-4kz7b", "shop-api"),
        ("db-0", "db"),
        ("db-12", "db"),
        ("fluent-bit-x7k2p", "fluent-bit"),
        ("report-28371240-wq5rz", "report"),
        ("migrate-2xkd9", "migrate"),
        ("my-proxy", "my-proxy"),
        ("checkout", "checkout"),
        ("etcd-node-a", "etcd-node-a"),
        ("web-server", "web-server"),
    ] {
        assert_eq!(owner_of_pod(pod), owner, "{pod}");
    }
}

#[test]
fn a_unit_is_the_service_that_a_process_is_in() {
    let unit = |path: &str| unit_of(path);
    assert_eq!(unit("/system.slice/checkout.service").as_deref(), Some("checkout.service"));
    assert_eq!(unit("/system.slice/checkout.service/worker").as_deref(), Some("checkout.service"));
    assert_eq!(unit("/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service").as_deref(), Some("shop.service"));
    assert_eq!(unit("/user.slice/user-1000.slice/user@1000.service/app.slice/run-u3.scope"), None);
    assert_eq!(unit("/user.slice/user-1000.slice/session-3.scope"), None);
    assert_eq!(unit("/init.scope"), None);
}

#[test]
fn a_workload_is_named_after_the_unit_the_container_or_the_program() {
    let host = FakeHost::new();
    let name = |cgroup: &str, exe: &str, go: Option<&str>| workload(&host, cgroup, exe, go).name;
    assert_eq!(name("/system.slice/worker@3.service", "/usr/bin/worker", None), "worker");
    assert_eq!(name("/user.slice/user-0.slice/session-1.scope", "/home/a/x", Some("example.org/shop/checkout/v2")), "checkout");
    assert_eq!(name("/", "/opt/search", None), "search");
    assert_eq!(name(&format!("/docker/{ID}"), "/app", Some("example.org/app")), &ID[..12]);
    assert_eq!(name("/machine.slice/machine-shop.scope/payload/system.slice/api.service", "/api", None), "shop/api");
}

#[test]
fn two_programs_of_one_container_do_not_inherit_from_each_other() {
    let host = FakeHost::new();
    let key = |exe: &str| workload(&host, &format!("/docker/{ID}"), exe, None).key();
    assert_ne!(key("/app"), key("/sidecar"));
    assert_eq!(workload(&host, "/system.slice/app.service", "/app", None).key(), "app".into());
}

#[test]
fn a_pods_names_are_found_wherever_its_runtime_keeps_them() {
    let named = |files: &[(String, String)]| {
        let host = FakeHost::new();
        files.iter().for_each(|(path, text)| {
            host.file(path, text);
        });
        let pod = format!("/kubepods/burstable/pod{UID}/{ID}");
        workload(&host, &pod, "/app", None)
    };
    let annotations = |spec: serde_json::Value| serde_json::json!({ "ociVersion": "1.1.0", "annotations": spec }).to_string();
    let containerd = annotations(serde_json::json!({
        "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-name": "checkout-7d9f8b6c5d-x2x9z",
        "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.image-name": "registry/checkout:v3"
    }));
    let crio = annotations(serde_json::json!({
        "io.kubernetes.container.name": "app", "io.kubernetes.pod.name": "checkout-7d9f8b6c5d-x2x9z",
        "io.kubernetes.pod.namespace": "shop", "io.kubernetes.cri-o.ImageName": "registry/checkout:v3"
    }));
    for files in [
        vec![(format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"), containerd)],
        vec![(format!("run/containers/storage/overlay-containers/{ID}/userdata/config.json"), crio)],
        vec![(format!("var/log/containers/checkout-7d9f8b6c5d-x2x9z_shop_app-{ID}.log"), String::new())],
        vec![(format!("var/log/pods/shop_checkout-7d9f8b6c5d-x2x9z_{UID}/app/0.log"), String::new())],
    ] {
        let workload = named(&files);
        let container = workload.container.clone().unwrap();
        assert_eq!(container.path(), "shop/checkout-7d9f8b6c5d-x2x9z/app", "{files:?}");
        assert_eq!(workload.name, "shop/checkout/app", "{files:?}");
        assert_eq!(file_safe(&workload.name), "shop.checkout.app");
        let fits = |pattern: &str| workload.is_in_container(&regex_lite::Regex::new(pattern).unwrap());
        assert!(fits("^app$") && fits("^checkout-") && fits("^shop/checkout-.*/app$") && fits(&format!("^{}", &ID[..12])), "{files:?}");
        assert!(!fits("^search"), "{files:?}");
    }
    let unknown = named(&[]);
    assert_eq!(unknown.name, &ID[..12], "nobody says more");
}

#[test]
fn a_container_of_docker_podman_or_compose_has_the_name_that_was_given_it() {
    let host = FakeHost::new();
    host.file(
        &format!("var/lib/docker/containers/{ID}/config.v2.json"),
        r#"{"ID":"x","Name":"/shop-web-2","Config":{"Image":"web:1","Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"web"}}}"#,
    );
    host.file(
        "var/lib/containers/storage/overlay-containers/containers.json",
        format!(r#"[{{"id":"{OTHER}","names":["search"],"metadata":"{{\"image-name\":\"search:2\",\"name\":\"search\"}}"}}]"#),
    );
    let docker = workload(&host, &format!("/system.slice/docker-{ID}.scope"), "/web", None);
    assert_eq!((docker.name.as_str(), docker.container.unwrap().image.as_deref()), ("shop/web", Some("web:1")));
    let podman = workload(&host, &format!("/machine.slice/libpod-{OTHER}.scope"), "/search", None);
    assert_eq!((podman.name.as_str(), podman.container.unwrap().image.as_deref()), ("search", Some("search:2")));
}

#[test]
fn a_container_that_people_named_is_found_by_what_its_runtime_keeps() {
    let host = FakeHost::new();
    host.file("run/containerd/io.containerd.runtime.v2.task/default/web/config.json", "{}");
    host.file("run/runc/batch/state.json", r#"{"config":{"labels":["bundle=/b","nerdctl/name=nightly"]}}"#);
    assert_eq!(workload(&host, "/default/web", "/a", None).name, "web");
    assert_eq!(workload(&host, "/batch", "/a", None).container.unwrap().id, "batch");
    assert_eq!(workload(&host, "/system.slice/runc-batch.scope", "/a", None).name, "nightly", "what it is called goes before its id");
    assert_eq!(workload(&host, "/other/web", "/a", None).container, None);
}

#[test]
fn what_a_runtime_keeps_is_not_believed_beyond_reason() {
    let host = FakeHost::new();
    let path = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json");
    for text in ["", "{", "[]", r#"{"annotations":{"io.kubernetes.cri.container-name":"a\u0000b\n"}}"#] {
        host.file(&path, text);
        let container = workload(&host, &format!("/k8s.io/{ID}"), "/a", None).container.unwrap();
        assert_eq!((container.id.as_str(), container.name), (ID, None), "{text:?}");
    }
    let long = "x".repeat(400);
    host.file(&path, format!(r#"{{"annotations":{{"io.kubernetes.cri.container-name":"{long}"}}}}"#));
    assert_eq!(workload(&host, &format!("/k8s.io/{ID}"), "/a", None).container.unwrap().name, None);
}

#[test]
fn a_cgroup_is_meant_by_its_path_or_a_glob_with_all_below_it() {
    let fits = |glob: &str, path: &str| below_glob(glob).unwrap().is_match(path);
    assert!(fits("/system.slice/shop.service", "/system.slice/shop.service"));
    assert!(fits("/system.slice/shop.service/", "/system.slice/shop.service/worker"));
    assert!(!fits("/system.slice/shop.service", "/system.slice/shop.service2"));
    assert!(fits("/sys/fs/cgroup/system.slice/shop-*.service", "/system.slice/shop-api.service"));
    assert!(fits("/sys/fs/cgroup/memory/shop", "/shop/a"));
    assert!(!fits("/shop/*/api", "/shop/a/b/api"));
    assert!(fits("/shop/**/api", "/shop/a/b/api"));
    assert!(fits("shop-?.scope", "/a/shop-1.scope"));
    assert!(fits("/a+(b)", "/a+(b)/c"));
}
