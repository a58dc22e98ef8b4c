//! Lets `cputrace serve` watch a host that is made to work, and looks every few seconds at what it takes: memory, files, maps,
//! series, CPU time. Time is compressed: an hour's mix of peace and load in some minutes, more processes than in a day.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::system::{self, cargo, command, install, is_root, target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, in all
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// The cputrace to run, instead of one that is built for it
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Its port
    #[arg(long, default_value_t = 9798)]
    port: u16,
}

/// Memory that it may take, with the unwind tables that lie in the kernel.
const MOST_MB: f64 = 80.0;

/// Groups that there may be, and series that a group has at most: with the buckets of its histogram.
const MOST_SERIES: f64 = 200.0 * 45.0 + 600.0;

/// Processes that live for a moment, each by a name of its own.
const PROCESSES: u32 = 20_000;

const LOOK_EVERY: Duration = Duration::from_secs(3);

const PACKAGES: &[(&str, &str)] = &[
    ("stress-ng", "stress-ng"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/bin/redis-benchmark", "redis-tools"),
    ("/usr/lib/postgresql", "postgresql"),
    ("setpriv", "util-linux"),
];

/// What is done for a while.
struct Phase {
    name: &'static str,
    /// Parts of the time.
    parts: u32,
    /// For sh; it is ended at the phase's end.
    script: String,
}

/// What it takes at a moment.
#[derive(Clone, Copy, Default)]
struct Look {
    rss_mb: f64,
    tables_mb: f64,
    maps_mb: f64,
    fds: f64,
    threads: f64,
    series: f64,
    store_mb: f64,
    hz: f64,
    down: f64,
    up: f64,
    /// CPU seconds so far: its own, of its eBPF programs, of interrupts.
    cost: [f64; 3],
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !is_root() {
        bail!("the soak watches the whole host: run it as root");
    }
    install(PACKAGES)?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            system::run(cargo().args(["build", "--locked", "--release", "--package", "cputrace"]))?;
            target().join("release/cputrace")
        }
    };
    let folder = tempfile::tempdir()?;
    let phases = phases(folder.path())?;
    let address = format!("127.0.0.1:{}", args.port);
    let mut server = command(binary);
    server.args(["serve", "--listen", &address, "--data-dir"]).arg(folder.path().join("store"));
    let mut server = Running(server.stderr(Stdio::piped()).spawn().context("cputrace does not start")?);
    let said = server.0.stderr.take().context("cputrace has no standard error")?;
    thread::spawn(move || BufReader::new(said).lines().map_while(Result::ok).for_each(|line| println!("  | {line}")));
    let all: u32 = phases.iter().map(|phase| phase.parts).sum();
    let cpus = thread::available_parallelism()?.get() as f64;
    println!(
        "{:<10} {:>5} {:>6} {:>7} {:>6} {:>4} {:>4} {:>6} {:>6} {:>6} {:>6} {:>5} {:>5}",
        "phase", "s", "RSS MB", "tables", "maps", "fds", "thr", "series", "store", "cost %", "own %", "Hz", "steps"
    );
    let start = Instant::now();
    let mut looks: Vec<(&str, f64, Look)> = Vec::new();
    for Phase { name, parts, script } in &phases {
        let length = Duration::from_secs(args.seconds) * *parts / all;
        let began = Instant::now();
        let mut load = Command::new("sh");
        load.arg("-c").arg(script).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that all of it can be ended.
        let load = Load(load.process_group(0).spawn().context("sh does not start")?);
        while began.elapsed() < length {
            thread::sleep(LOOK_EVERY.min(length.saturating_sub(began.elapsed())));
            if let Some(status) = server.0.try_wait()? {
                bail!("cputrace ended ({status})");
            }
            let look = look(&address, server.0.id()).context("cputrace does not answer")?;
            let at = start.elapsed().as_secs_f64();
            let before = looks.last().map_or((0.0, [0.0; 3]), |(_, at, look)| (*at, look.cost));
            show(name, at, &look, before, cpus);
            looks.push((name, at, look));
        }
        drop(load);
    }
    judge(&looks, cpus)
}

fn show(name: &str, at: f64, look: &Look, (at_before, before): (f64, [f64; 3]), cpus: f64) {
    let share = |part: f64| 100.0 * part / ((at - at_before) * cpus);
    let parts: Vec<f64> = look.cost.iter().zip(before).map(|(now, before)| now - before).collect();
    let Look { rss_mb, tables_mb, maps_mb, fds, threads, series, store_mb, hz, down, up, cost: _ } = look;
    println!(
        "{name:<10} {at:5.0} {rss_mb:6.1} {tables_mb:7.1} {maps_mb:6.1} {fds:4} {threads:4} {series:6} {store_mb:6.2} {:6.2} {:6.2} \
         {hz:5.2} {down:>2}-{up:<2}",
        share(parts.iter().sum()),
        share(parts[0])
    );
}

