//! Debug information from the network: by build id, from servers that speak debuginfod.
//!
//! Off unless `DEBUGINFOD_URLS` is set, and asked only after the recording, for files that nothing on this machine has
//! the debug information of. The cache and the variables are those of elfutils' own client (`debuginfod_find_debuginfo(3)`),
//! and so gdb and we fetch a file once for both. The cache is not cleaned here: elfutils' client does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use ureq::Agent;

use super::debug_file::has_build_id;
use super::file::open_regular;
use crate::client;
use crate::model::BuildId;

/// A server that does not answer a connection for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the caller is asked whether to go on.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What is read of an answer at once.
const READ_BYTES: usize = 64 << 10;

/// What the environment asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Servers, in the order in which they are asked.
    pub urls: Vec<String>,
    /// The folder of files that were fetched before; `None` where there is no place for one.
    pub cache: Option<PathBuf>,
    /// How long a server may send nothing.
    pub timeout: Duration,
    /// How long one file may take.
    pub max_time: Duration,
    /// The largest file that is fetched.
    pub max_bytes: u64,
    /// How long a file that no server had is not asked for again.
    pub missing_for: Duration,
}

impl Settings {
    /// Reads the environment; `None` unless it names a server.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str| variable(name)?.trim().parse::<u64>().ok().filter(|&number| number > 0);
        let seconds = |name: &str, default| Duration::from_secs(number(name).unwrap_or(default));
        let urls = variable("DEBUGINFOD_URLS")?;
        // Words such as `ima:enforcing` say how much to trust the servers that follow.
        let urls =
            urls.split_ascii_whitespace().filter(|url| url.starts_with("http://") || url.starts_with("https://"));
        let urls: Vec<String> = urls.map(|url| url.trim_end_matches('/').to_owned()).collect();
        let cache = variable("DEBUGINFOD_CACHE_PATH").map(PathBuf::from).or_else(|| {
            let user = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let user = user.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
            Some(user.join("debuginfod_client"))
        });
        (!urls.is_empty()).then(|| Self {
            urls,
            cache,
            timeout: seconds("DEBUGINFOD_TIMEOUT", 90),
            max_time: seconds("DEBUGINFOD_MAXTIME", 600),
            max_bytes: number("DEBUGINFOD_MAXSIZE").unwrap_or(2 << 30),
            missing_for: Duration::from_secs(600),
        })
    }
}

/// Asks servers, and remembers which of them are not there.
#[derive(Debug)]
pub struct Debuginfod {
    settings: Settings,
    agent: Agent,
    servers: Vec<Server>,
}

/// One of [`Settings::urls`].
#[derive(Debug)]
struct Server {
    url: String,
    /// Why it is not asked any more.
    gone: Option<String>,
    /// Files that it failed to send, and why the last one.
    failed: u32,
    last_failure: String,
}

/// Why a server did not send a file.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("it does not have the file")]
    Missing,
    /// It will have no other file either.
    #[error("{0}")]
    Unreachable(ureq::Error),
    #[error("{0}")]
    Http(ureq::Error),
    #[error("it answered with HTTP status {0}")]
    Status(u16),
    #[error("the file is larger than {0} bytes, DEBUGINFOD_MAXSIZE")]
    TooLarge(u64),
    #[error("it sent a file that belongs to another program")]
    Foreign,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it was not waited for")]
    Stopped,
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> Self {
        use ureq::{Error, Timeout};
        match error {
            Error::HostNotFound
            | Error::ConnectionFailed
            | Error::BadUri(_)
            | Error::Tls(_)
            | Error::Rustls(_)
            | Error::InvalidProxyUrl
            | Error::ConnectProxyFailed(_)
            | Error::Timeout(Timeout::Resolve | Timeout::Connect) => Self::Unreachable(error),
            Error::Io(ref io) if io.kind() == io::ErrorKind::ConnectionRefused => Self::Unreachable(error),
            _ => Self::Http(error),
        }
    }
}

