//! Pulling weights and data: a local directory served over loopback stands for the hub, a shell
//! script for Python.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helper functions of tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anomalens_backbones::weights::{
    ContentHash, Entry, Format, Kind, Origin, PullEvent, Registry, Source, SourceError, Status,
    Store, WeightsError,
};
use tempfile::TempDir;

const FILE_BYTES: usize = 300_000;

// ---- the hub's stand-in ----------------------------------------------------------------------

/// How the server treats requests.
#[derive(Clone, Copy)]
struct Manners {
    /// Honours `Range`.
    ranges: bool,
    /// Sends a redirect that declares size and SHA-256, as the hub does for large files.
    linked: bool,
    /// Cuts the first answer with a body after so many bytes.
    cut_first_at: Option<usize>,
    /// Has another version of the file, [`content`], after the cut.
    renews: bool,
    /// Answers the first request with HTTP 503.
    busy_first: bool,
    /// Waits before an answer with a body.
    delay: Duration,
}

const POLITE: Manners = Manners {
    ranges: true,
    linked: false,
    cut_first_at: None,
    renews: false,
    busy_first: false,
    delay: Duration::ZERO,
};

#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

/// Serves a directory until dropped.
struct Server {
    folder: TempDir,
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(manners: Manners) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (root, requests, stop) = (
                folder.path().to_owned(),
                Arc::clone(&requests),
                Arc::clone(&stop),
            );
            let mut manners = manners;
            move || {
                for connection in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client may go away at any time: that is no failure of the server.
                    let _ = answer(connection.unwrap(), &root, &mut manners, &requests);
                }
            }
        });
        Self {
            folder,
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    /// A server with `content` as the file of [`hub_entry`].
    fn with_file(manners: Manners, content: &[u8]) -> Self {
        let server = Self::start(manners);
        server.put("owner/repo/resolve/v1/model.bin", content);
        server
    }

    fn put(&self, path: &str, content: &[u8]) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests for bodies so far; a redirect is asked twice.
    fn downloads(&self) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.method == "GET")
            .cloned()
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn answer(
    connection: TcpStream,
    root: &Path,
    manners: &mut Manners,
    requests: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(&connection).lines();
    let mut first = String::new();
    let mut headers = BTreeMap::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some((name, value)) if !first.is_empty() => {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            _ => first = line,
        }
    }
    let mut words = first.split(' ').map(str::to_owned);
    let request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        headers,
    };
    requests.lock().unwrap().push(request.clone());

    let reply = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        (&connection).write_all(head.as_bytes())?;
        (&connection).write_all(body)
    };
    if std::mem::take(&mut manners.busy_first) {
        return reply("503 Service Unavailable", "Content-Length: 0\r\n", b"");
    }
    let file = request
        .path
        .trim_start_matches('/')
        .trim_start_matches("cdn/");
    let Ok(body) = fs::read(root.join(file)) else {
        return reply("404 Not Found", "Content-Length: 0\r\n", b"");
    };
    let hash = ContentHash::of_bytes(&body);
    if manners.linked && !request.path.starts_with("/cdn/") {
        let headers = format!(
            "Location: /cdn{}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\nContent-Length: 0\r\n",
            request.path,
            body.len(),
        );
        return reply("302 Found", &headers, b"");
    }
    let start = request
        .headers
        .get("range")
        .filter(|_| manners.ranges)
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let status = if start > 0 {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let headers = format!(
        "ETag: \"{hash}\"\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        body.len() - start,
        body.len() - 1,
        body.len(),
    );
    if request.method == "HEAD" {
        return reply(status, &headers, b"");
    }
    thread::sleep(manners.delay);
    let Some(end) = manners.cut_first_at.take() else {
        return reply(status, &headers, &body[start..]);
    };
    reply(status, &headers, &body[start..end])?;
    if manners.renews {
        fs::write(root.join(file), content())?;
    }
    Ok(())
}

// ---- helpers ---------------------------------------------------------------------------------

