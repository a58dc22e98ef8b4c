//! Programs as the distribution built them, each put to work: what is profiled here.
//!
//! By their full paths: a version that somebody put before them in the path is not the distribution's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::lab::CPUTRACE;
use crate::support::{optional, require, skip_unless};
use crate::tree::Tree;

pub(crate) const PYTHON: &str = "/usr/bin/python3";
const NODE: &str = "/usr/bin/node";

/// A program at work.
pub(crate) struct Load {
    // Dropped in this order: clients end before their server, and all before their files.
    #[expect(dead_code, reason = "it is there to be dropped")]
    client: Option<Tree>,
    program: Tree,
    _folder: TempDir,
}

impl Load {
    pub(crate) fn alone(command: &mut Command, folder: TempDir) -> Self {
        Self { client: None, program: Tree::start(command), _folder: folder }.warmed_up()
    }

    /// Half a second at work, for what is done only once.
    fn warmed_up(mut self) -> Self {
        self.program.warm_up(Duration::from_millis(500));
        self
    }

    /// The processes to record: the program's own, without its clients'.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.program.pids()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Compresses our own binary, again and again.
pub(crate) fn xz() -> Option<Load> {
    let command = || {
        let mut xz = Command::new("/usr/bin/xz");
        xz.args(["-9", "--threads=1", "--keep", "--stdout"]).args([CPUTRACE; 100]);
        xz
    };
    require("/usr/bin/xz").then(|| Load::alone(&mut command(), folder()))
}

/// Ciphers, digests and signatures one after the other, each a second for each of its sizes.
pub(crate) fn openssl(algorithms: &[&str]) -> Option<Load> {
    let mut openssl = Command::new("/usr/bin/openssl");
    openssl.args(["speed", "-seconds", "2"]).args(algorithms);
    require("/usr/bin/openssl").then(|| Load::alone(&mut openssl, folder()))
}

/// JSON, regular expressions, objects, recursion.
pub(crate) fn python() -> Option<Load> {
    let script = "
import hashlib, json, re
class Tree:
    def __init__(self, depth): self.children = [Tree(depth - 1) for _ in range(2)] if depth else []
    def count(self): return 1 + sum(child.count() for child in self.children)
def words(text): return sorted(re.findall(r'\\w+', text), key=lambda word: (len(word), word))
while True:
    text = json.dumps([{'number': n, 'text': str(n) * 3} for n in range(2000)])
    json.loads(text), words(text), Tree(9).count(), hashlib.sha256(text.encode()).hexdigest()
";
    require(PYTHON).then(|| Load::alone(Command::new(PYTHON).args(["-c", script]), folder()))
}

/// The same in JavaScript. Its code is compiled while it runs.
pub(crate) fn node(options: &[&str]) -> Option<Load> {
    require(NODE).then(|| Load::alone(Command::new(NODE).args(options).args(["-e", JAVASCRIPT]), folder()))
}

/// Goroutines, which have stacks of their own.
pub(crate) fn go() -> Option<Load> {
    if !optional("go") {
        return None;
    }
    let folder = folder();
    let (source, program) = (folder.path().join("main.go"), folder.path().join("goroutines"));
    std::fs::write(&source, include_str!("goroutines.go")).unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(&source).env("GOCACHE", folder.path().join("cache"));
    assert!(build.env("GOFLAGS", "-mod=mod").status().unwrap().success());
    Some(Load::alone(&mut Command::new(program), folder))
}

pub(crate) const JAVASCRIPT: &str = "
const zlib = require('zlib'), crypto = require('crypto');
class Tree {
  constructor(depth) { this.children = depth ? [new Tree(depth - 1), new Tree(depth - 1)] : []; }
  count() { return 1 + this.children.reduce((sum, child) => sum + child.count(), 0); }
}
function fibonacci(n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
for (;;) {
  const text = JSON.stringify([...Array(2000).keys()].map(n => ({ number: n, text: String(n).repeat(3) })));
  JSON.parse(text);
  text.match(/\\d+/g).sort((a, b) => a.localeCompare(b));
  new Tree(10).count();
  fibonacci(22);
  zlib.deflateSync(text);
  crypto.createHash('sha256').update(text).digest('hex');
}
";

/// redis-benchmark's usual operations, in pipelines.
pub(crate) fn redis() -> Option<Load> {
    if !(require("/usr/bin/redis-server") && require("/usr/bin/redis-benchmark")) {
        return None;
    }
    let folder = folder();
    let socket = folder.path().join("socket");
    let mut program = Tree::start(
        Command::new("/usr/bin/redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", text(&socket)])
            .current_dir(folder.path()),
    );
    program.wait_until(|_| socket.exists());
    let operations = ["-q", "-l", "-P", "16", "-t", "set,get,lrange,sadd,hset,zadd"];
    let client = Tree::start(Command::new("/usr/bin/redis-benchmark").args(["-s", text(&socket)]).args(operations));
    Some(Load { client: Some(client), program, _folder: folder }.warmed_up())
}

/// A page of some hundred kilobytes, compressed for each request.
pub(crate) fn nginx() -> Option<Load> {
    let nginx = "/usr/sbin/nginx";
    if !(require(nginx) && require(PYTHON)) {
        return None;
    }
    let folder = folder();
    let socket = folder.path().join("socket");
    let page: String = (0..20_000).map(|number| format!("<p>row {number}, {}</p>\n", number * number)).collect();
    std::fs::write(folder.path().join("index.html"), page).unwrap();
    let path = text(folder.path());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
        .concat();
    let configuration = format!(
        "user root; daemon off; worker_processes 2; pid {path}/pid; error_log {path}/errors;\n\
         events {{}}\n\
         http {{ access_log {path}/access; gzip on; {temporary} server {{ listen unix:{}; root {path}; }} }}\n",
        text(&socket)
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, configuration).unwrap();
    let mut program = Tree::start(Command::new(nginx).args(["-p", path, "-c", text(&file)]));
    program.wait_until(|_| socket.exists());
    let client = "
import socket, sys, threading
def requests():
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(sys.argv[1])
            connection.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nAccept-Encoding: gzip\\r\\nConnection: close\\r\\n\\r\\n')
            while connection.recv(1 << 20): pass
for _ in range(4): threading.Thread(target=requests).start()
";
    let client = Tree::start(Command::new(PYTHON).args(["-c", client, text(&socket)]));
    Some(Load { client: Some(client), program, _folder: folder }.warmed_up())
}

/// pgbench's transactions, three readers for each writer, as the user postgres.
pub(crate) fn postgres() -> Option<Load> {
    let Some(programs) = newest_postgres() else {
        skip_unless(false, "there is no PostgreSQL");
        return None;
    };
    let folder = folder();
    let home = folder.path().join("home");
    let as_postgres = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--no-new-privs"]).arg(program);
        command.current_dir("/");
        command
    };
    let done = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    done(Command::new("chmod").arg("755").arg(folder.path()));
    done(Command::new("install").args(["-d", "-o", "postgres", "-m", "700"]).arg(&home));
    let data = home.join("data");
    done(as_postgres(&programs.join("initdb")).args(["--auth", "trust", "--no-sync", "-D", text(&data)]));
    let options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=20", "-k", text(&home)];
    let mut program = Tree::start(as_postgres(&programs.join("postgres")).args(["-D", text(&data)]).args(options));
    program.wait_until(|_| {
        let mut ready = as_postgres(&programs.join("pg_isready"));
        ready.args(["-q", "-h", text(&home)]).status().unwrap().success()
    });
    let pgbench = || {
        let mut command = as_postgres(&programs.join("pgbench"));
        command.args(["-h", text(&home)]);
        command
    };
    done(pgbench().args(["--initialize", "--scale", "2", "--quiet", "postgres"]));
    let mix = ["--builtin", "select-only@3", "--builtin", "tpcb-like@1", "--client", "4", "--time", "3600", "postgres"];
    let client = Tree::start(pgbench().args(mix));
    program.wait_until(|tree| tree.pids().len() > 6);
    Some(Load { client: Some(client), program, _folder: folder }.warmed_up())
}

