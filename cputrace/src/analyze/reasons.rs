//! Why a thread waits: a readable table of rules (`wait_reasons.txt` says how it is written), of which the first that fits
//! counts. A user's own table comes before ours.

use std::collections::HashMap;

use crate::model::WaitState;

/// Ours.
const BUILT_IN: &str = include_str!("wait_reasons.txt");

/// What is wrong with a table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the wait rules: {problem}")]
pub struct RuleError {
    /// Which line, from 1 on.
    pub line: usize,
    /// What about it.
    pub problem: String,
}

/// The table.
#[derive(Debug)]
pub struct WaitReasons {
    rules: Vec<Rule>,
    /// Which conditions a function's name fulfils, for names that were asked for before.
    known: HashMap<(Side, String), Vec<Condition>>,
}

#[derive(Debug)]
struct Rule {
    reason: String,
    /// Empty: any.
    states: Vec<WaitState>,
    threads: Vec<String>,
    /// Of each, one pattern has to fit a function of that side.
    functions: Vec<(Side, Vec<String>)>,
}

/// Whose functions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Side {
    Kernel,
    User,
}

/// Rule, and which of its conditions on functions.
type Condition = (usize, usize);

/// A wait, as the rules see it.
#[derive(Clone, Debug)]
pub struct Waiting<'a> {
    /// What the scheduler says.
    pub state: WaitState,
    /// The thread's name.
    pub thread: &'a str,
    /// Functions of the kernel.
    pub kernel: &'a [String],
    /// Functions of the program.
    pub user: &'a [String],
}

impl WaitReasons {
    /// The built-in table, behind a user's own.
    pub fn new(own: &str) -> Result<Self, RuleError> {
        let rules = own.lines().enumerate().chain(BUILT_IN.lines().enumerate());
        let rules = rules.filter_map(|(index, line)| {
            let line = line.trim();
            let is_rule = !line.is_empty() && !line.starts_with('#');
            is_rule.then(|| Rule::parse(line).map_err(|problem| RuleError { line: index + 1, problem }))
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, known: HashMap::new() })
    }

    /// The reason of a wait.
    pub fn of(&mut self, waiting: &Waiting<'_>) -> &str {
        let mut fulfilled: Vec<Condition> = Vec::new();
        for (side, names) in [(Side::Kernel, waiting.kernel), (Side::User, waiting.user)] {
            for name in names {
                fulfilled.extend(self.conditions(side, name));
            }
        }
        let rule = self.rules.iter().enumerate().find(|(index, rule)| {
            (rule.states.is_empty() || rule.states.contains(&waiting.state))
                && (rule.threads.is_empty() || fits_one(&rule.threads, waiting.thread))
                && (0..rule.functions.len()).all(|condition| fulfilled.contains(&(*index, condition)))
        });
        rule.map_or("waiting", |(_, rule)| &rule.reason)
    }