/// Bytes that differ along the file, so that a wrongly joined download is noticed.
fn content() -> Vec<u8> {
    (0..FILE_BYTES as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn entry(json: &str) -> Entry {
    let registry = Registry::parse(&format!(r#"{{ "entries": [{json}] }}"#)).unwrap();
    registry.entries()[0].clone()
}

fn hub_entry(sha256: Option<ContentHash>) -> Entry {
    let sha256 = sha256
        .map(|hash| format!(r#""sha256": "{hash}","#))
        .unwrap_or_default();
    entry(&format!(
        r#"{{ "name": "tiny", "kind": "backbone", "family": "f", "description": "d",
            "file": "tiny.safetensors", "format": "safetensors", {sha256} "licence": "MIT",
            "sources": [
                {{ "hub": {{ "repo": "owner/repo", "revision": "v1", "path": "model.bin" }} }}
            ] }}"#
    ))
}

fn known_entry() -> Entry {
    hub_entry(Some(ContentHash::of_bytes(&content())))
}

fn store_with(variables: &[(&str, &Path)]) -> Store {
    Store::from_variables(|name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value))
    })
    .unwrap()
}

fn hub_store(cache: &Path, server: &Server) -> Store {
    store_with(&[
        ("ANOMALENS_CACHE", cache),
        ("HF_ENDPOINT", Path::new(&server.url())),
    ])
}

fn quiet(_: PullEvent<'_>) {}

fn attempts(error: WeightsError) -> Vec<SourceError> {
    match error {
        WeightsError::Unavailable { attempts, .. } => {
            attempts.into_iter().map(|attempt| attempt.error).collect()
        }
        other => panic!("{other}"),
    }
}

/// The names of visible files in the cache: what landed there.
fn landed(cache: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(cache) else {
        return Vec::new();
    };
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn parts(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache.join(".pull")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains(".part"))
        .collect()
}

// ---- the hub ---------------------------------------------------------------------------------

#[test]
fn a_pulled_file_is_verified_and_found_again() {
    let server = Server::with_file(POLITE, &content());
    let cache = tempfile::tempdir().unwrap();
    let store = hub_store(cache.path(), &server);
    let entry = known_entry();
    assert_eq!(store.status(&entry).unwrap(), Status::Missing);
    assert_eq!(store.locate(&entry).unwrap(), None);

    let seen = Mutex::new(Vec::new());
    let located = store
        .pull(&entry, &|event| {
            if let PullEvent::Bytes { done, total } = event {
                assert_eq!(total, Some(FILE_BYTES as u64));
                seen.lock().unwrap().push(done);
            }
        })
        .unwrap();
    assert_eq!(located.path, cache.path().join("tiny.safetensors"));
    assert_eq!(located.path, store.cached_path(&entry));
    assert_eq!(located.bytes, FILE_BYTES as u64);
    assert_eq!(Some(located.sha256), entry.sha256);
    assert_eq!(located.origin, Origin::Cache);
    assert_eq!(fs::read(&located.path).unwrap(), content());
    let seen = seen.into_inner().unwrap();
    assert!(
        seen.is_sorted() && seen.last() == Some(&(FILE_BYTES as u64)),
        "{seen:?}"
    );

    assert_eq!(store.locate(&entry).unwrap(), Some(located.clone()));
    assert_eq!(store.pull(&entry, &quiet).unwrap(), located);
    assert_eq!(server.downloads().len(), 1);
    assert_eq!(
        landed(cache.path()),
        ["tiny.safetensors", "tiny.safetensors.verified.json"]
    );
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    for linked in [false, true] {
        let cut = Manners {
            cut_first_at: Some(100_000),
            linked,
            ..POLITE
        };
        let server = Server::with_file(cut, &content());
        let cache = tempfile::tempdir().unwrap();
        let located = hub_store(cache.path(), &server)
            .pull(&known_entry(), &quiet)
            .unwrap();
        assert_eq!(fs::read(located.path).unwrap(), content());
        let downloads = server.downloads();
        let bodies = downloads
            .iter()
            .filter(|request| linked == request.path.starts_with("/cdn/"));
        let ranges: Vec<_> = bodies.map(|request| request.headers.get("range")).collect();
        assert_eq!(
            ranges,
            [None, Some(&"bytes=100000-".to_owned())],
            "linked: {linked}"
        );
    }
}

#[test]
fn a_cut_download_starts_again_where_ranges_are_not_served() {
    let cut = Manners {
        cut_first_at: Some(100_000),
        ranges: false,
        ..POLITE
    };
    let server = Server::with_file(cut, &content());
    let cache = tempfile::tempdir().unwrap();
    let located = hub_store(cache.path(), &server)
        .pull(&known_entry(), &quiet)
        .unwrap();
    assert_eq!(fs::read(located.path).unwrap(), content());
    assert_eq!(server.downloads().len(), 2);
}

#[test]
fn a_part_of_another_version_is_discarded() {
    let cut = Manners {
        cut_first_at: Some(100_000),
        renews: true,
        linked: true,
        ..POLITE
    };
    let server = Server::with_file(cut, &vec![7; FILE_BYTES]);
    let cache = tempfile::tempdir().unwrap();
    let located = hub_store(cache.path(), &server)
        .pull(&hub_entry(None), &quiet)
        .unwrap();
    assert_eq!(fs::read(located.path).unwrap(), content());
    assert_eq!(parts(cache.path()), Vec::<PathBuf>::new());
    assert!(
        server
            .downloads()
            .iter()
            .all(|request| !request.headers.contains_key("range"))
    );
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = Server::with_file(
        Manners {
            busy_first: true,
            ..POLITE
        },
        &content(),
    );
    let cache = tempfile::tempdir().unwrap();
    let located = hub_store(cache.path(), &server)
        .pull(&known_entry(), &quiet)
        .unwrap();
    assert_eq!(fs::read(located.path).unwrap(), content());
}

#[test]
fn a_wrong_file_does_not_land_in_the_cache() {
    let wanted = ContentHash::of_bytes(b"something else");
    let got = ContentHash::of_bytes(&content());
    // Where the server declares its hash, nothing is even downloaded.
    for (linked, downloads) in [(false, 1), (true, 0)] {
        let server = Server::with_file(Manners { linked, ..POLITE }, &content());
        let cache = tempfile::tempdir().unwrap();
        let store = hub_store(cache.path(), &server);
        let error = store.pull(&hub_entry(Some(wanted)), &quiet).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&wanted.to_string()) && text.contains(&got.to_string()),
            "{text}"
        );
        let attempts = attempts(error);
        assert!(
            matches!(attempts[1], SourceError::WrongContent { .. }),
            "{attempts:?}"
        );
        assert_eq!(server.downloads().len(), downloads);
        assert_eq!(parts(cache.path()), Vec::<PathBuf>::new());
        assert_eq!(landed(cache.path()), Vec::<String>::new());
    }
}

