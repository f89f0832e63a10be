//! The manifests that are shipped, and the page about them: Kubernetes takes them, and memtrap the configuration in them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{python_program, repo, run};

const MANIFESTS: [&str; 2] = ["daemonset.yaml", "sidecar.yaml"];

fn manifest(name: &str) -> PathBuf {
    repo().join("packaging/kubernetes").join(name)
}

/// What stands in the ConfigMap under `memtrap.toml`.
fn configuration(manifest: &str) -> String {
    let after = manifest.split_once("  memtrap.toml: |\n").expect("a ConfigMap with memtrap.toml").1;
    let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or_default())).collect()
}

/// The number behind a key, in MiB.
fn mib(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let value = value.trim_start_matches([' ', '=', ':', '"']).trim_end_matches('"').trim_end_matches('B');
    let (number, unit) = value.split_at(value.len() - 2);
    number.parse::<u64>().unwrap() * if unit == "Gi" { 1024 } else { 1 }
}

#[test]
fn memtrap_takes_the_configuration_of_each_manifest_and_it_fits_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    for name in MANIFESTS {
        let text = fs::read_to_string(manifest(name)).unwrap();
        let configuration = configuration(&text);
        let file = dir.path().join(name).with_extension("toml");
        fs::write(&file, &configuration).unwrap();
        let checked = run(&["check", "-c", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && said.contains("no mistakes"), "{name}: {said}{}", String::from_utf8_lossy(&checked.stderr));
        // each word of what is written there but not in force is a key as well
        let uncommented: String = configuration.lines().map(|line| format!("{}\n", without_mark(line))).collect();
        fs::write(&file, uncommented).unwrap();
        let checked = run(&["check", "-c", file.to_str().unwrap()]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));

        let (volume, kept, a_file) =
            (mib(&text, "sizeLimit:"), mib(&configuration, "max_total_size"), mib(&configuration, "max_file_size"));
        // two captures at a time, each with a profile that is cut off
        assert!(kept + 2 * a_file < volume, "{name}: the kubelet would evict the pod: {kept} MiB and two captures in {volume} MiB");
        assert!(configuration.contains("state_dir = \"/var/lib/memtrap/") && text.contains("mountPath: /var/lib/memtrap\n"), "{name}");
    }
}

#[test]
fn memtrap_takes_the_configuration_that_the_page_about_containers_gives() {
    let page = fs::read_to_string(repo().join("docs/containers.md")).unwrap();
    let configuration = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a configuration");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memtrap.toml");
    fs::write(&file, configuration).unwrap();
    let checked = run(&["check", "-c", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// A line as it is once its setting is switched on, as `config/memtrap.toml` has it: `#` and no blank.
fn without_mark(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
}

#[test]
fn kubernetes_schemas_know_each_field_of_the_manifests() {
    let Some(validate) = python_program("kubernetes-validate", "kubernetes-validate", "1.37.0", "the manifests, by Kubernetes' schemas")
    else {
        return;
    };
    let validated = |file: &Path| -> Output { Command::new(&validate).arg("--strict").arg(file).stdin(Stdio::null()).output().unwrap() };
    let dir = tempfile::tempdir().unwrap();
    for name in MANIFESTS {
        let done = validated(&manifest(name));
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{name}: {said}");
        assert!(said.matches("passed").count() >= 2, "{name}: {said}");
        // it does look
        let wrong = dir.path().join(name);
        let text = fs::read_to_string(manifest(name)).unwrap();
        fs::write(&wrong, text.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem")).unwrap();
        assert!(!validated(&wrong).status.success(), "{name}: a field that there is not was taken");
    }
}

#[test]
fn each_volume_that_is_mounted_is_there_and_each_that_is_there_is_mounted() {
    for name in MANIFESTS {
        let text = fs::read_to_string(manifest(name)).unwrap();
        let (containers, volumes) = text.split_once("\n      volumes:\n").unwrap();
        let after = |text: &str| -> Vec<String> {
            let mut names: Vec<String> =
                text.lines().filter_map(|line| Some(line.trim().trim_start_matches('#').strip_prefix("- name: ")?.to_owned())).collect();
            names.sort();
            names
        };
        let mounts: String = containers.split("volumeMounts:\n").skip(1).collect();
        assert_eq!(after(&mounts), after(volumes), "{name}");
    }
}
