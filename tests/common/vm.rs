//! The tests of a binary again, in a virtual machine whose kernel has version 2 of cgroups. QEMU emulates it: ten times slower than this
//! machine, without root or network, on a disk that goes with it; nothing of this machine
//! can be reached from inside.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{fetched, repo, wait_until};

/// Of a disk: what is written to memory is no page cache.
const MODULES: [&str; 6] = [
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci.ko",
    "block/virtio_blk.ko",
];
/// More than memtrap leaves free by default. A hole until it is written to.
const DISK: u64 = 4 << 30;

/// Set for what runs inside.
const INSIDE: &str = "MEMTRAP_TEST_IN_VM";

/// Whether this is the virtual machine.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs tests of the calling binary inside, those named so, one after the other, with these programs beside it, and fails as they fail.
pub fn run_inside(what: &str, tests: &[&str], programs: &[PathBuf]) {
    // QEMU, a kernel and what is needed to start it
    let Some(vm) = fetched("vm", &[], what).map(PathBuf::from) else { return };
    let dir = TempDir::new().unwrap();
    let itself = std::env::current_exe().unwrap();
    let memtrap = PathBuf::from(env!("CARGO_BIN_EXE_memtrap"));
    let root = dir.path().join("root");
    furnish(&root, &vm);
    for program in [&itself, &memtrap].into_iter().chain(programs) {
        place(&root, program);
    }
    copy_tree(&repo().join("tests/go"), &root);
    let command = format!("{} --include-ignored --exact --nocapture --test-threads=1 {}", itself.display(), tests.join(" "));
    write_init(&root, &command);
    let image = dir.path().join("initramfs");
    let pack = format!("find . | {} cpio -o -H newc > '{}'", vm.join("busybox").display(), image.display());
    let packed = Command::new("sh").args(["-c", &pack]).current_dir(&root).stderr(Stdio::null()).status().unwrap();
    assert!(packed.success(), "{pack}: {packed}");
    let output = boot(&vm, &image, dir.path());
    assert!(output.contains("\nENDED 0\n"), "in a virtual machine with version 2 of cgroups: {command}\n{output}");
    assert!(!output.contains("NOT CHECKED"), "{output}");
    assert!(output.contains(&format!("{} passed", tests.len())), "{output}");
}

/// What the tests expect of a system: a shell, users, a name for this host.
fn furnish(root: &Path, vm: &Path) {
    for dir in ["bin", "proc", "sys", "dev", "tmp", "etc", "run", "var/lib", "modules"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::copy(vm.join("busybox"), root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), Permissions::from_mode(0o755)).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    for (n, module) in (0..).zip(MODULES) {
        // loaded in this order
        fs::copy(vm.join("modules/drivers").join(module), root.join(format!("modules/{n}.ko"))).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
}

/// A program at the path that it has here, without what only a debugger reads, and its libraries.
fn place(root: &Path, program: &Path) {
    let to = below(root, program);
    // stripped while it is copied: a debug build is hundreds of MiB
    let stripped = Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(program).status();
    assert!(stripped.is_ok_and(|status| status.success()), "strip {}: this needs binutils", program.display());
    let output = Command::new("ldd").arg(program).output().unwrap();
    for library in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let to = below(root, Path::new(library));
        if !to.exists() {
            fs::copy(library, to).unwrap();
        }
    }
}

fn copy_tree(from: &Path, root: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            copy_tree(&entry, root);
        } else {
            fs::copy(&entry, below(root, &entry)).unwrap();
        }
    }
}

/// The same path below `root`, its directory made.
fn below(root: &Path, path: &Path) -> PathBuf {
    let to = root.join(path.strip_prefix("/").unwrap());
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    to
}

/// The first process: mounts, runs the command, says how it ended, and turns the machine off.
fn write_init(root: &Path, command: &str) {
    let script = format!(
        "#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
for module in /modules/*; do insmod $module; done
mke2fs /dev/vda > /dev/null && mount /dev/vda /tmp && chmod 1777 /tmp || reboot -f
mount -t cgroup2 -o nsdelegate,memory_recursiveprot none /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
exec > /dev/ttyS1 2>&1
stty -opost < /dev/ttyS1
export PATH=/bin {INSIDE}=1 RUST_BACKTRACE=1
echo \"BOOTED $(cut -d' ' -f1 /proc/uptime) $(uname -r)\"
{command}
echo \"ENDED $?\"
sync
reboot -f
"
    );
    let init = root.join("init");
    File::create(&init).unwrap().write_all(script.as_bytes()).unwrap();
    fs::set_permissions(init, Permissions::from_mode(0o755)).unwrap();
}

/// Starts it, waits for its end, and gives what its tests said.
fn boot(vm: &Path, image: &Path, dir: &Path) -> String {
    let (said, console) = (dir.join("said"), dir.join("console"));
    let mut qemu = Command::new(vm.join("qemu"));
    // without cx16: QEMU 7.2 emulates cmpxchg16b wrongly under load, and the kernel dies of it
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "Nehalem,-cx16",
        "-smp",
        "2",
        "-m",
        "1536",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    for file in [&console, &said] {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    qemu.arg("-kernel").arg(vm.join("vmlinuz")).arg("-initrd").arg(image);
    let disk = dir.join("disk");
    File::create(&disk).and_then(|file| file.set_len(DISK)).unwrap();
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw", disk.display()));
    // ramfs: pages of programs are those of files, as on a disk, and not shared memory
    let options = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nokaslr tsc=reliable no_timer_check rootfstype=ramfs";
    let mut child = qemu.args(["-append", options]).stdin(Stdio::null()).spawn().unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(Duration::from_secs(240), "the virtual machine is off", || child.try_wait().unwrap().is_some());
    }));
    let _ = child.kill();
    let _ = child.wait();
    let text = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    assert!(ended.is_ok(), "the virtual machine was not off in time\n{}\n{}", text(&said), text(&console));
    format!("{}\nconsole:\n{}", text(&said), text(&console))
}