#[test]
fn a_missing_file_is_named_with_its_address() {
    let server = Server::start(POLITE);
    let cache = tempfile::tempdir().unwrap();
    let error = hub_store(cache.path(), &server)
        .pull(&known_entry(), &quiet)
        .unwrap_err();
    let url = format!("{}/owner/repo/resolve/v1/model.bin", server.url());
    assert!(
        error
            .to_string()
            .contains(&format!("{url} does not exist (HTTP 404)")),
        "{error}"
    );
    assert_eq!(landed(cache.path()), Vec::<String>::new());
}

#[test]
fn an_unknown_hash_is_taken_from_the_hub_and_kept() {
    let server = Server::with_file(
        Manners {
            linked: true,
            ..POLITE
        },
        &content(),
    );
    let cache = tempfile::tempdir().unwrap();
    let store = hub_store(cache.path(), &server);
    let entry = hub_entry(None);
    let located = store.pull(&entry, &quiet).unwrap();
    assert_eq!(located.sha256, ContentHash::of_bytes(&content()));

    fs::write(&located.path, "changed").unwrap();
    let damaged = Status::Damaged {
        path: located.path,
        expected: located.sha256,
        found: ContentHash::of_bytes(b"changed"),
        origin: Origin::Cache,
    };
    assert_eq!(store.status(&entry).unwrap(), damaged);
}