/// What is said of all of it; an error if something is not as it has to be.
fn judge(looks: &[(&str, f64, Look)], cpus: f64) -> anyhow::Result<()> {
    let Some((_, seconds, last)) = looks.last() else { bail!("it was not looked at") };
    let most = |of: fn(&Look) -> f64| looks.iter().map(|(_, _, look)| of(look)).fold(0.0, f64::max);
    let overhead = 100.0 * last.cost.iter().sum::<f64>() / (seconds * cpus);
    let mut by_phase: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let (mut at_before, mut before) = (0.0, 0.0);
    for (name, at, look) in looks {
        let cost = look.cost.iter().sum::<f64>();
        let (time, taken) = by_phase.entry(name).or_default();
        (*time, *taken) = (*time + at - at_before, *taken + cost - before);
        (at_before, before) = (*at, cost);
    }
    println!("\noverhead: {overhead:.2} % of {cpus} CPUs over {seconds:.0} s");
    for (name, (time, taken)) in by_phase {
        println!("  {name:<10} {:.2} %", 100.0 * taken / (time * cpus));
    }
    let memory = most(|look| look.rss_mb + look.tables_mb);
    println!("memory: {memory:.1} MB with tables at most; all maps {:.1} MB", most(|look| look.maps_mb));
    println!("series: {} at most; governor: {} down, {} up", most(|look| look.series), last.down, last.up);
    // Before the storms and at the end: what storms take has to be given back. The files of other programs stay open with their
    // tables, up to a number.
    let of = |name: &str| looks.iter().filter(|(phase, ..)| *phase == name).map(|(.., look)| look).next_back();
    let (Some(first), Some(end)) = (of("redis"), of("afterwards")) else { bail!("there were no storms") };
    println!("before the storms {} fds, then {}; {} threads, then {}", first.fds, end.fds, first.threads, end.threads);
    let wrong = [
        (memory > MOST_MB, "it takes too much memory"),
        (end.fds > first.fds + 20.0, "it leaves files open"),
        (end.threads > first.threads, "it leaves threads behind"),
        (most(|look| look.series) > MOST_SERIES, "there are too many series"),
        (overhead > 1.0, "it takes more than 1 % of the host's CPU time"),
    ];
    let wrong: Vec<_> = wrong.iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| *what).collect();
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}

/// Peace, a database, a cache, storms of processes, and peace again.
fn phases(folder: &Path) -> anyhow::Result<Vec<Phase>> {
    let path = folder.to_str().context("the temporary folder's name is no text")?;
    // Others than root have to get into it.
    system::run(Command::new("chmod").args(["755", path]))?;
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("there is no PostgreSQL")?.flatten();
    let programs = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("pgbench").exists()).max();
    let postgres = programs.context("there is no pgbench")?.display().to_string();
    let as_postgres = "setpriv --reuid=postgres --regid=postgres --clear-groups";
    system::run(Command::new("install").args(["-d", "-o", "postgres", "-m", "700", &format!("{path}/pg")]))?;
    let database = format!(
        "cd /; {as_postgres} {postgres}/initdb --auth trust --no-sync -D {path}/pg/data
         {as_postgres} {postgres}/postgres -D {path}/pg/data -c listen_addresses= -c fsync=off -k {path}/pg &
         until {as_postgres} {postgres}/pg_isready -q -h {path}/pg; do sleep 0.2; done
         {as_postgres} {postgres}/pgbench -h {path}/pg --initialize --scale 5 --quiet postgres
         {as_postgres} {postgres}/pgbench -h {path}/pg --client 8 --time 3600 postgres & wait"
    );
    let cache = format!(
        "redis-server --port 0 --save '' --unixsocket {path}/redis & until test -S {path}/redis; do sleep 0.2; done
         redis-benchmark -q -l -P 16 -t set,get,lrange,sadd,hset,zadd -s {path}/redis & wait"
    );
    let names = format!(
        "mkdir {path}/names; cd {path}/names; number=0
         while test $number -lt {PROCESSES}; do number=$((number + 1)); ln -s /bin/true job-$number; ./job-$number; rm job-$number; done"
    );
    let phase = |name, parts, script: String| Phase { name, parts, script };
    Ok(vec![
        phase("peace", 3, "sleep 3600".to_owned()),
        phase("postgres", 4, database),
        phase("redis", 3, cache),
        phase("storm", 3, "stress-ng --fork 2 --exec 1 --timeout 3600".to_owned()),
        phase("names", 4, names),
        phase("afterwards", 5, "sleep 3600".to_owned()),
    ])
}

fn look(address: &str, pid: u32) -> anyhow::Result<Look> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("there is no body")?;
    let series: BTreeMap<&str, f64> = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let value = |name: &str| series.get(name).copied().unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let cost = |part: &str| value(&format!("cputrace_overhead_cpu_seconds_total{{component=\"{part}\"}}"));
    Ok(Look {
        rss_mb: rss.context("its memory is not known")? / 1024.0,
        tables_mb: value("cputrace_unwind_table_bytes") / 1e6,
        maps_mb: value("cputrace_bpf_map_bytes") / 1e6,
        fds: value("process_open_fds"),
        threads: value("process_threads"),
        series: series.len() as f64,
        store_mb: value("cputrace_store_bytes") / 1e6,
        hz: value("cputrace_sampling_frequency_hertz"),
        down: value("cputrace_governor_steps_total{direction=\"down\"}"),
        up: value("cputrace_governor_steps_total{direction=\"up\"}"),
        cost: ["userspace", "bpf", "interrupts_estimated"].map(cost),
    })
}

/// The server, which does not outlive the soak.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A load, with all that it started.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}
