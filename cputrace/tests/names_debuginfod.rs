//! Debug information from the network: a real `debuginfod`, and servers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cputrace::model::BuildId;
use cputrace::process::debuginfod::{Debuginfod, Settings};
use cputrace::process::elf::ElfFacts;
use cputrace::symbolize::Code;
use support::lab::Lab;
use support::symbols::*;
use support::{optional, require};

fn settings(lab: &Lab, urls: &[String]) -> Settings {
    Settings {
        urls: urls.to_vec(),
        cache: Some(lab.path("cache")),
        timeout: Duration::from_secs(60),
        max_time: Duration::from_secs(60),
        max_bytes: 10 << 20,
        missing_for: Duration::from_secs(600),
    }
}

/// A program, the file with its debug information, and its build id.
fn split(lab: &Lab) -> (PathBuf, PathBuf, BuildId) {
    let whole = lab.compile("cc", &["-O2", "-g", "-Wl,--build-id"], "sample.c");
    fs::create_dir_all(lab.path("served")).unwrap();
    let (stripped, debug) = (lab.path("stripped"), lab.path("served/sample.debug"));
    run(Command::new("objcopy").arg("--only-keep-debug").args([&whole, &debug]));
    run(Command::new("objcopy").arg("--strip-all").args([&whole, &stripped]));
    let build_id = ElfFacts::read(&File::open(&stripped).unwrap()).unwrap().build_id.unwrap();
    (stripped, debug, build_id)
}

fn cached(lab: &Lab, build_id: &BuildId) -> PathBuf {
    lab.path("cache").join(build_id.to_string()).join("debuginfo")
}