#[test]
fn the_first_pull_pins_the_hash_and_later_ones_verify_it() {
    let linked = Manners {
        linked: true,
        ..POLITE
    };
    let server = Server::with_file(linked, &content());
    let cache = tempfile::tempdir().unwrap();
    let store = hub_store(cache.path(), &server);
    let entry = hub_entry(None);
    assert_eq!(store.pin_file(&known_entry()), None, "the registry has it");
    let pin = store.pin_file(&entry).unwrap();
    let located = store.pull(&entry, &quiet).unwrap();
    let line = format!("{}  tiny.safetensors\n", located.sha256);
    assert_eq!(
        fs::read_to_string(&pin).unwrap(),
        line,
        "as sha256sum prints it"
    );

    // The repository's owner, or whoever took it over, puts something else there.
    server.put("owner/repo/resolve/v1/model.bin", b"something else");
    fs::remove_file(&located.path).unwrap();
    let downloads = server.downloads().len();
    let error = store.pull(&entry, &quiet).unwrap_err().to_string();
    for part in [
        located.sha256.to_string(),
        ContentHash::of_bytes(b"something else").to_string(),
        pin.display().to_string(),
    ] {
        assert!(error.contains(&part), "{part}: {error}");
    }
    assert_eq!(server.downloads().len(), downloads, "not even fetched");
    fs::write(&located.path, "something else").unwrap();
    assert!(matches!(store.status(&entry), Ok(Status::Damaged { .. })));

    fs::remove_file(&pin).unwrap();
    let located = store.locate(&entry).unwrap().unwrap();
    assert_eq!(located.sha256, ContentHash::of_bytes(b"something else"));
    assert!(pin.is_file(), "pinned again");
}

#[test]
fn a_file_that_was_exchanged_is_noticed() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let entry = known_entry();
    let path = cache.path().join("tiny.safetensors");
    fs::write(&path, content()).unwrap();
    assert!(matches!(store.status(&entry), Ok(Status::Ready(_))));
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // Of the same size and age.
    let mut other = content();
    other[1000] ^= 1;
    fs::write(&path, other).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert!(matches!(store.verify(&entry), Ok(Status::Damaged { .. })));
    #[cfg(unix)]
    assert!(matches!(store.status(&entry), Ok(Status::Damaged { .. })));
}

#[test]
fn without_any_known_hash_nothing_is_downloaded() {
    let server = Server::with_file(POLITE, &content());
    let cache = tempfile::tempdir().unwrap();
    let error = hub_store(cache.path(), &server)
        .pull(&hub_entry(None), &quiet)
        .unwrap_err();
    let attempts = attempts(error);
    assert!(
        matches!(attempts[1], SourceError::NoDeclaredHash),
        "{attempts:?}"
    );
    assert_eq!(server.downloads().len(), 0);
}

#[test]
fn the_token_is_sent_to_the_hub_alone() {
    let server = Server::with_file(
        Manners {
            linked: true,
            ..POLITE
        },
        &content(),
    );
    let cache = tempfile::tempdir().unwrap();
    let store = store_with(&[
        ("ANOMALENS_CACHE", cache.path()),
        ("HF_ENDPOINT", Path::new(&server.url())),
        ("HF_TOKEN", Path::new("secret")),
    ]);
    store.pull(&known_entry(), &quiet).unwrap();
    for request in server.requests.lock().unwrap().iter() {
        let expected = (!request.path.starts_with("/cdn/")).then(|| "Bearer secret".to_owned());
        assert_eq!(
            request.headers.get("authorization"),
            expected.as_ref(),
            "{request:?}"
        );
    }
}

// ---- on this machine -------------------------------------------------------------------------

#[test]
fn offline_error_says_what_to_do() {
    let models = tempfile::tempdir().unwrap();
    let cache = models.path().join("cache");
    let entry = known_entry();
    for (variable, value, offline) in [
        ("ANOMALENS_OFFLINE", "1", true),
        ("HF_HUB_OFFLINE", "True", true),
        ("HF_HUB_OFFLINE", "0", false),
    ] {
        let store = store_with(&[
            ("ANOMALENS_CACHE", &cache),
            ("ANOMALENS_MODELS", models.path()),
            // Nothing listens on this port.
            ("HF_ENDPOINT", Path::new("http://127.0.0.1:1")),
            (variable, Path::new(value)),
        ]);
        let text = store.pull(&entry, &quiet).unwrap_err().to_string();
        assert_eq!(
            text.contains("not asked"),
            offline,
            "{variable}={value}: {text}"
        );
        if offline {
            let expected = format!(
                "tiny is not on this machine and cannot be fetched:
  - given path {models}: no tiny.safetensors there
  - cache {cache}: no tiny.safetensors there
  - Hugging Face hub, model.bin of owner/repo (v1): not asked, because {variable} is set
Without network: run `anomalens models pull tiny` on a machine that has it, and copy \
tiny.safetensors from the cache there (`anomalens models path tiny`) to {cache}/tiny.safetensors \
here, or into any folder and set ANOMALENS_MODELS to that folder. Its SHA-256 must be {hash}.",
                models = models.path().display(),
                cache = cache.display(),
                hash = entry.sha256.unwrap(),
            );
            assert_eq!(text.replace('\\', "/"), expected.replace('\\', "/"));
        }
    }
}

