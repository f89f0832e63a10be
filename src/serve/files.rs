//! A bundle's files: those that its manifest lists and no others, streamed; and all of them as one archive.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION};
use tokio::sync::{Semaphore, mpsc};

use super::index::Caught;
use super::page;
use super::routes::{Shared, problem};
use super::view::View;
use crate::bundle::archive;
use crate::bundle::{self, Bundle, BundleError, MANIFEST, MAX_MANIFEST};
use crate::error::chain;
use crate::lang::Lang;
use crate::text::one_line;
use crate::units::ByteSize;

const CHUNK: usize = 64 << 10;
/// Each takes a thread.
static DOWNLOADS: Semaphore = Semaphore::const_new(6);
/// Each takes a thread and some of a core.
static ARCHIVES: Semaphore = Semaphore::const_new(2);
const REPORT: &str = "report.html";
/// A report has its style in itself, no script, and no business with its origin.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox";
/// A published bundle never changes, but may be deleted.
const KEPT: &str = "private, max-age=60";

/// Reads the manifest.
async fn open(view: &View, target: &str, name: &str) -> Result<Bundle, Response> {
    let (dir, id) = (view.seen.bundle_dir.clone(), format!("{target}/{name}"));
    match view.on_disk(move || bundle::open(&dir, &id)).await.map_err(IntoResponse::into_response)? {
        Ok(bundle) => Ok(bundle),
        Err(BundleError::NotFound { .. } | BundleError::BadId { .. }) => {
            Err(problem(StatusCode::NOT_FOUND, "there is no such bundle, or none any more; see /api/bundles"))
        }
        Err(error) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))),
    }
}

/// A body that a thread of its own makes, or why there is none now: a slow client, or a slow disk, must not take one from the captures.
fn made_by(turns: &'static Semaphore, make: impl FnOnce(&mut Chunks) -> io::Result<()> + Send + 'static) -> Result<Body, String> {
    let turn = turns.try_acquire().map_err(|_| "others are downloading; try again in a moment")?;
    let (chunks, made) = mpsc::channel(2);
    let write = move || {
        let _turn = turn;
        let mut out = Chunks { to: chunks, buffer: Vec::new() };
        if let Err(error) = make(&mut out).and_then(|()| out.flush()) {
            // cut short, so that nobody takes it for whole; whoever has gone does not hear it
            let _ = out.to.blocking_send(Err(error));
        }
    };
    std::thread::Builder::new().name("download".into()).spawn(write).map_err(|e| e.to_string())?;
    Ok(Body::new(ChunkBody(made)))
}

