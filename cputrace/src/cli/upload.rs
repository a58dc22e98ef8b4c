//! `cputrace upload`: a recording to a server that keeps it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ureq::http::header;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use crate::client::{self, Address};

/// The most that a server takes.
const MAX_BYTES: u64 = 64 << 20;

/// How long a server that is there may take to answer.
const ANSWER_TIME: Duration = Duration::from_mins(2);

/// How long it may take to take a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// No file has this line, as far as anybody can tell.
const BOUNDARY: &str = "cputrace-8e1f0c7a5b3d49e2a6f4";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A trace.json, a pprof profile, folded stacks or the output of perf script, plain or compressed; - is standard input
    file: PathBuf,
    /// The server, for example http://localhost:9797, with user:password@ before the host where it asks for that
    #[arg(long, value_name = "URL")]
    to: String,
    /// The user, where the URL does not tell
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A file with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A file with the certificate that the server's is signed by, where the system does not know it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the recording is kept under [default: the file's]
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let wrong = || anyhow!("{:?} is no address of a server: give one such as http://localhost:9797", args.to);
    let address = Address::parse(&args.to).ok_or_else(wrong)?;
    let authorization = authorization(args, &address)?;
    let file = read(&args.file)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None if args.file == Path::new("-") => "standard input".to_owned(),
        None => args.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let url = format!("{}/api/traces", address.url.trim_end_matches('/'));
    let mut request = agent(args.ca.as_deref())?
        .post(&url)
        .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"));
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let mut response = request.send(form(&name, &file)).map_err(|error| anyhow!("{url}: {error}"))?;
    let status = response.status();
    let body = response.body_mut().read_to_string().unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    match (status.as_u16(), answer["id"].as_str(), answer["detail"].as_str()) {
        (201, Some(id), _) => {
            let _ = writeln!(io::stdout(), "{url}/{id}");
            Ok(ExitCode::SUCCESS)
        }
        (401, ..) => bail!("{url}: the server asks for a user and a password: give --user and --password-file"),
        (_, _, Some(detail)) => bail!("{url}: {detail}"),
        _ => bail!("{url} answered {status}, not as cputrace serve does: is this its address?"),
    }
}

fn authorization(args: &Args, address: &Address) -> anyhow::Result<Option<String>> {
    let Some(user) = &args.user else { return Ok(address.authorization.clone()) };
    let Some(path) = &args.password_file else { bail!("--user needs --password-file") };
    let password = std::fs::read_to_string(path)
        .with_context(|| format!("the password file {} cannot be read", path.display()))?;
    Ok(Some(client::basic(user, password.trim_end_matches(['\n', '\r']))))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{} is larger than {} MB, which no server takes: compress it with zstd", path.display(), MAX_BYTES >> 20);
    }
    Ok(bytes)
}

/// The form that the ancestor had, with the field `file`.
fn form(name: &str, file: &[u8]) -> Vec<u8> {
    // What a name cannot have in a form.
    let name: String =
        name.chars().map(|char| if char.is_control() || char == '"' || char == '\\' { '_' } else { char }).collect();
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         content-type: application/octet-stream\r\n\r\n"
    );
    [head.as_bytes(), file, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}

fn agent(ca: Option<&Path>) -> anyhow::Result<ureq::Agent> {
    let roots = match ca {
        None => RootCerts::PlatformVerifier,
        Some(path) => {
            let pem =
                std::fs::read(path).with_context(|| format!("the certificate {} cannot be read", path.display()))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let certificates: Vec<Certificate<'static>> = certificates.collect();
            anyhow::ensure!(!certificates.is_empty(), "there is no certificate in {}", path.display());
            RootCerts::Specific(Arc::new(certificates))
        }
    };
    let config = client::agent_that_trusts(roots).timeout_connect(Some(CONNECT_TIME)).timeout_global(Some(ANSWER_TIME));
    Ok(config.build().new_agent())
}