#[test]
fn a_damaged_file_is_noticed_and_replaced() {
    let server = Server::with_file(POLITE, &content());
    let cache = tempfile::tempdir().unwrap();
    let store = hub_store(cache.path(), &server);
    let entry = known_entry();
    let located = store.pull(&entry, &quiet).unwrap();

    let mut damaged = content();
    damaged[1000] ^= 1;
    fs::write(&located.path, &damaged).unwrap();
    let found = ContentHash::of_bytes(&damaged);
    let expected = located.sha256;
    let path = located.path.clone();
    assert_eq!(
        store.status(&entry).unwrap(),
        Status::Damaged {
            path,
            expected,
            found,
            origin: Origin::Cache
        }
    );
    let text = store.locate(&entry).unwrap_err().to_string();
    assert!(
        text.ends_with("run `anomalens models pull` to fetch it again"),
        "{text}"
    );

    assert_eq!(store.pull(&entry, &quiet).unwrap(), located);
    assert_eq!(fs::read(&located.path).unwrap(), content());
    assert_eq!(server.downloads().len(), 2);
}

#[test]
fn a_file_copied_into_the_cache_is_verified_and_used() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let path = cache.path().join("tiny.safetensors");
    fs::write(&path, content()).unwrap();
    for entry in [known_entry(), hub_entry(None)] {
        assert_eq!(store.locate(&entry).unwrap().unwrap().path, path);
    }
}

#[test]
fn a_given_folder_comes_before_the_cache() {
    for place in [
        "tiny.safetensors",
        "tiny",
        "tiny/tiny.safetensors",
        "tiny/model.bin",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (cache, models) = (folder.path().join("cache"), folder.path().join("models"));
        let given = models.join(place);
        for path in [&cache.join("tiny.safetensors"), &given] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content()).unwrap();
        }
        let store = Store::new(&cache).given(&models);
        let located = store.pull(&known_entry(), &quiet).unwrap();
        assert_eq!(
            (located.path, located.origin),
            (given, Origin::Given),
            "{place}"
        );
        assert_eq!(
            fs::read_dir(&models).unwrap().count(),
            1,
            "nothing is written there"
        );
    }
}

#[test]
fn a_wrong_file_in_a_given_folder_is_refused_but_one_named_outright_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, models) = (folder.path().join("cache"), folder.path().join("models"));
    let given = models.join("tiny.safetensors");
    fs::create_dir(&models).unwrap();
    fs::write(&given, "my own").unwrap();

    let error = Store::new(&cache)
        .given(&models)
        .pull(&known_entry(), &quiet)
        .unwrap_err();
    assert!(
        matches!(
            error,
            WeightsError::WrongContent {
                origin: Origin::Given,
                ..
            }
        ),
        "{error}"
    );

    let store = Store::new(&cache).given(&given);
    for content in ["my own", "my own, changed"] {
        fs::write(&given, content).unwrap();
        let located = store.pull(&known_entry(), &quiet).unwrap();
        assert_eq!(located.path, given);
        assert_eq!(located.sha256, ContentHash::of_bytes(content.as_bytes()));
    }

    let missing = models.join("nowhere");
    let error = Store::new(&cache)
        .given(&missing)
        .locate(&known_entry())
        .unwrap_err();
    assert!(
        matches!(&error, WeightsError::GivenPathMissing { path } if *path == missing),
        "{error}"
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let error = Store::new(blocked.join("cache"))
        .pull(&known_entry(), &quiet)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!(
        "cannot write to the cache folder {}",
        blocked.display()
    )));
    assert!(
        text.ends_with("set ANOMALENS_CACHE to a folder that can be written"),
        "{text}"
    );
}

// ---- several at once -------------------------------------------------------------------------

