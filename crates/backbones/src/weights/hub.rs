//! Downloads from the Hugging Face hub, or a mirror of it.
//!
//! Not by the crate hf-hub. Version 0.5 (on ureq) follows redirects from https to http, sends the
//! token to the servers that the hub redirects to, has no timeouts, appends a whole file to a part
//! where a server ignores the range, and panics on a redirect without an address. Version 1.0 brings
//! tokio, reqwest, aws-lc and the hub's Xet client, some 280 crates, and resumes nothing.
//!
//! The hub answers for a large file with a redirect whose `x-linked-etag` is the file's SHA-256, so
//! redirects are followed by hand until that header is seen. A broken download resumes where it
//! stopped: its part is named after the file's etag, so parts of other versions never mix.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use super::error::SourceError;
use super::pull::PullEvent;
use super::registry::{Entry, HubFile};
use anomalens_base::ContentHash;

const PUBLIC_ENDPOINT: &str = "https://huggingface.co";
const USER_AGENT: &str = concat!("anomalens/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that gives nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: u32 = 10;
const TRIES: u32 = 5;
/// Before the second try; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const READ_BUFFER_BYTES: usize = 1 << 16;

pub(super) struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: Agent,
}

/// What the hub says about a file.
struct Remote {
    url: String,
    /// Changes when the content changes.
    etag: Option<String>,
    sha256: Option<ContentHash>,
    bytes: Option<u64>,
}

