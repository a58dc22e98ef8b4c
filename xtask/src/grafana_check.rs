//! What others make of `cputrace serve`: the official Connect client (npm) calls all of its Pyroscope API, and Grafana's own flame
//! graph (npm) draws its answers in a Chromium without a window.
//!
//! The JavaScript lies in `xtask/grafana_check`, with the versions of all packages. It is installed and run in a copy below
//! `target/`. Of all this, only the flame graph is large: 600 MB, which `--no-pictures` spares.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use crate::system::{cargo, command, install, is_root, root, run as run_command, target};
use crate::workload::{self, Frames};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cputrace to run, instead of one that is built for it
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Call by the client alone, without the pictures, which take 600 MB of packages
    #[arg(long)]
    pub(crate) no_pictures: bool,
}

/// What each half of the load does: one function is in the first alone, one in the second.
const HALVES: [&str; 2] = ["cpu,deep,lock", "cpu,sleep,lock"];

/// How long each is.
const HALF: &str = "8";

/// Its name as a process.
const COMM: &str = "sample_app_fp";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Args { binary, no_pictures } = args;
    if !is_root() {
        bail!("this watches the whole host: run it as root");
    }
    install(&[("cc", "gcc"), ("/usr/include/stdio.h", "libc6-dev"), ("protoc", "protobuf-compiler")])?;
    install(&[("node", "nodejs"), ("npm", "npm")])?;
    let binary = match binary {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            run_command(cargo().args(["build", "--locked", "--release", "--package", "cputrace"]))?;
            target().join("release/cputrace")
        }
    };
    let app = workload::build(Frames::Pointers)?;
    let folder = target().join("grafana-check");
    fs::create_dir_all(&folder)?;
    fs::copy(root().join("xtask/grafana_check/levels.js"), folder.join("levels.js"))?;
    let client = packages(&folder, "client")?;
    run_command(command("protoc").current_dir(&client).args(["--descriptor_set_out=querier.binpb", "querier.proto"]))?;
    let flame_graph = match no_pictures {
        true => None,
        false => {
            install(&[("chromium", "chromium")])?;
            Some(packages(&folder, "flame_graph")?)
        }
    };

    let store = tempfile::tempdir()?;
    let (_server, url) = serve(&binary, store.path())?;
    let mut times = vec![unix_ms()?];
    for phases in HALVES {
        println!("xtask: cputrace watches {COMM} --phases {phases}");
        run_command(command(&app).args(["--seconds", HALF, "--phases", phases]).stdout(Stdio::null()))?;
        times.push(unix_ms()?);
    }
    // Until the last windows are stored.
    thread::sleep(Duration::from_secs(3));

    println!("xtask: the Connect client");
    run_command(command("node").current_dir(&client).args(["check.js", &url]))?;
    if let Some(flame_graph) = flame_graph {
        println!("xtask: Grafana's flame graph");
        let mut draw = command("node");
        draw.current_dir(flame_graph).args(["draw.js", &url]).args(&times).arg(COMM).arg(&folder);
        run_command(&mut draw)?;
    }
    Ok(())
}

/// A folder of JavaScript, where its packages are installed.
fn packages(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let (from, to) = (root().join("xtask/grafana_check").join(name), folder.join(name));
    fs::create_dir_all(&to)?;
    let lock = "package-lock.json";
    let is_new = fs::read(from.join(lock))? != fs::read(to.join(lock)).unwrap_or_default();
    for file in fs::read_dir(&from).with_context(|| format!("{} cannot be read", from.display()))? {
        let file = file?;
        if file.file_type()?.is_file() && file.file_name() != lock {
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
    }
    if is_new {
        println!("xtask: installing the packages of {}", from.display());
        fs::copy(from.join(lock), to.join(lock))?;
        let installed = run_command(command("npm").current_dir(&to).args(["ci", "--no-progress"]));
        if installed.is_err() {
            // So that it is tried again.
            fs::remove_file(to.join(lock))?;
        }
        installed?;
    }
    Ok(to)
}

/// The server, which does not outlive the check.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// `cputrace serve` with short windows, whatever they cost, and where it answers.
fn serve(binary: &Path, store: &Path) -> anyhow::Result<(Running, String)> {
    let mut server = command(binary);
    server.args("serve --listen 127.0.0.1:0 --window 1s --frequency 49 --max-overhead off".split(' '));
    server.args("--wakers --off-cpu-min 1ms --pmu-stacks task-clock --data-dir".split(' ')).arg(store);
    let mut server = Running(server.stderr(Stdio::piped()).spawn().context("cputrace does not start")?);
    let said = server.0.stderr.take().context("cputrace has no standard error")?;
    let mut lines = BufReader::new(said).lines().map_while(Result::ok);
    let address = lines.find_map(|line| Some(line.split_once("serving ")?.1.to_owned()));
    let address = address.context("cputrace ended before it served")?;
    // What it says later is read, too, for else it could not say it.
    thread::spawn(move || lines.for_each(drop));
    // The first windows have all of the host's programs to look at.
    thread::sleep(Duration::from_secs(3));
    Ok((server, address))
}

fn unix_ms() -> anyhow::Result<String> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis().to_string())
}
