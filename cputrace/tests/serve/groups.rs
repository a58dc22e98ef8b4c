//! Groups' CPU time beside what the kernel and Debian's process-exporter say of the same processes.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cputrace::group::{GroupOptions, GroupSums, Groups, OTHER};
use cputrace::model::Target;
use cputrace::session::{Options, Stop, Watch};

use crate::options;
use crate::support::lab::{Lab, Running, root, signal};
use crate::support::require;

/// Longer than anything that is waited for takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The host's groups, while it is watched.
struct Watched {
    groups: Mutex<Groups>,
    windows: AtomicU32,
}

impl Watched {
    /// Runs `test` while the whole host is watched in short windows; hardly a stack has to get names.
    fn run(test: impl FnOnce(&Self)) {
        let groups = Mutex::new(Groups::new(&GroupOptions::default()).unwrap());
        let watched = Self { groups, windows: AtomicU32::new(0) };
        let options = Options {
            targets: vec![Target::All],
            frequency: 1,
            waits: None,
            pmu: Vec::new(),
            event: None,
            stack_counters: Vec::new(),
            ..options(0)
        };
        let (sender, stop) = mpsc::channel();
        thread::scope(|scope| {
            let (watched, options) = (&watched, &options);
            scope.spawn(move || {
                Watch::start(options).unwrap().run(
                    Duration::from_millis(500),
                    &mut |window| {
                        watched.groups.lock().unwrap().add(&window);
                        watched.windows.fetch_add(1, Ordering::Relaxed);
                    },
                    &|look| look.limit,
                    &stop,
                )
            });
            // Whatever becomes of the test, the watch ends.
            let _stop = StopAtEnd(sender);
            test(watched);
        });
    }

    /// Waits until all that happened so far is in the sums.
    fn wait(&self) {
        let wanted = self.windows.load(Ordering::Relaxed) + 3;
        wait_until("windows", || self.windows.load(Ordering::Relaxed) >= wanted);
    }

    fn sums(&self, group: &str) -> GroupSums {
        let groups = self.groups.lock().unwrap();
        groups.all().find(|(name, _)| *name == group).map(|(_, sums)| sums.clone()).unwrap_or_default()
    }

    /// User and system time of a group, in seconds.
    fn times(&self, group: &str) -> [f64; 2] {
        let sums = self.sums(group);
        [sums.on_cpu_ns - sums.system_ns, sums.system_ns].map(|ns| ns as f64 / 1e9)
    }
}

struct StopAtEnd(mpsc::Sender<Stop>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        let _ = self.0.send(Stop);
    }
}

/// A shell under another name, which is what groups go by.
fn shell_named(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path(name);
    fs::copy("/bin/sh", &path).unwrap();
    path
}

/// User and system time of a process, of its children that were waited for too, in seconds.
fn of_kernel(pid: u32) -> [f64; 2] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap() / 100.0;
    [ticks(11) + ticks(13), ticks(12) + ticks(14)]
}

fn sum(times: [f64; 2]) -> f64 {
    times.iter().sum()
}

/// Within a hundredth, and the ticks in which the kernel tells it.
fn assert_close(what: &str, ours: f64, theirs: f64) {
    let tolerance = theirs / 100.0 + 0.02;
    assert!((ours - theirs).abs() <= tolerance, "{what}: {ours:.3} s of ours, {theirs:.3} s of theirs");
}

/// process-exporter on a port of its own, with groups by names as well.
struct ProcessExporter {
    _child: Running,
    url: String,
}