impl Hub {
    pub(super) fn new(endpoint: Option<String>, token: Option<String>) -> Self {
        let endpoint = endpoint.as_deref().unwrap_or(PUBLIC_ENDPOINT);
        let agent = Agent::config_builder()
            .user_agent(USER_AGENT)
            // What begins encrypted stays so: no redirect leads to plain HTTP.
            .https_only(endpoint.starts_with("https://"))
            .http_status_as_error(false)
            .max_redirects(MOST_REDIRECTS)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .build()
            .new_agent();
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            agent,
        }
    }

    /// Downloads `file`, whose hash is `expected` if one is known, into the folder `work`. Gives its
    /// path there, and the hash to verify.
    pub(super) fn download(
        &self,
        file: &HubFile,
        entry: &Entry,
        expected: Option<ContentHash>,
        work: &Path,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<(PathBuf, ContentHash), SourceError> {
        let mut tries = 1;
        loop {
            match self.download_once(file, entry, expected, work, progress) {
                Err(error) if error.is_transient() && tries < TRIES => {
                    sleep(FIRST_PAUSE * 2_u32.pow(tries - 1));
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn download_once(
        &self,
        file: &HubFile,
        entry: &Entry,
        expected: Option<ContentHash>,
        work: &Path,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<(PathBuf, ContentHash), SourceError> {
        let HubFile {
            repo,
            revision,
            path,
        } = file;
        let remote = self.ask(format!(
            "{}/{repo}/resolve/{revision}/{path}",
            self.endpoint
        ))?;
        let expected = expected
            .or(remote.sha256)
            .ok_or(SourceError::NoDeclaredHash)?;
        // Better to know before gigabytes are fetched.
        if let Some(found) = remote.sha256.filter(|found| *found != expected) {
            return Err(SourceError::WrongContent {
                what: remote.url,
                expected,
                found,
            });
        }
        if let (Some(expected), Some(found)) = (entry.bytes, remote.bytes)
            && expected != found
        {
            return Err(SourceError::WrongSize {
                what: remote.url,
                expected,
                found,
            });
        }
        let part = self.part_file(entry, &remote, work)?;
        self.transfer(&remote, &part, progress)?;
        Ok((part, expected))
    }

    /// Asks for the headers of `url`.
    fn ask(&self, mut url: String) -> Result<Remote, SourceError> {
        for _ in 0..=MOST_REDIRECTS {
            let request = self.authorised(self.agent.head(&url), &url);
            let response = request
                .config()
                .max_redirects(0)
                .build()
                .call()
                .map_err(|error| network_error(&url, &error))?;
            let headers = response.headers();
            let linked = text(headers, "x-linked-etag");
            let status = response.status();
            if status.is_redirection() && linked.is_none() {
                url = redirect_target(&url, headers)?;
            } else if status.is_success() || status.is_redirection() {
                let size = if linked.is_some() {
                    "x-linked-size"
                } else {
                    "content-length"
                };
                let etag = linked
                    .or(text(headers, "etag"))
                    .filter(|etag| !etag.starts_with("W/"));
                let etag = etag.map(|etag| etag.trim_matches('"'));
                return Ok(Remote {
                    sha256: linked.and_then(|_| etag?.parse().ok()),
                    etag: etag.map(str::to_owned),
                    bytes: text(headers, size).and_then(|size| size.parse().ok()),
                    url,
                });
            } else {
                return Err(status_error(url, status.as_u16()));
            }
        }
        Err(SourceError::Network {
            url,
            reason: "too many redirects".to_owned(),
            transient: false,
        })
    }

    /// The file that collects the download, without what other versions left behind.
    fn part_file(
        &self,
        entry: &Entry,
        remote: &Remote,
        work: &Path,
    ) -> Result<PathBuf, SourceError> {
        let prefix = format!("{}.part-", entry.file);
        // An etag is the server's text: hashed, it is a safe file name.
        let version = remote
            .etag
            .as_ref()
            .map(|etag| ContentHash::of_bytes(etag.as_bytes()));
        let name = format!(
            "{prefix}{}",
            version.map(|hash| hash.to_string()).unwrap_or_default()
        );
        for other in fs::read_dir(work).map_err(SourceError::io(work))?.flatten() {
            let other_name = other.file_name().to_string_lossy().into_owned();
            // Without an etag nothing says whether the part is of this version.
            if other_name.starts_with(&prefix) && (other_name != name || version.is_none()) {
                fs::remove_file(other.path()).map_err(SourceError::io(other.path()))?;
            }
        }
        Ok(work.join(name))
    }

    /// Fetches what `part` lacks of `remote`.
    fn transfer(
        &self,
        remote: &Remote,
        part: &Path,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<(), SourceError> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(part)
            .map_err(SourceError::io(part))?;
        let mut done = file.seek(SeekFrom::End(0)).map_err(SourceError::io(part))?;
        if done > 0 && remote.bytes == Some(done) {
            return Ok(());
        }
        let mut response = self.get(remote, done)?;
        if done > 0 && !continues_at(&response, done) {
            if response.status() != 200 {
                response = self.get(remote, 0)?;
            }
            file.set_len(0).map_err(SourceError::io(part))?;
            done = file
                .seek(SeekFrom::Start(0))
                .map_err(SourceError::io(part))?;
        }
        if !response.status().is_success() {
            return Err(status_error(remote.url.clone(), response.status().as_u16()));
        }

        let broken = |reason: String| SourceError::Network {
            url: remote.url.clone(),
            reason,
            transient: true,
        };
        // One byte more than declared shows that an answer is too long.
        let most = remote
            .bytes
            .map_or(u64::MAX, |total| total.saturating_sub(done) + 1);
        let mut body = response.body_mut().as_reader().take(most);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            progress(PullEvent::Bytes {
                done,
                total: remote.bytes,
            });
            let read = body
                .read(&mut buffer)
                .map_err(|error| broken(error.to_string()))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read])
                .map_err(SourceError::io(part))?;
            done += read as u64;
        }
        if let Some(total) = remote.bytes.filter(|total| *total != done) {
            return Err(broken(format!("{done} bytes came, {total} were declared")));
        }
        file.sync_all().map_err(SourceError::io(part))
    }

    /// Asks for the content from byte `start` on.
    fn get(&self, remote: &Remote, start: u64) -> Result<Response<Body>, SourceError> {
        let mut request = self.authorised(self.agent.get(&remote.url), &remote.url);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        request
            .call()
            .map_err(|error| network_error(&remote.url, &error))
    }

    /// The token goes to the hub alone: ureq drops it on a redirect, this does for our own.
    fn authorised(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
    ) -> RequestBuilder<WithoutBody> {
        // Compressed answers would have other sizes and ranges.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let is_hub = url
            .strip_prefix(&self.endpoint)
            .is_some_and(|rest| rest.starts_with('/'));
        match &self.token {
            Some(token) if is_hub => {
                request.header(header::AUTHORIZATION, format!("Bearer {token}"))
            }
            _ => request,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn continues_at(response: &Response<Body>, start: u64) -> bool {
    let range = text(response.headers(), "content-range");
    response.status() == 206
        && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// The address that a redirect from `url` leads to: full, or a path on the same server.
fn redirect_target(url: &str, headers: &HeaderMap) -> Result<String, SourceError> {
    let wrong = |reason: &str| SourceError::Network {
        url: url.to_owned(),
        reason: reason.to_owned(),
        transient: false,
    };
    let target = text(headers, "location").ok_or_else(|| wrong("a redirect leads nowhere"))?;
    if !target.starts_with('/') {
        return Ok(target.to_owned());
    }
    let from: Uri = url.parse().map_err(|_| wrong("the address is not valid"))?;
    match (from.scheme_str(), from.authority()) {
        (Some(scheme), Some(authority)) => Ok(format!("{scheme}://{authority}{target}")),
        _ => Err(wrong("the address is not valid")),
    }
}

fn status_error(url: String, status: u16) -> SourceError {
    match status {
        401 | 403 => SourceError::Refused { url, status },
        404 => SourceError::NotFound { url },
        _ => SourceError::Status { url, status },
    }
}

fn network_error(url: &str, error: &ureq::Error) -> SourceError {
    use std::io::ErrorKind as Io;
    use ureq::Timeout::{Connect, Resolve};
    // A server that cannot be found or connected to will not be there a second later either.
    let transient = match error {
        ureq::Error::Io(error) => matches!(
            error.kind(),
            Io::BrokenPipe | Io::ConnectionAborted | Io::ConnectionReset | Io::UnexpectedEof
        ),
        ureq::Error::Timeout(stage) => !matches!(stage, Connect | Resolve),
        _ => false,
    };
    SourceError::Network {
        url: url.to_owned(),
        reason: error.to_string(),
        transient,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_begins_encrypted_is_not_continued_in_plain_http() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        // As if the hub had redirected there.
        for endpoint in [None, Some("https://mirror.example".to_owned())] {
            let hub = Hub::new(endpoint, None);
            let remote = Remote {
                url: url.clone(),
                etag: None,
                sha256: None,
                bytes: None,
            };
            for error in [
                hub.ask(url.clone()).err().unwrap(),
                hub.get(&remote, 0).err().unwrap(),
            ] {
                let wrong = matches!(
                    &error,
                    SourceError::Network {
                        transient: false,
                        ..
                    }
                );
                assert!(wrong && error.to_string().contains("https"), "{error}");
            }
        }
        assert!(listener.accept().is_err(), "nobody called");
    }

    #[test]
    fn redirects_lead_to_full_addresses_or_to_paths_of_the_same_server() {
        let from = "https://hub.example/owner/file";
        for (location, expected) in [
            (Some("https://cdn.example/x"), Some("https://cdn.example/x")),
            (Some("/x?y=z"), Some("https://hub.example/x?y=z")),
            (None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = location {
                headers.insert("location", value.parse().unwrap());
            }
            let found = redirect_target(from, &headers).ok();
            assert_eq!(found.as_deref(), expected, "{location:?}");
        }
    }
}
