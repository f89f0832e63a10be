//! A store that speaks the S3 API on loopback: moto, which checks signatures once it has users.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::{python_program, wait_until};

pub const BUCKET: &str = "evidence";
/// Requests that moto takes unsigned, before it checks the signature of each: the four that make the bucket and its user.
const UNSIGNED: &str = "4";

/// A running S3 API with one bucket and one user. Ends with its owner, even if the test is killed.
pub struct S3 {
    child: Child,
    port: u16,
    key_id: String,
    secret: String,
}

/// A port on which nothing listens now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where moto's `moto_server` is, an S3 API for tests on loopback; `None`, said loudly, if there is none and none can be had.
pub fn server(what: &str) -> Option<PathBuf> {
    // keeps objects in memory and checks no signature unless it is told to: it stands in for a store, not for its security
    python_program("moto_server", "moto[server]", "5.2.5", what)
}

impl S3 {
    pub fn start(server: &Path, port: u16) -> S3 {
        // standard input closes with the test
        let script = "\"$0\" -H 127.0.0.1 -p \"$1\" & trap 'kill $!' EXIT; read -r _ || :";
        let mut child = Command::new("sh");
        child.args(["-c", script]).arg(server).arg(port.to_string()).env("INITIAL_NO_AUTH_ACTION_COUNT", UNSIGNED);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut s3 = S3 { child, port, key_id: String::new(), secret: String::new() };
        wait_until(Duration::from_secs(60), "the S3 server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        s3.ask("PUT", &format!("/{BUCKET}"), "s3", "");
        s3.ask("POST", "/", "iam", "Action=CreateUser&Version=2010-05-08&UserName=memtrap");
        let keys = s3.ask("POST", "/", "iam", "Action=CreateAccessKey&Version=2010-05-08&UserName=memtrap");
        let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
        let put = format!("Action=PutUserPolicy&Version=2010-05-08&UserName=memtrap&PolicyName=p&PolicyDocument={policy}");
        s3.ask("POST", "/", "iam", &put);
        let element = |name: &str| {
            let (_, rest) = keys.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {keys}"));
            rest.split_once('<').unwrap().0.to_owned()
        };
        (s3.key_id, s3.secret) = (element("AccessKeyId"), element("SecretAccessKey"));
        s3
    }

    /// A request with a signature of nothing, which is enough for the first ones.
    fn ask(&self, method: &str, path: &str, service: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let scope = format!("Credential=none/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none");
        let form = "application/x-www-form-urlencoded";
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: AWS4-HMAC-SHA256 {scope}\r\nContent-Type: {form}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            self.port
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{method} {path}: {answer}");
        answer
    }

    /// `[upload]` with this store, and these credentials in files of `dir`, which are written.
    pub fn config(&self, dir: &Path, keys: &str) -> String {
        write_keys(dir, &self.key_id, &self.secret);
        config(self.port, dir, keys)
    }

    pub fn write_keys(&self, dir: &Path) {
        write_keys(dir, &self.key_id, &self.secret);
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let keys = tempfile::tempdir().unwrap();
        let text = self.config(keys.path(), "") + "[[target]]\nname = \"x\"\nprocess = { pid = 1 }\nthreshold = \"1GiB\"\n";
        let (config, _) = memtrap::config::parse(&text, "test").unwrap();
        memtrap::egress::store::Store::open(&config.upload.unwrap()).unwrap().objects
    }

    /// The names of all objects below `dir`, sorted.
    pub fn list(&self, dir: &str) -> Vec<String> {
        // moto reckons the signature of a query with slashes wrongly: all are asked for
        let objects: Vec<ObjectMeta> = wait_for(self.store().list(None).try_collect()).unwrap();
        let mut names: Vec<String> = objects.into_iter().map(|o| o.location.to_string()).filter(|n| n.starts_with(dir)).collect();
        names.sort();
        names
    }

    pub fn get(&self, name: &str) -> Vec<u8> {
        let store = self.store();
        wait_for(async { store.get(&Key::from(name)).await.unwrap().bytes().await.unwrap() }).to_vec()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// `[upload]` with a store on this port, whether or not there is one, and credentials in files of `dir`.
pub fn config(port: u16, dir: &Path, keys: &str) -> String {
    let dir = dir.display();
    format!(
        "[upload]\nurl = \"s3://{BUCKET}/go\"\nendpoint = \"http://127.0.0.1:{port}\"\nallow_http = true\n\
         access_key_id_file = \"{dir}/s3.id\"\nsecret_access_key_file = \"{dir}/s3.secret\"\n{keys}\n"
    )
}

pub fn write_keys(dir: &Path, id: &str, secret: &str) {
    fs::write(dir.join("s3.id"), format!("{id}\n")).unwrap();
    fs::write(dir.join("s3.secret"), format!("{secret}\n")).unwrap();
}

fn wait_for<T>(job: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(job)
}