impl Debuginfod {
    /// A client; it asks nothing yet.
    pub fn new(settings: Settings) -> Self {
        let agent = client::agent()
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(settings.timeout))
            .timeout_global(Some(settings.max_time))
            .build()
            .new_agent();
        let servers = settings.urls.iter().map(|url| Server {
            url: url.clone(),
            gone: None,
            failed: 0,
            last_failure: String::new(),
        });
        Self { servers: servers.collect(), agent, settings }
    }

    /// The file with the debug information of the file with this build id. Gives up when `stopped` says so.
    pub fn find(&mut self, build_id: &BuildId, stopped: &dyn Fn() -> bool) -> Option<File> {
        let folder = self.settings.cache.as_ref()?.join(build_id.to_string());
        let path = folder.join("debuginfo");
        if let Some(file) = open_regular(&path) {
            let meta = file.metadata().ok()?;
            if meta.size() > 0 {
                return has_build_id(&file, build_id).then_some(file);
            }
            // What elfutils leaves for a file that no server had.
            let age = meta.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
            if age.is_some_and(|age| age < self.settings.missing_for) {
                return None;
            }
        }
        let mut all_miss_it = true;
        for server in &mut self.servers {
            if server.gone.is_some() || stopped() {
                all_miss_it = false;
                continue;
            }
            let url = format!("{}/buildid/{build_id}/debuginfo", server.url);
            match fetch(&self.agent, &url, &path, build_id, self.settings.max_bytes, stopped) {
                Ok(()) => return open_regular(&path),
                Err(FetchError::Missing) => continue,
                Err(FetchError::Stopped) => {}
                Err(FetchError::Unreachable(error)) => server.gone = Some(error.to_string()),
                Err(error) => {
                    server.failed += 1;
                    server.last_failure = error.to_string();
                }
            }
            all_miss_it = false;
        }
        if all_miss_it {
            // Not even worth a sentence: then it is asked for again next time.
            let _ = fs::create_dir_all(&folder).and_then(|()| File::create(&path).map(drop));
        }
        None
    }

    /// What went wrong, a sentence for each server.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.servers.iter().filter_map(|Server { url, gone, failed, last_failure }| {
            if let Some(error) = gone {
                Some(format!(
                    "the debuginfod server {url} cannot be reached ({error}): names that only it knows are missing; \
                     see DEBUGINFOD_URLS"
                ))
            } else if *failed > 0 {
                Some(format!(
                    "the debuginfod server {url} did not send {failed} files ({last_failure}): names that only it \
                     knows are missing; record again to ask it again"
                ))
            } else {
                None
            }
        });
        notes.collect()
    }
}

/// Fetches a file to a path. By a thread of its own, for nothing else can leave a server that is slow.
fn fetch(
    agent: &Agent,
    url: &str,
    path: &Path,
    build_id: &BuildId,
    max_bytes: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<(), FetchError> {
    let (send, receive) = mpsc::channel();
    let given_up = Arc::new(AtomicBool::new(false));
    let download = Download {
        agent: agent.clone(),
        url: url.to_owned(),
        path: path.to_owned(),
        build_id: build_id.clone(),
        max_bytes,
        given_up: given_up.clone(),
    };
    std::thread::Builder::new().name("debuginfod".to_owned()).spawn(move || send.send(download.run()))?;
    loop {
        match receive.recv_timeout(POLL_INTERVAL) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if stopped() => {
                given_up.store(true, Ordering::Relaxed);
                return Err(FetchError::Stopped);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(FetchError::Stopped),
        }
    }
}

/// One file on its way.
struct Download {
    agent: Agent,
    url: String,
    path: PathBuf,
    build_id: BuildId,
    max_bytes: u64,
    /// Nobody waits for it any more.
    given_up: Arc<AtomicBool>,
}

impl Download {
    fn run(self) -> Result<(), FetchError> {
        let mut answer = self.agent.get(&self.url).call()?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Err(FetchError::Missing),
            status => return Err(FetchError::Status(status)),
        }
        if answer.body().content_length().is_some_and(|length| length > self.max_bytes) {
            return Err(FetchError::TooLarge(self.max_bytes));
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Others see the file whole or not at all.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; READ_BYTES];
        let mut bytes = 0;
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(FetchError::Stopped);
            }
            let count = body.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            if bytes > self.max_bytes {
                return Err(FetchError::TooLarge(self.max_bytes));
            }
            file.write_all(&buffer[..count])?;
        }
        if !has_build_id(file.as_file(), &self.build_id) {
            return Err(FetchError::Foreign);
        }
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}
