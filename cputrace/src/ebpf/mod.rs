//! The eBPF object in the kernel: loads it with its frozen globals and gives typed access to its maps and programs.
//!
//! Does not know what samples mean: `collect` reads them, `session` joins the parts.

mod btf;
mod counter_maps;
mod kernel_names;
mod offsets;
mod sched_maps;
mod scheduler;
mod unwind_maps;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{Iter, PerfEvent, Program, ProgramError, RawTracePoint, TracePoint};
use aya::{Ebpf, EbpfLoader};
use cputrace_common::config::filter;
pub use cputrace_common::counter::MAX_COUNTERS;
pub use cputrace_common::pace::MOST_STACKS;
use cputrace_common::pace::Pace;
use cputrace_common::run_time::{Program as RunTimeRow, RunTime};
use cputrace_common::stat::Stats;

use crate::model::ProgramCost;
pub use btf::{BtfError, KernelTypes};
pub use counter_maps::CounterMaps;
pub use kernel_names::KernelNames;
use offsets::{RawOffsets, SchedOffsets, TaskOffsets};
pub use sched_maps::SchedMaps;
pub use unwind_maps::UnwindMaps;

/// The object that `cargo xtask build-ebpf` made, or the one that the build was told to take.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CPUTRACE_BPF_OBJECT"));

/// The ring buffer of ended threads: a tenth of a second of 30,000 ends a second.
const ENDS_BYTES: u32 = 1 << 20;

/// The program that samples a perf event beside the clock.
const ON_EVENT: &str = "on_event";

/// The program that samples a tracepoint.
const AT_TRACEPOINT: &str = "at_tracepoint";

/// What the kernel's side keeps of a CPU's last tick, in words of its own.
type LastTick = [u64; 4];

/// Why the eBPF tier is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The kernel refused the object or one of its maps.
    #[error("the kernel did not take the eBPF object: {0}")]
    Load(#[source] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel did not take the eBPF program {program}: {}", verdict(.source))]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// The object lacks something it is known to have.
    #[error("the eBPF object has no {0}: rebuild it with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// The table of threads cannot be read in place.
    #[error("the table of threads cannot be mapped: {0}")]
    ThreadTable(#[source] std::io::Error),
    /// The kernel does not list its threads.
    #[error("the kernel's threads cannot be listed: {0}")]
    ThreadList(String),
    /// A map operation failed.
    #[error("eBPF map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What failed.
        source: MapError,
    },
}

/// The verifier's log is long: the lines before its closing statistics say what it did not like.
fn verdict(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    let statistics = ["verification time", "stack depth", "processed"];
    let reasons =
        log.lines().filter(|line| !line.trim().is_empty() && !statistics.iter().any(|word| line.starts_with(word)));
    let mut reasons: Vec<_> = reasons.collect();
    let tail = reasons.split_off(reasons.len().saturating_sub(3));
    if tail.is_empty() { io_error.to_string() } else { format!("{io_error}: {}", tail.join("; ")) }
}

/// Which tasks the kernel side lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// All of them.
    All,
    /// Those of the processes given by [`Object::add_target`], and the children these fork.
    Processes {
        /// Whether children are followed.
        follow_children: bool,
    },
    /// Those in a control group (v2) and below it.
    Cgroup {
        /// Its id: the inode of its directory.
        id: u64,
        /// Its depth below the root.
        level: u32,
    },
}

/// What has to be known before the load.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which tasks are targets.
    pub filter: Filter,
    /// Size of the ring buffer in bytes: a power of two, whole pages.
    pub ring_bytes: u32,
    /// Whether each thread's time is accounted.
    pub accounting: bool,
    /// With the account: the waits that are sent with their stacks; `None`: none are.
    pub waits: Option<Waits>,
    /// The event that is sampled beside the clock: see [`Object::on_event`].
    pub event: Option<EventHook>,
    /// Counters that are read at samples and switches: see [`Object::counters`].
    pub counters: u32,
    /// New programs a second and CPU that are looked at before their first sample.
    pub newcomers: u32,
    /// Stacks of waits that a CPU may take in a tenth of a second, and as many of wake-ups.
    pub most_stacks: u32,
}