fn busy(why: String) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// `GET /bundles/TARGET/NAME/FILE`.
pub(super) async fn file(State(view): Shared, Path((target, name, file)): Path<(String, String, String)>) -> Result<Response, Response> {
    let bundle = open(&view, &target, &name).await?;
    let absent = || problem(StatusCode::NOT_FOUND, "the bundle's manifest lists no such file");
    let listed = bundle.manifest.files.iter().find(|f| f.has_file() && f.name == file).map(|f| f.bytes);
    if file != MANIFEST && listed.is_none() {
        return Err(absent());
    }
    let wanted = file.clone();
    let opened = view.on_disk(move || bundle.file(&wanted).and_then(|f| Ok((f.metadata()?.len(), f)))).await;
    let (length, opened) = match opened.map_err(IntoResponse::into_response)? {
        Ok((length, _)) if listed.map_or(length > MAX_MANIFEST, |listed| listed != length) => {
            let why = format!("{} has another size than the manifest lists; see `memtrap bundles show`", one_line(&file, 200));
            return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, why));
        }
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(absent()),
        Err(e) => return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{}: {e}", one_line(&file, 200)))),
    };
    let body = made_by(&DOWNLOADS, move |out| match io::copy(&mut opened.take(length), out)? {
        copied if copied == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    })
    .map_err(busy)?;
    let (content_type, is_shown) = kind(&file);
    let mut response = ([(CACHE_CONTROL, KEPT), (CONTENT_TYPE, content_type)], body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    if file == REPORT {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY));
    }
    if !is_shown && let Ok(value) = format!("attachment; filename=\"{}\"", plain(&file)).parse() {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// How a file is handed out, and whether a browser shows it.
fn kind(file: &str) -> (&'static str, bool) {
    match file {
        REPORT => ("text/html; charset=utf-8", true),
        "report.txt" | "README.md" => ("text/plain; charset=utf-8", true),
        MANIFEST | "verdict.json" => ("application/json", true),
        _ => ("application/octet-stream", false),
    }
}

/// The last part of a path, as a file name that needs no quoting.
fn plain(file: &str) -> String {
    let last = file.rsplit('/').next().unwrap_or_default();
    let plain: String = last.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(100).collect();
    if plain.trim_matches('.').is_empty() { "file".into() } else { plain }
}

/// `GET /bundles/TARGET/NAME.tar.gz`; without the ending, leads to the contents.
pub(super) async fn archive(State(view): Shared, Path((target, name)): Path<(String, String)>) -> Result<Response, Response> {
    let Some(name) = name.strip_suffix(".tar.gz") else {
        open(&view, &target, &name).await?;
        return Ok((StatusCode::SEE_OTHER, [(LOCATION, format!("/bundles/{target}/{name}/"))]).into_response());
    };
    let bundle = open(&view, &target, name).await?;
    let disposition = format!("attachment; filename=\"{}-{}.tar.gz\"", plain(&target), plain(name));
    let body = made_by(&ARCHIVES, move |out| archive::write(&bundle, out).map(drop).map_err(io::Error::other)).map_err(busy)?;
    let headers = [(CONTENT_TYPE, "application/gzip".to_owned()), (CONTENT_DISPOSITION, disposition), (CACHE_CONTROL, KEPT.to_owned())];
    Ok((headers, body).into_response())
}

/// `GET /bundles/TARGET/NAME/`: what is in it.
pub(super) async fn contents(State(view): Shared, Path((target, name)): Path<(String, String)>) -> Result<Response, Response> {
    let bundle = open(&view, &target, &name).await?;
    let told = view.on_disk(move || (Caught::of(&bundle), bundle)).await;
    let (caught, bundle) = told.map_err(IntoResponse::into_response)?;
    let m = &bundle.manifest;
    let row = |f: &bundle::FileEntry| Row {
        link: f.has_file().then(|| f.name.clone()),
        name: one_line(&f.name, 200),
        size: if f.has_file() { ByteSize(f.bytes).to_string() } else { String::new() },
        status: f.status.name(),
        reason: one_line(f.reason.as_deref().unwrap_or_default(), 300),
    };
    let mut rows =
        vec![Row { link: Some(MANIFEST.into()), name: MANIFEST.into(), size: String::new(), status: "ok", reason: String::new() }];
    rows.extend(m.files.iter().filter(|f| f.name != MANIFEST).map(row));
    rows.sort_by_key(|r| (r.name.contains('/'), r.link.is_none()));
    let contents = Contents {
        total: ByteSize(caught.bytes).to_string(),
        rss: ByteSize(caught.rss_bytes).to_string(),
        warnings: m.warnings.iter().map(|w| one_line(&w.text, 600)).collect(),
        lang: view.lang(),
        caught,
        rows,
    };
    Ok(page::html(StatusCode::OK, &contents))
}

#[derive(Template)]
#[template(path = "bundle.html")]
struct Contents {
    lang: Lang,
    caught: Caught,
    total: String,
    rss: String,
    warnings: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    /// Where there is a file.
    link: Option<String>,
    name: String,
    size: String,
    status: &'static str,
    reason: String,
}

/// Bytes that a thread makes, handed over in chunks; waits while the client is slow, and ends when it has gone.
struct Chunks {
    to: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        if chunk.is_empty() {
            return Ok(());
        }
        self.to.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct ChunkBody(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for ChunkBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|c| c.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downloads_name_needs_no_quotes() {
        assert_eq!(plain("proc/smaps_rollup"), "smaps_rollup");
        assert_eq!(plain("a\"b\r\nc"), "a_b__c");
        assert_eq!((plain(".."), plain("x/")), ("file".into(), "file".into()));
    }

    #[test]
    fn only_memtraps_own_texts_are_shown_by_a_browser() {
        for (file, inline) in
            [("report.html", true), ("README.md", true), ("goroutine.txt", false), ("baseline/report.html", false), ("x.svg", false)]
        {
            assert_eq!(kind(file).1, inline, "{file}");
        }
    }
}