impl ProcessExporter {
    fn start(lab: &Lab) -> Option<Self> {
        if !require("prometheus-process-exporter") {
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = lab.path("process-exporter.yml");
        fs::write(&config, "process_names:\n  - name: '{{.Comm}}'\n    cmdline: ['.+']\n").unwrap();
        let mut command = Command::new("prometheus-process-exporter");
        command.arg("-config.path").arg(config).arg(format!("-web.listen-address=127.0.0.1:{port}"));
        let child = Running::start(command.stdout(Stdio::null()));
        let url = format!("http://127.0.0.1:{port}/metrics");
        wait_until("process-exporter", || ureq::get(&url).call().is_ok());
        Some(Self { _child: child, url })
    }

    fn group(&self, group: &str) -> [f64; 2] {
        let metrics = ureq::get(&self.url).call().unwrap().body_mut().read_to_string().unwrap();
        ["user", "system"].map(|mode| {
            let series = format!("namedprocess_namegroup_cpu_seconds_total{{groupname=\"{group}\",mode=\"{mode}\"}}");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
            line.map_or(0.0, |value| value.parse().unwrap())
        })
    }
}

/// A group's CPU time is what `/proc` and process-exporter say, within a hundredth, in user and in system mode. All are read
/// while the processes are stopped: nobody's clock matters.
#[test]
#[ignore = "needs root"]
fn living_groups_are_as_others_have_them() {
    const GROUP: &str = "ct-living";
    if !root() {
        return;
    }
    let lab = Lab::new();
    let shell = shell_named(&lab, GROUP);
    let exporter = ProcessExporter::start(&lab);
    // One in its own code, one mostly in the kernel's.
    let running = ["while :; do :; done", "while :; do read -r line < /proc/self/stat; done"]
        .map(|work| Running::start(Command::new(&shell).args(["-c", work])));
    let kernel = || {
        let times = running.each_ref().map(|process| of_kernel(process.0.id()));
        [0, 1].map(|mode| times.iter().map(|times| times[mode]).sum::<f64>())
    };
    Watched::run(|watched| {
        let mut before = None;
        for seconds in [1.0, 11.0] {
            wait_until("CPU time", || sum(kernel()) >= seconds);
            running.iter().for_each(|process| signal(&process.0, "STOP"));
            watched.wait();
            let exported = exporter.as_ref().map_or([0.0; 2], |exporter| exporter.group(GROUP));
            let now = [watched.times(GROUP), kernel(), exported];
            running.iter().for_each(|process| signal(&process.0, "CONT"));
            let Some(before) = before.replace(now) else { continue };
            let [ours, kernel, exported] = [0, 1, 2].map(|who| [0, 1].map(|mode| now[who][mode] - before[who][mode]));
            println!("ours {ours:?}, the kernel's {kernel:?}, process-exporter's {exported:?}");
            assert_close("beside the kernel", sum(ours), sum(kernel));
            for mode in [0, 1] {
                assert!((ours[mode] - kernel[mode]).abs() < sum(kernel) * 0.03, "{ours:?}, {kernel:?}");
            }
            if exporter.is_some() {
                assert_close("beside process-exporter", sum(ours), sum(exported));
            }
        }
    });
}

/// What has ended is in a group's sums: processes that lived for long, and many that lived for a moment each. Nobody waits for a
/// CPU who is not there.
#[test]
#[ignore = "needs root"]
fn ended_processes_are_counted() {
    const GROUP: &str = "ct-ended";
    const SHORT: u64 = 300;
    if !root() {
        return;
    }
    let lab = Lab::new();
    let shell = shell_named(&lab, GROUP);
    // Its own time and its children's, which are of the same name. It begins when it is told to.
    let work = format!(
        "read go; i=0; while [ $i -lt {SHORT} ]; do {0} -c 'j=0; while [ $j -lt 2000 ]; do j=$((j+1)); done'; i=$((i+1)); done; \
         {0} -c 'j=0; while [ $j -lt 1000000 ]; do j=$((j+1)); done'; kill -STOP $$",
        shell.display()
    );
    let mut running = Running::start(Command::new(&shell).args(["-c", &work]).stdin(Stdio::piped()));
    let pid = running.0.id();
    Watched::run(|watched| {
        watched.wait();
        running.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        wait_until("the work", || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T "));
        watched.wait();
        let (ours, kernel) = (watched.times(GROUP), of_kernel(pid));
        println!("ours {ours:?}, the kernel's {kernel:?}");
        // The end of a process comes after the kernel has added its time to its parent's: seen are 0.15 ms each.
        let ends = SHORT as f64 * 0.0005;
        let (ours_s, kernel_s) = (sum(ours), sum(kernel));
        let tolerance = kernel_s / 100.0 + 0.02;
        assert!(
            (-tolerance..tolerance + ends).contains(&(ours_s - kernel_s)),
            "{ours_s} s of ours, the kernel's {kernel_s} s"
        );
        let GroupSums { starts, exits, processes, .. } = watched.sums(GROUP);
        // One that a window's end falls into may count twice.
        assert!((SHORT + 1..SHORT + 20).contains(&starts), "{starts} starts");
        assert!((SHORT + 1..SHORT + 20).contains(&exits), "{exits} exits");
        assert_eq!(processes, 1);
        drop(running);
        wait_until("its end", || watched.sums(GROUP).processes == 0);
        assert!(sum(watched.times(GROUP)) >= sum(ours));
        let waited_ns = watched.sums(OTHER).run_queue_ns;
        assert!(waited_ns < 1_000_000_000, "{waited_ns} ns of threads without a name");
    });
}