/// Where an event is sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventHook {
    /// At the overflow of a perf event.
    Overflow,
    /// At an op that the CPU tagged, with what it noted of it.
    Op,
    /// At a tracepoint.
    Tracepoint {
        /// Hits on a CPU that a sample stands for.
        period: u64,
    },
}

impl EventHook {
    fn program(self) -> &'static str {
        match self {
            Self::Overflow | Self::Op => ON_EVENT,
            Self::Tracepoint { .. } => AT_TRACEPOINT,
        }
    }
}

/// Which waits are sent with their stacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// Those of at least this length.
    pub min: Duration,
    /// Whether of shorter ones each thread sends one for each time that they come to this length together: it stands for
    /// them.
    pub samples_shorter: bool,
    /// Whether the stacks of those who end them are sent too.
    pub wakers: bool,
}

/// Where a wait's stack is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitHook {
    /// As the thread runs again, at the tracepoint `sched_exit_tp` (Linux 6.15).
    SchedExit,
    /// As the thread runs again, at the end of the kernel's function `schedule`.
    ScheduleReturns,
}

impl WaitHook {
    /// The kernel's name of the place.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchedExit => "tracepoint sched_exit_tp",
            Self::ScheduleReturns => "fexit of schedule",
        }
    }
}

/// The object in the kernel. Dropping it detaches and unloads everything.
pub struct Object {
    ebpf: Ebpf,
    run_times: PerCpuArray<MapData, RunTime>,
    /// Instructions that the kernel went through to verify each program, by its name; none before Linux 5.16.
    verified: BTreeMap<String, u32>,
    targets: HashMap<MapData, u32, u32>,
    stats: PerCpuArray<MapData, Stats>,
    event_stats: PerCpuArray<MapData, Stats>,
    pace: Array<MapData, Pace>,
    last_ticks: PerCpuArray<MapData, LastTick>,
    ring: RingBuf<MapData>,
    unwind: Option<UnwindMaps>,
    sched: Option<SchedMaps>,
    wait_hook: Option<WaitHook>,
    counters: Option<CounterMaps>,
    kernel_names: Option<KernelNames>,
    newcomers: u32,
    most_stacks: u32,
    /// What is off, one sentence each.
    notes: Vec<String>,
}