/// Where Debian keeps the newest of its versions.
fn newest_postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    programs.filter(|programs| programs.join("postgres").exists() && programs.join("pgbench").exists()).max()
}

/// Encodes a test picture by x264, whose inner loops are assembler.
pub(crate) fn ffmpeg() -> Option<Load> {
    let arguments = ["-f", "lavfi", "-i", "testsrc2=size=640x480", "-codec:v", "libx264", "-f", "null", "-"];
    optional("/usr/bin/ffmpeg").then(|| Load::alone(Command::new("/usr/bin/ffmpeg").args(arguments), folder()))
}

/// A page that draws, makes elements and lays them out all the time, without a window.
pub(crate) fn chromium() -> Option<Load> {
    if !optional("/usr/bin/chromium") {
        return None;
    }
    let folder = folder();
    let page = "<canvas id=canvas width=600 height=400></canvas><div id=rows></div><script>
const canvas = document.getElementById('canvas').getContext('2d');
let turn = 0;
function work() {
  for (let n = 0; n < 2000; n++) {
    canvas.fillStyle = 'hsl(' + (turn * 7 + n) % 360 + ', 50%, 50%)';
    canvas.beginPath(); canvas.arc(n * 37 % 600, n * 91 % 400, 20, 0, 7); canvas.fill();
  }
  const rows = document.getElementById('rows');
  rows.innerHTML = '';
  for (let n = 0; n < 300; n++) {
    const row = document.createElement('p');
    row.textContent = 'row ' + n + ' ' + JSON.stringify({ turn, n }).repeat(3);
    rows.appendChild(row);
  }
  rows.offsetHeight; turn++; setTimeout(work, 0);
}
work();
</script>";
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let mut command = Command::new("/usr/bin/chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]);
    command.arg(format!("--user-data-dir={}/profile", text(folder.path()))).arg(format!("file://{}", text(&file)));
    let mut program = Tree::start(&mut command);
    // Its start takes some seconds of CPU time itself.
    program.warm_up(Duration::from_secs(4));
    Some(Load { client: None, program, _folder: folder })
}