/// The environment is read as elfutils reads it; without servers nothing is asked.
#[test]
fn settings_are_elfutils() {
    let read = |variables: &[(&str, &str)]| {
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::from_environment(&value)
    };
    assert_eq!(read(&[("HOME", "/root")]), None);
    assert_eq!(read(&[("HOME", "/root"), ("DEBUGINFOD_URLS", "")]), None);
    let urls = ("DEBUGINFOD_URLS", " ima:permissive https://a.example/  http://b.example:8002 ");
    let found = read(&[urls, ("HOME", "/root"), ("DEBUGINFOD_TIMEOUT", "7"), ("DEBUGINFOD_MAXSIZE", "x")]).unwrap();
    assert_eq!(found.urls, ["https://a.example", "http://b.example:8002"]);
    assert_eq!(found.cache.as_deref(), Some(Path::new("/root/.cache/debuginfod_client")));
    assert_eq!((found.timeout, found.max_bytes), (Duration::from_secs(7), 2 << 30));
    let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache.unwrap();
    assert_eq!(cache(&[urls, ("HOME", "/root"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/debuginfod_client"));
    assert_eq!(cache(&[urls, ("XDG_CACHE_HOME", "/x"), ("DEBUGINFOD_CACHE_PATH", "/c")]), Path::new("/c"));
}

/// elfutils' own server gives a stripped program its inlined functions and lines, and the file stays in the cache, where
/// elfutils' own client finds it.
#[test]
fn a_real_server_has_the_names() {
    if !(require("cc") && require("objcopy") && optional("debuginfod")) {
        return;
    }
    let lab = Lab::new();
    let (stripped, debug, build_id) = split(&lab);
    // Free a moment ago; the server cannot choose one and tell.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("debuginfod")
        .args(["-F", "-p", &port.to_string(), "-d"])
        .arg(lab.path("index.sqlite"))
        .arg(lab.path("served"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let missing_for = Duration::ZERO;
    // It reads its folder after it has started: until then it has nothing, or is not there.
    let until = Instant::now() + Duration::from_secs(60);
    let found = loop {
        let mut client = Debuginfod::new(Settings { missing_for, ..settings(&lab, std::slice::from_ref(&url)) });
        let found = client.find(&build_id, &|| false);
        if found.is_some() || Instant::now() > until {
            break found;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    server.kill().unwrap();
    server.wait().unwrap();
    let found = found.expect("the server has the file");
    assert_eq!(fs::read(cached(&lab, &build_id)).unwrap(), fs::read(&debug).unwrap());
    let again = Debuginfod::new(settings(&lab, &[url])).find(&build_id, &|| false);
    assert!(again.is_some(), "a file that is in the cache needs no server");

    let symbol = nm(&lab.path("sample_c"), &[]).into_iter().find(|symbol| symbol.name == "hidden_sum").unwrap();
    let addresses: Vec<u64> = (symbol.address..symbol.address + symbol.size).collect();
    let stripped = Arc::new(File::open(stripped).unwrap());
    let code = || Code::Elf { file: stripped.clone(), debug: Some(found.try_clone().unwrap()), package: None };
    assert_eq!(names(code, &addresses), names(|| elf(&lab.path("sample_c")), &addresses));
    if optional("debuginfod-find") {
        let mut client = Command::new("debuginfod-find");
        client.env("DEBUGINFOD_CACHE_PATH", lab.path("cache")).env("DEBUGINFOD_URLS", "http://127.0.0.1:1");
        let path = run(client.args(["debuginfo", &build_id.to_string()]));
        assert_eq!(Path::new(path.trim_end()), cached(&lab, &build_id));
    }
}

/// A server that answers every request in one way, and how many requests came.
fn server(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicU32::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            count.fetch_add(1, Ordering::Relaxed);
            answer(&mut stream);
        }
    });
    (url, requests)
}

fn send(stream: &mut TcpStream, status: &str, body: &[u8]) {
    // Who asked may not wait for all of it.
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

const NOBODYS: [u8; 20] = [0xab; 20];

/// A file that no server has is not asked for again, by elfutils' client neither.
#[test]
fn a_missing_file_is_remembered() {
    let lab = Lab::new();
    let (url, requests) = server(|stream| send(stream, "404 Not Found", b"not found"));
    let build_id = BuildId(NOBODYS.to_vec());
    for _ in 0..3 {
        let mut client = Debuginfod::new(settings(&lab, std::slice::from_ref(&url)));
        assert!(client.find(&build_id, &|| false).is_none());
        assert_eq!(client.notes(), Vec::<String>::new());
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    assert_eq!(fs::metadata(cached(&lab, &build_id)).unwrap().len(), 0);
}

/// What is too large, belongs to another program or ends too soon is not kept, and each server gets one sentence.
#[test]
fn bad_answers_are_not_kept() {
    let lab = Lab::new();
    let check = |answer: fn(&mut TcpStream), sentence: &str| {
        let (url, _) = server(answer);
        let mut client = Debuginfod::new(settings(&lab, &[url]));
        for byte in 0..2 {
            assert!(client.find(&BuildId(vec![byte; 20]), &|| false).is_none());
        }
        let notes = client.notes();
        assert!(notes.len() == 1 && notes[0].contains(sentence) && notes[0].contains("2 files"), "{notes:?}");
        let left = Command::new("find").arg(lab.path("cache")).args(["-type", "f"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(left).unwrap(), "", "{sentence}");
    };
    check(|stream| send(stream, "500 Oops", b""), "HTTP status 500");
    check(|stream| send(stream, "200 OK", &[0; 11 << 20]), "larger than");
    check(|stream| send(stream, "200 OK", &fs::read("/bin/sh").unwrap()), "another program");
    check(|stream| send(stream, "200 OK", b"no ELF file"), "another program");
    let endless = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[0; 1 << 16]).is_ok() {}
    };
    check(endless, "larger than");
    let cut_short = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort");
    };
    check(cut_short, "did not send");
}

/// A server that is not there is asked once, and named in one sentence; the next one is asked all the same.
#[test]
fn a_server_that_is_gone_is_named_once() {
    let lab = Lab::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = format!("http://127.0.0.1:{port}");
    let (there, requests) = server(|stream| send(stream, "404 Not Found", b""));
    let mut client = Debuginfod::new(settings(&lab, &[gone.clone(), there]));
    for byte in 0..3 {
        assert!(client.find(&BuildId(vec![byte; 20]), &|| false).is_none());
    }
    let notes = client.notes();
    assert!(notes.len() == 1 && notes[0].contains(&gone) && notes[0].contains("cannot be reached"), "{notes:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 3);
    assert!(!cached(&lab, &BuildId(vec![0; 20])).exists(), "the other server may have it");
}

/// Whoever stops does not wait for a server that never answers.
#[test]
fn stopping_leaves_a_silent_server() {
    let lab = Lab::new();
    let (url, _) = server(|_| std::thread::sleep(Duration::from_secs(3600)));
    let mut client = Debuginfod::new(settings(&lab, &[url]));
    let asked = Cell::new(0);
    let stopped = || asked.replace(asked.get() + 1) > 3;
    assert!(client.find(&BuildId(NOBODYS.to_vec()), &stopped).is_none());
    assert_eq!(client.notes(), Vec::<String>::new());
}