impl Object {
    /// Loads maps and programs; nothing is sampled before [`Self::on_cpu`] is attached to events.
    pub fn load(config: Config) -> Result<Self, EbpfError> {
        let mut notes = Vec::new();
        let (mode, cgroup_id, cgroup_level, follow) = match config.filter {
            Filter::All => (filter::ALL, 0, 0, false),
            Filter::Processes { follow_children } => (filter::PROCESSES, 0, 0, follow_children),
            Filter::Cgroup { id, level } => (filter::CGROUP, id, level, false),
        };
        let types = KernelTypes::of_running_kernel();
        let offsets = types
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|types| TaskOffsets::of(types).map_err(|error| error.to_string()))
            .inspect_err(|error| {
                notes.push(format!("children of the targets are not followed, and missed ticks not counted: {error}"));
            })
            .ok();
        let sched = match types.as_ref() {
            Ok(types) if config.accounting => SchedOffsets::of(types)
                .inspect_err(|error| notes.push(format!("the threads' time is not accounted: {error}")))
                .ok(),
            _ => None,
        };
        let accounts = sched.is_some();
        let sched = sched.unwrap_or_default();
        let places = if accounts { thread_places(config.filter) } else { 1 };
        let offsets_known = offsets.is_some();
        // Whose counts they are is known from the switches.
        let counters = if offsets_known { config.counters } else { 0 };
        let wants_ops = config.event == Some(EventHook::Op);
        let raw = types.as_ref().map_err(ToString::to_string).ok().filter(|_| wants_ops);
        let raw = raw.and_then(|types| {
            let unknown = |error| notes.push(format!("what the CPU notes of ops is not read: {error}"));
            RawOffsets::of(types).map_err(unknown).ok()
        });
        let ops = u32::from(raw.is_some());
        let RawOffsets { sample_flags, sample_raw, raw_data, raw_size } = raw.unwrap_or_default();
        let event_period = if let Some(EventHook::Tracepoint { period }) = config.event { period } else { 0 };
        let TaskOffsets { tgid, sum_exec_runtime, nr_migrations, stack } = offsets.unwrap_or_default();
        let off_cpu_min_ns = config.waits.map_or(0, |waits| (waits.min.as_nanos() as u64).max(1));
        let interrupts = config.waits.filter(|waits| waits.wakers).and_then(|_| interrupts()).unwrap_or_default();
        let exits_are_seen = types.as_ref().is_ok_and(scheduler::exits_are_seen);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("FILTER", &mode, true)
            .override_global("CGROUP_ID", &cgroup_id, true)
            .override_global("CGROUP_LEVEL", &cgroup_level, true)
            .override_global("TASK_TGID", &tgid, true)
            .override_global("TASK_SUM_EXEC_RUNTIME", &sum_exec_runtime, true)
            .override_global("TASK_NR_MIGRATIONS", &nr_migrations, true)
            .override_global("TASK_STACK", &stack, true)
            .override_global("FOLLOW", &u32::from(follow), true)
            .override_global("HAS_TASK_PT_REGS", &u32::from(offsets_known && has_task_pt_regs()), true)
            .override_global("ACCOUNTING", &u32::from(accounts), true)
            .override_global("OFF_CPU_MIN_NS", &off_cpu_min_ns, true)
            .override_global("SAMPLE_WAITS", &u32::from(config.waits.is_some_and(|waits| waits.samples_shorter)), true)
            .override_global("INTERRUPTS_START", &interrupts.start, true)
            .override_global("INTERRUPTS_END", &interrupts.end, true)
            .override_global("PREEMPTED_WAITS", &u32::from(exits_are_seen), true)
            .override_global("THREADS_MASK", &(places - 1), true)
            .override_global("TASK_PID", &sched.pid, true)
            .override_global("TASK_STATE", &sched.state, true)
            .override_global("TASK_ON_CPU", &sched.on_cpu, true)
            .override_global("TASK_NVCSW", &sched.nvcsw, true)
            .override_global("TASK_NIVCSW", &sched.nivcsw, true)
            .override_global("TASK_RUN_DELAY", &sched.run_delay, true)
            .override_global("TASK_LAST_QUEUED", &sched.last_queued, true)
            .override_global("TASK_LAST_ARRIVAL", &sched.last_arrival, true)
            .override_global("TASK_CFS_RQ", &sched.cfs_rq, true)
            .override_global("CFS_RQ_RQ", &sched.cfs_rq_rq, true)
            .override_global("RQ_CLOCK", &sched.rq_clock, true)
            .override_global("CFS_RQ_THROTTLE_COUNT", &sched.throttle_count, true)
            .override_global("HAS_PREV_STATE", &u32::from(sched.has_prev_state), true)
            .override_global("EVENT_PERIOD", &event_period, true)
            .override_global("OPS", &ops, true)
            .override_global("SAMPLE_FLAGS", &sample_flags.map_or(0, |offset| offset + 1), true)
            .override_global("SAMPLE_RAW", &sample_raw, true)
            .override_global("RAW_DATA", &raw_data, true)
            .override_global("RAW_SIZE", &raw_size, true)
            .override_global("COUNTERS", &counters, true)
            .map_max_entries("SAMPLES", config.ring_bytes)
            .map_max_entries("THREADS", places)
            .map_max_entries("MORE_THREADS", places.div_ceil(8))
            .map_max_entries("THREAD_ENDS", if accounts { ENDS_BYTES } else { 4096 })
            .load(OBJECT)
            .map_err(EbpfError::Load)?;
        let loaded = |program| move |source| EbpfError::Program { program, source };
        let overflows = matches!(config.event, Some(EventHook::Overflow | EventHook::Op));
        for name in ["on_cpu"].into_iter().chain(overflows.then_some(ON_EVENT)) {
            let program: &mut PerfEvent = typed(&mut ebpf, name)?;
            program.load().map_err(loaded(name))?;
        }
        if let Some(EventHook::Tracepoint { .. }) = config.event {
            let program: &mut TracePoint = typed(&mut ebpf, AT_TRACEPOINT)?;
            program.load().map_err(loaded(AT_TRACEPOINT))?;
        }
        let mut task_programs = vec![("process_exec", "sched_process_exec"), ("process_exit", "sched_process_exit")];
        if offsets_known {
            task_programs.push(("process_fork", "sched_process_fork"));
        }
        if counters > 0 {
            task_programs.push(("count_at_switch", "sched_switch"));
        }
        for (name, _) in &task_programs {
            let program: &mut RawTracePoint = typed(&mut ebpf, name)?;
            program.load().map_err(loaded(name))?;
        }
        // Where the kernel does not take it, there is /proc/kallsyms.
        let kernel_names = KernelNames::load(&mut ebpf).ok();
        let targets = take_map(&mut ebpf, "TARGETS")?;
        let stats = take_map(&mut ebpf, "STATS")?;
        let event_stats = take_map(&mut ebpf, "EVENT_STATS")?;
        let (pace, last_ticks) = (take_map(&mut ebpf, "PACE")?, take_map(&mut ebpf, "LAST_TICK")?);
        let ring = take_map(&mut ebpf, "SAMPLES")?;
        let counters = if counters > 0 { Some(CounterMaps::take(&mut ebpf)?) } else { None };
        let unwind = Some(UnwindMaps::take(&mut ebpf)?);
        let attached = types.as_ref().ok().filter(|_| accounts);
        let attached = attached.and_then(|types| scheduler::attach(&mut ebpf, types, config.waits, &mut notes));
        // Last: programs cannot be loaded any more once their maps are taken.
        let sched = if attached.is_some() { Some(SchedMaps::take(&mut ebpf, places)?) } else { None };
        let wait_hook = attached.and_then(|attached| attached.wait_hook);
        // After the switches: what was born before they are seen and has ended by then would be taken for alive.
        for (name, hook) in task_programs {
            let program: &mut RawTracePoint = typed(&mut ebpf, name)?;
            program.attach(hook).map(drop).map_err(loaded(name))?;
        }
        let run_times = take_map(&mut ebpf, "RUN_TIMES")?;
        let verified = ebpf.programs().filter_map(|(name, program)| {
            // A program that is not loaded has none.
            Some((name.to_owned(), program.info().ok()?.verified_instruction_count()?))
        });
        let verified = verified.collect();
        Ok(Self {
            run_times,
            verified,
            ebpf,
            targets,
            stats,
            event_stats,
            pace,
            last_ticks,
            ring,
            unwind,
            sched,
            wait_hook,
            counters,
            kernel_names,
            newcomers: config.newcomers,
            most_stacks: config.most_stacks,
            notes,
        })
    }

    /// What is off on this kernel, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The sampling program, to be attached to perf events.
    pub fn on_cpu(&self) -> Result<BorrowedFd<'_>, EbpfError> {
        self.perf_program("on_cpu")
    }

    /// The program to run where the event beside it happens.
    pub fn on_event(&self, hook: EventHook) -> Result<BorrowedFd<'_>, EbpfError> {
        self.perf_program(hook.program())
    }

    /// How often the kernel did not run that program, for another one was running. Linux 5.14; 0 before.
    pub fn event_misses(&self, hook: EventHook) -> Result<u64, EbpfError> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.on_event(hook)?.as_raw_fd()));
        let misses =
            |info: String| info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok());
        Ok(info.ok().and_then(misses).unwrap_or(0))
    }

    fn perf_program(&self, name: &'static str) -> Result<BorrowedFd<'_>, EbpfError> {
        let file = match self.ebpf.program(name) {
            Some(Program::PerfEvent(program)) => program.fd(),
            Some(Program::TracePoint(program)) => program.fd(),
            _ => return Err(EbpfError::Missing(name)),
        };
        file.map(AsFd::as_fd).map_err(|source| EbpfError::Program { program: name, source })
    }

    /// Says how much is sampled from now on: the time between two ticks of the clock (`None` where they are not of one length),
    /// and how often the number of stacks that waits may cost, and of new programs that are looked at, is halved.
    pub fn set_pace(&mut self, period: Option<Duration>, halvings: u32) -> Result<(), EbpfError> {
        let period_ns = period.map_or(0, |period| period.as_nanos() as u64);
        let most_stacks = (self.most_stacks >> halvings.min(31)).max(1);
        let newcomers = self.newcomers >> halvings.min(31);
        let map = |map| move |source| EbpfError::Map { map, source };
        self.pace.set(0, Pace { period_ns, most_stacks, newcomers }, 0).map_err(map("PACE"))?;
        // A gap that the change lies in is not of missed ticks.
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| map("LAST_TICK")(MapError::IoError(error)))?;
        let none =
            PerCpuValues::try_from(vec![[0; 4]; cpus]).map_err(|error| map("LAST_TICK")(MapError::IoError(error)))?;
        self.last_ticks.set(0, none, 0).map_err(map("LAST_TICK"))
    }

    /// The ring buffer that samples arrive in.
    pub fn ring(&mut self) -> &mut RingBuf<MapData> {
        &mut self.ring
    }

    /// Makes a process a target. Linux keeps at most `MAX_TARGETS` here.
    pub fn add_target(&mut self, pid: u32) -> Result<(), EbpfError> {
        self.targets.insert(pid, 0, 0).map_err(|source| EbpfError::Map { map: "TARGETS", source })
    }

    /// A process is gone: its number may come again for another.
    pub fn remove_target(&mut self, pid: u32) {
        // Not there is what was wanted.
        let _ = self.targets.remove(&pid);
    }

    /// The unwinder's maps, for whoever asks first.
    pub fn take_unwind_maps(&mut self) -> Option<UnwindMaps> {
        self.unwind.take()
    }

    /// The scheduler's maps, for whoever asks first; `None` where threads are not accounted.
    pub fn take_sched_maps(&mut self) -> Option<SchedMaps> {
        self.sched.take()
    }

    /// Where the stacks of waits are taken; `None` where they are not.
    pub fn wait_hook(&self) -> Option<WaitHook> {
        self.wait_hook
    }

    /// What tells names of kernel addresses, for whoever asks first; `None` before Linux 5.13.
    pub fn take_kernel_names(&mut self) -> Option<KernelNames> {
        self.kernel_names.take()
    }

    /// The maps of counters; `None` where none are read.
    pub fn counters(&self) -> Option<&CounterMaps> {
        self.counters.as_ref()
    }

    /// Enters the threads that are there and belong to targets in the table; those in it stay, with the kernel's own account
    /// of them as it is now.
    pub fn seed_threads(&mut self) -> Result<(), EbpfError> {
        self.iterate("seed_threads")
    }

    /// Brings the kernel's own account of the threads in the table up to date, and has the waits sent that last.
    pub fn look_at_threads(&mut self) -> Result<(), EbpfError> {
        self.iterate("look_at_threads")
    }

    fn iterate(&mut self, program: &'static str) -> Result<(), EbpfError> {
        let program: &mut Iter = typed(&mut self.ebpf, program)?;
        let list = |error: &dyn std::fmt::Display| EbpfError::ThreadList(error.to_string());
        let link = program.attach().and_then(|id| program.take_link(id)).map_err(|error| list(&error))?;
        let mut iterator = link.into_file().map_err(|error| list(&error))?;
        // It says nothing; it is read so that it runs.
        std::io::Read::read_to_end(&mut iterator, &mut Vec::new()).map_err(|error| list(&error))?;
        Ok(())
    }

    /// The counters of each CPU (index: CPU number; CPUs that cannot exist have zeros).
    pub fn stats(&self) -> Result<Vec<Stats>, EbpfError> {
        let values = self.stats.get(&0, 0).map_err(|source| EbpfError::Map { map: "STATS", source })?;
        Ok(values.to_vec())
    }

    /// What happened to each overflow of the event beside the clock, a set a CPU.
    pub fn event_stats(&self) -> Result<Vec<Stats>, EbpfError> {
        let values = self.event_stats.get(&0, 0).map_err(|source| EbpfError::Map { map: "EVENT_STATS", source })?;
        Ok(values.to_vec())
    }

    /// What the programs cost so far, by their own account.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let cost = |(program, name): &(RunTimeRow, &str)| {
            let cpus = self.run_times.get(&(*program as u32), 0).ok()?;
            let run_time = Duration::from_nanos(cpus.iter().map(RunTime::total_ns).sum());
            let runs = cpus.iter().map(|cpu| cpu.runs).sum();
            let verified_instructions = self.verified.get(*name).copied();
            (runs > 0).then(|| ProgramCost { name: (*name).to_owned(), run_time, runs, verified_instructions })
        };
        RunTimeRow::ALL.iter().filter_map(cost).collect()
    }
}