    fn conditions(&mut self, side: Side, name: &str) -> &[Condition] {
        let rules = &self.rules;
        self.known.entry((side, name.to_owned())).or_insert_with(|| {
            let conditions = rules.iter().enumerate().flat_map(|(index, rule)| {
                rule.functions.iter().enumerate().map(move |(condition, wanted)| ((index, condition), wanted))
            });
            let fulfilled = conditions.filter(|(_, (of, patterns))| *of == side && fits_one(patterns, name));
            fulfilled.map(|(condition, _)| condition).collect()
        })
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, String> {
        let (reason, conditions) = line.split_once(':').ok_or("there is no colon behind the reason")?;
        let mut rule =
            Self { reason: reason.trim().to_owned(), states: Vec::new(), threads: Vec::new(), functions: Vec::new() };
        if rule.reason.is_empty() {
            return Err("there is no reason before the colon".to_owned());
        }
        for condition in conditions.split_whitespace() {
            let (what, values) = condition.split_once('=').ok_or(format!("{condition:?} is no NAME=VALUE"))?;
            let values = values.split('|').map(str::to_owned);
            match what {
                "state" => rule.states.extend(values.map(state).collect::<Result<Vec<_>, _>>()?),
                "thread" => rule.threads.extend(values),
                "kernel" => rule.functions.push((Side::Kernel, values.collect())),
                "user" => rule.functions.push((Side::User, values.collect())),
                _ => return Err(format!("{what:?} is none of state, thread, kernel and user")),
            }
        }
        Ok(rule)
    }
}

fn state(name: String) -> Result<WaitState, String> {
    WaitState::all().find(|state| state.name() == name).ok_or_else(|| format!("there is no state {name:?}"))
}

fn fits_one(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

/// Whether a name fits a pattern, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| name.strip_prefix(start)) else { return false };
    let Some(end) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(end)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::OffCpuState;

    fn reason(own: &str, state: WaitState, kernel: &[&str], user: &[&str]) -> String {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (kernel, user) = (names(kernel), names(user));
        let waiting = Waiting { state, thread: "worker", kernel: &kernel, user: &user };
        WaitReasons::new(own).unwrap().of(&waiting).to_owned()
    }

    /// Stacks as kernels and programs have them, and what people call it.
    #[test]
    fn knows_common_waits() {
        let sleeping = WaitState::OffCpu(OffCpuState::Sleeping);
        let disk = WaitState::OffCpu(OffCpuState::Uninterruptible);
        let futex = ["schedule", "futex_wait_queue", "__futex_wait", "futex_wait", "do_futex"];
        assert_eq!(reason("", sleeping, &futex, &["__lll_lock_wait", "pthread_mutex_lock"]), "lock");
        assert_eq!(reason("", sleeping, &futex, &["pthread_cond_wait@@GLIBC_2.3.2", "main"]), "condition variable");
        assert_eq!(
            reason("", sleeping, &futex, &["std::sys::sync::condvar::futex::Condvar::wait"]),
            "condition variable"
        );
        for lock in
            ["std::sys::sync::mutex::futex::Mutex::lock_contended", "pthread_rwlock_wrlock", "absl::Mutex::LockSlow"]
        {
            assert_eq!(reason("", sleeping, &futex, &["syscall", lock, "main"]), "lock");
        }
        for other in ["jobserver::imp::spawn_helper::{closure#1}", "tokio::runtime::context::block_on", "clock_tick"] {
            assert_eq!(reason("", sleeping, &futex, &["syscall", other, "main"]), "futex");
        }
        assert_eq!(reason("", sleeping, &["schedule", "do_nanosleep", "hrtimer_nanosleep"], &[]), "sleep");
        assert_eq!(reason("", sleeping, &["schedule_hrtimeout_range", "ep_poll", "do_epoll_wait"], &[]), "idle poll");
        assert_eq!(reason("", sleeping, &["schedule", "anon_pipe_read", "vfs_read"], &["read"]), "pipe");
        assert_eq!(reason("", disk, &["io_schedule", "folio_wait_bit_common", "filemap_read"], &["pread"]), "disk I/O");
        assert_eq!(reason("", disk, &["io_schedule", "filemap_fault", "asm_exc_page_fault"], &["main"]), "page fault");
        let exit = ["schedule", "irqentry_exit_to_user_mode"];
        assert_eq!(reason("", WaitState::Runnable, &exit, &["main"]), "preempted");
        assert_eq!(reason("", WaitState::Throttled, &exit, &["main"]), "CPU quota");
        assert_eq!(reason("", WaitState::OffCpu(OffCpuState::Stopped), &["do_signal_stop"], &[]), "stopped");
        assert_eq!(reason("", disk, &["something_new"], &[]), "waiting (uninterruptible)");
        assert_eq!(reason("", sleeping, &[], &[]), "waiting");
    }

    /// A user's rules come first, and may ask for all of it at once.
    #[test]
    fn users_rules_come_first() {
        let own = "# ours\nidle queue: thread=work* state=sleeping kernel=futex_wait* user=*::pop user=main\n";
        let sleeping = WaitState::OffCpu(OffCpuState::Sleeping);
        assert_eq!(reason(own, sleeping, &["futex_wait"], &["Queue::pop", "main"]), "idle queue");
        assert_eq!(reason(own, sleeping, &["futex_wait"], &["Queue::pop"]), "futex");
    }

    /// A table with a mistake says where.
    #[test]
    fn mistakes_are_said() {
        for (own, line, problem) in [
            ("lock kernel=x", 1, "no colon"),
            ("\n: kernel=x", 2, "no reason"),
            ("lock: kernel", 1, "NAME=VALUE"),
            ("lock: state=blocked", 1, "no state"),
            ("# c\n\nlock: file=x", 3, "none of"),
        ] {
            let error = WaitReasons::new(own).unwrap_err();
            assert!(error.line == line && error.problem.contains(problem), "{error}");
        }
    }

    /// As a shell has it.
    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