#[test]
fn threads_that_pull_at_once_download_once() {
    let slow = Manners {
        delay: Duration::from_millis(300),
        ..POLITE
    };
    let server = Server::with_file(slow, &content());
    let cache = tempfile::tempdir().unwrap();
    let pull = || {
        hub_store(cache.path(), &server)
            .pull(&known_entry(), &quiet)
            .unwrap()
    };
    let located: Vec<_> = thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(
        located.iter().all(|other| *other == located[0]),
        "{located:?}"
    );
    assert_eq!(server.downloads().len(), 1);
}

/// Runs itself as the two processes; this variable says what to pull from where.
#[test]
fn processes_that_pull_at_once_download_once() {
    const TASK: &str = "ANOMALENS_TEST_PULL";
    if let Ok(task) = std::env::var(TASK) {
        let (url, cache) = task.split_once(' ').unwrap();
        let store = store_with(&[
            ("ANOMALENS_CACHE", Path::new(cache)),
            ("HF_ENDPOINT", Path::new(url)),
        ]);
        store.pull(&known_entry(), &quiet).unwrap();
        return;
    }
    let slow = Manners {
        delay: Duration::from_millis(300),
        ..POLITE
    };
    let server = Server::with_file(slow, &content());
    let cache = tempfile::tempdir().unwrap();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes_that_pull_at_once_download_once"])
            .env(TASK, format!("{} {}", server.url(), cache.path().display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    for mut process in [start(), start()] {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(
        fs::read(cache.path().join("tiny.safetensors")).unwrap(),
        content()
    );
    assert_eq!(server.downloads().len(), 1);
}

// ---- Python packages -------------------------------------------------------------------------

#[cfg(unix)]
mod python {
    use super::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// "Downloads" the wheel that lies beside it, and writes down how it was called.
    const FAKE_PYTHON: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
case "$*" in
    "-m pip --version") exit 0 ;;
esac
while [ $# -gt 0 ]; do
    if [ "$1" = -d ]; then
        cp "$here"/*.whl "$2" && exit 0
        echo "ERROR: No matching distribution found" >&2
        exit 1
    fi
    shift
done
"#;

    struct Package {
        folder: TempDir,
        wheel_sha256: ContentHash,
    }

    impl Package {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut wheel = ZipWriter::new(std::io::Cursor::new(Vec::new()));
            for (name, content) in files {
                wheel
                    .start_file(*name, SimpleFileOptions::default())
                    .unwrap();
                wheel.write_all(content).unwrap();
            }
            let mut wheel = wheel.finish().unwrap().into_inner();
            // The writer makes no unsafe names: `UP` stands for `..`.
            for i in 0..wheel.len() - 2 {
                if wheel[i..].starts_with(b"/UP/") {
                    wheel[i + 1..i + 3].copy_from_slice(b"..");
                }
            }
            fs::write(folder.path().join("pkg-1.0-py3-none-any.whl"), &wheel).unwrap();
            // Written by another process: a program still open for writing here could not be run.
            let mut writer = Command::new("sh")
                .args(["-c", "cat > python3 && chmod +x python3"])
                .current_dir(&folder)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            writer
                .stdin
                .take()
                .unwrap()
                .write_all(FAKE_PYTHON.as_bytes())
                .unwrap();
            assert!(writer.wait().unwrap().success());
            Self {
                folder,
                wheel_sha256: ContentHash::of_bytes(&wheel),
            }
        }

        fn store(&self) -> Store {
            Store::new(self.cache()).python(self.folder.path().join("python3"))
        }

        fn cache(&self) -> PathBuf {
            self.folder.path().join("cache")
        }

        fn file_entry(&self, sha256: ContentHash) -> Entry {
            self.entry(
                &format!(r#""format": "onnx", "sha256": "{sha256}""#),
                "pkg/net.onnx",
            )
        }

        fn folder_entry(&self, more: &str) -> Entry {
            self.entry(&format!(r#""format": "folder"{more}"#), "pkg/data")
        }

        fn entry(&self, fields: &str, member: &str) -> Entry {
            entry(&format!(
                r#"{{ "name": "tiny", "kind": "data", "family": "f", "description": "d",
                    "file": "tiny.it", {fields}, "licence": "MIT",
                    "sources": [{{ "python": {{ "package": "pkg", "version": "1.0",
                        "member": "{member}", "wheel_sha256": "{}" }} }}] }}"#,
                self.wheel_sha256
            ))
        }

        fn pull_error(&self, entry: &Entry) -> SourceError {
            let error = self.store().pull(entry, &quiet).unwrap_err();
            assert_eq!(landed(&self.cache()), Vec::<String>::new());
            attempts(error).pop().unwrap()
        }
    }

    #[test]
    fn a_file_is_taken_out_of_a_wheel() {
        let package = Package::new(&[("pkg/__init__.py", b""), ("pkg/net.onnx", b"weights")]);
        let located = package
            .store()
            .pull(
                &package.file_entry(ContentHash::of_bytes(b"weights")),
                &quiet,
            )
            .unwrap();
        assert_eq!(fs::read(&located.path).unwrap(), b"weights");
        assert_eq!(
            landed(&package.cache()),
            ["tiny.it", "tiny.it.verified.json"]
        );
        let calls = fs::read_to_string(package.folder.path().join("calls")).unwrap();
        let download = calls.lines().last().unwrap();
        assert!(
            download.starts_with("-m pip download --no-deps --only-binary=:all: "),
            "{calls}"
        );
        assert!(download.ends_with(" pkg==1.0"), "{calls}");
    }

    #[test]
    fn a_folder_is_taken_out_of_a_wheel_and_watched() {
        let package = Package::new(&[
            ("pkg/data/labels.csv", b"labels"),
            ("pkg/data/images/1.png", b"one"),
            ("pkg/database/other", b"not of the folder"),
        ]);
        let entry = package.folder_entry("");
        let store = package.store();
        let located = store.pull(&entry, &quiet).unwrap();
        assert_eq!(located.bytes, 9);
        assert_eq!(landed(&located.path), ["images", "labels.csv"]);
        assert_eq!(fs::read(located.path.join("images/1.png")).unwrap(), b"one");
        assert_eq!(
            store.status(&entry).unwrap(),
            Status::Ready(located.clone())
        );

        fs::remove_file(located.path.join("images/1.png")).unwrap();
        assert!(matches!(
            store.status(&entry).unwrap(),
            Status::Damaged { .. }
        ));
        assert_eq!(store.pull(&entry, &quiet).unwrap().sha256, located.sha256);
        assert_eq!(fs::read(located.path.join("images/1.png")).unwrap(), b"one");
    }

    #[test]
    fn a_member_that_leads_out_of_the_folder_is_refused() {
        for member in [
            "pkg/data/UP/UP/UP/evil",
            "pkg/data/images/UP/UP/UP/evil",
            "pkg/data//evil",
        ] {
            let package = Package::new(&[("pkg/data/labels.csv", b"labels"), (member, b"evil")]);
            let error = package.pull_error(&package.folder_entry(""));
            assert!(
                matches!(error, SourceError::UnsafeMember { .. }),
                "{member}: {error}"
            );
            assert!(!package.cache().join("evil").exists());
            assert!(!package.cache().join(".pull/evil").exists());
        }
    }

    #[test]
    fn wrong_wheels_are_refused() {
        let package = Package::new(&[("pkg/net.onnx", b"weights"), ("pkg/data/a", b"12345")]);
        let hash = ContentHash::of_bytes(b"weights");

        let error = package.pull_error(&package.file_entry(ContentHash::of_bytes(b"other")));
        assert!(matches!(error, SourceError::WrongContent { found, .. } if found == hash));

        let too_large = package.folder_entry(r#", "bytes": 4"#);
        let error = package.pull_error(&too_large);
        assert!(
            matches!(
                error,
                SourceError::WrongSize {
                    expected: 4,
                    found: 5,
                    ..
                }
            ),
            "{error}"
        );

        let absent = package.entry(r#""format": "folder""#, "pkg/nothing");
        let error = package.pull_error(&absent);
        assert!(
            error.to_string().contains("no files in pkg/nothing"),
            "{error}"
        );

        let mut entry = package.file_entry(hash);
        let Source::Python(source) = &mut entry.sources[0] else {
            panic!("a Python source")
        };
        source.wheel_sha256 = hash;
        let error = package.pull_error(&entry);
        assert!(matches!(error, SourceError::WrongContent { expected, .. } if expected == hash));
    }

    #[test]
    fn failing_and_missing_pythons_are_told() {
        let package = Package::new(&[("pkg/net.onnx", b"weights")]);
        let entry = package.file_entry(ContentHash::of_bytes(b"weights"));
        fs::remove_file(package.folder.path().join("pkg-1.0-py3-none-any.whl")).unwrap();
        assert_eq!(
            package.pull_error(&entry).to_string(),
            "`pip download pkg==1.0` failed: ERROR: No matching distribution found"
        );

        let store = package.store().python("/nowhere/python3");
        let error = attempts(store.pull(&entry, &quiet).unwrap_err())
            .pop()
            .unwrap();
        assert!(matches!(error, SourceError::NoPython { tried } if tried == "/nowhere/python3"));
    }
}

// ---- the registry ----------------------------------------------------------------------------

#[test]
fn the_registry_is_complete() {
    let registry = Registry::builtin();
    for name in [
        "dinov2-small",
        "dinov2-base",
        "dinov2-large",
        "dinov2-giant",
        "clip-vit-b32",
        "clip-vit-b16",
        "clip-vit-b16-plus-240",
        "clip-vit-l14",
        "clip-vit-l14-336",
        "clip-vit-h14",
    ] {
        let entry = registry.find(name).unwrap();
        assert_eq!(entry.kind, Kind::Backbone, "{name}");
        assert_ne!(entry.format, Format::Folder, "{name}");
        assert_eq!(entry.activation.is_some(), entry.family == "clip", "{name}");
    }
    for name in ["elpv", "textile"] {
        let entry = registry.find(name).unwrap();
        assert_eq!((entry.kind, entry.format), (Kind::Data, Format::Folder));
    }
    // The hash that the reference outputs were made with.
    assert_eq!(
        registry
            .find("dinov2-s-focus")
            .unwrap()
            .sha256
            .unwrap()
            .to_string(),
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
    );
    for entry in registry.entries() {
        assert!(
            !entry.description.is_empty() && !entry.family.is_empty(),
            "{}",
            entry.name
        );
        // What has a hash stays as it is: its revision is a commit, and its size is known.
        let name = &entry.name;
        assert_eq!(entry.sha256.is_some(), entry.bytes.is_some(), "{name}");
        let Source::Hub(file) = &entry.sources[0] else {
            assert!(entry.sha256.is_some(), "{name}");
            continue;
        };
        let commit = file.revision.len() == 40;
        assert_eq!(commit, entry.sha256.is_some(), "{name}: {}", file.revision);
    }
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    for (name, nearest) in [
        ("dinov2-smal", Some("dinov2-small")),
        ("DINOv2-large", Some("dinov2-large")),
        ("dinov2_focus", Some("dinov2-s-focus")),
        ("elvp", Some("elpv")),
        ("xyz", None),
    ] {
        match Registry::builtin().find(name).unwrap_err() {
            WeightsError::UnknownName { nearest: found, .. } => {
                assert_eq!(found.as_deref(), nearest, "{name}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_wrong_registry_is_refused() {
    let right = r#"{ "name": "a", "kind": "data", "family": "f", "description": "d", "file": "a.x",
        "format": "pth", "licence": "MIT",
        "sources": [{ "hub": { "repo": "o/r", "revision": "main", "path": "p" } }] }"#;
    let parse = |entries: &str| Registry::parse(&format!(r#"{{ "entries": [{entries}] }}"#));
    parse(right).unwrap();
    for (entries, reason) in [
        (format!("{right}, {right}"), "occurs twice"),
        (
            format!("{right}, {}", right.replace(r#""a""#, r#""b""#)),
            "occurs twice",
        ),
        (right.replace("a.x", "../a.x"), "not a plain file name"),
        (right.replace("a.x", "/a.x"), "not a plain file name"),
        (right.replace("a.x", ".pull"), "not a plain file name"),
        (right.replace("MIT", ""), "has no licence"),
        (
            right.replace(
                r#"{ "hub": { "repo": "o/r", "revision": "main", "path": "p" } }"#,
                "",
            ),
            "has no source",
        ),
        (
            right.replace(r#""licence""#, r#""sha256": "12", "licence""#),
            "64 hexadecimal digits",
        ),
        (
            right.replace("licence", "license"),
            "unknown field `license`",
        ),
    ] {
        let text = parse(&entries).unwrap_err().to_string();
        assert!(text.contains(reason), "{entries}: {text}");
    }
}