/// Places of the table of threads: for eight times as many as there are on the whole host, for targets a fixed number
/// (what finds its place taken goes to a hash map of an eighth of this).
fn thread_places(filter: Filter) -> u32 {
    const FEW: u32 = 8_192;
    let threads = || -> Option<u32> {
        let load = std::fs::read_to_string("/proc/loadavg").ok()?;
        load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
    };
    match filter {
        Filter::Processes { .. } => FEW,
        Filter::All | Filter::Cgroup { .. } => {
            (threads().unwrap_or(FEW).saturating_mul(8)).clamp(2 * FEW, 32 * FEW).next_power_of_two()
        }
    }
}

/// Kernel memory of this process's eBPF maps, as the kernel accounts it (`memlock` in their fdinfo).
pub fn map_kb() -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc/self/fdinfo") else { return 0 };
    let bytes = |info: String| -> Option<u64> {
        let field = |name| info.lines().find_map(|line| line.strip_prefix(name));
        field("map_type:")?;
        field("memlock:")?.trim().parse().ok()
    };
    let infos = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    infos.filter_map(bytes).sum::<u64>() / 1024
}

/// The kernel's code that takes interrupts, but not that which takes exceptions and system calls: of `arch/x86/entry`, in the
/// order that it has there. `None` where the kernel hides its symbols.
fn interrupts() -> Option<std::ops::Range<u64>> {
    let mut start = None;
    let kallsyms = std::io::BufReader::new(std::fs::File::open("/proc/kallsyms").ok()?);
    for line in std::io::BufRead::lines(kallsyms) {
        let line = line.ok()?;
        let address = || u64::from_str_radix(line.split(' ').next()?, 16).ok().filter(|&address| address > 0);
        if line.ends_with(" asm_common_interrupt") {
            start = address();
        } else if line.ends_with(" __irqentry_text_end") {
            return Some(start?..address()?);
        }
    }
    None
}

/// `bpf_task_pt_regs` came with Linux 5.15.
fn has_task_pt_regs() -> bool {
    aya::util::KernelVersion::current().is_ok_and(|version| version >= aya::util::KernelVersion::new(5, 15, 0))
}

fn typed<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, EbpfError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(EbpfError::Missing(name))
}

fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, EbpfError>
where
    M: TryFrom<Map>,
{
    ebpf.take_map(name).and_then(|map| map.try_into().ok()).ok_or(EbpfError::Missing(name))
}
