//! What `/proc` says of one process that groups are made by.

use std::fs;

use procfs::process::Process;

/// One process, as a rule sees it. What could not be read is empty: it may have ended, or be another user's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Its name.
    pub comm: String,
    /// Its executable's path, as it sees it.
    pub exe: String,
    /// Its command line, joined by blanks.
    pub cmdline: String,
    /// The name of the user it runs as, or the number where there is no name.
    pub user: String,
    /// Its control group's path.
    pub cgroup: String,
    /// Whether it is a thread of the kernel.
    pub is_kernel: bool,
    /// When it started, in clock ticks since boot; 0 where that is not known.
    pub start_ticks: u64,
}

impl Facts {
    /// Reads them; `comm` is what is known already.
    pub fn read(pid: i32, comm: &str) -> Self {
        let Ok(process) = Process::new(pid) else { return Self::of_ended(comm) };
        let Ok(stat) = process.stat() else { return Self::of_ended(comm) };
        let cmdline = process.cmdline().unwrap_or_default().join(" ");
        let exe = process.exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let exe = exe.strip_suffix(" (deleted)").map(ToOwned::to_owned).unwrap_or(exe);
        // kthreadd and its children; a process without a command line can also be one that is about to end.
        let is_kernel = pid == 2 || stat.ppid == 2;
        Self {
            comm: stat.comm,
            exe,
            cmdline,
            user: process.uid().map(user_name).unwrap_or_default(),
            cgroup: cgroup(&process),
            is_kernel,
            start_ticks: stat.starttime,
        }
    }

    /// Of a process that is gone: all that is known is its name.
    pub fn of_ended(comm: &str) -> Self {
        Self { comm: comm.to_owned(), ..Self::default() }
    }

    /// The last part of the executable's path.
    pub fn exe_base(&self) -> &str {
        self.exe.rsplit('/').next().unwrap_or_default()
    }

    /// The systemd unit: the innermost service, scope or slice of the control group.
    pub fn unit(&self) -> &str {
        let is_unit = |part: &&str| [".service", ".scope"].iter().any(|ending| part.ends_with(ending));
        self.cgroup.rsplit('/').find(is_unit).unwrap_or_default()
    }

    /// The container's id, as Docker, containerd, CRI-O and Podman have it in the control group: 64 hexadecimal digits, of
    /// which the first 12 are enough.
    pub fn container(&self) -> &str {
        let id_in = |part: &'_ str| {
            let id = part.trim_end_matches(".scope");
            let id = id.rsplit('-').next().unwrap_or(id);
            id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let Some(part) = self.cgroup.rsplit('/').find(|part| id_in(part)) else { return "" };
        let id = part.trim_end_matches(".scope");
        &id[id.len() - 64..id.len() - 52]
    }

    /// The Kubernetes pod's uid, where the control group tells it: `kubepods[-class]-podUID.slice` or `kubepods/class/podUID`.
    pub fn pod(&self) -> String {
        let mut parts = self.cgroup.split('/').filter(|_| self.cgroup.contains("kubepods"));
        let pod = parts.find_map(|part| {
            let part = part.trim_end_matches(".slice");
            let uid = part.strip_prefix("pod").or_else(|| part.split_once("-pod").map(|(_, uid)| uid))?;
            Some(uid.replace('_', "-"))
        });
        pod.unwrap_or_default()
    }
}

/// The path in the unified hierarchy, else in systemd's own.
fn cgroup(process: &Process) -> String {
    let Ok(groups) = process.cgroups() else { return String::new() };
    let unified = groups.0.iter().find(|group| group.hierarchy == 0);
    let named = || groups.0.iter().find(|group| group.controllers.iter().any(|name| name == "name=systemd"));
    unified.or_else(named).map(|group| group.pathname.clone()).unwrap_or_default()
}

/// `getpwuid` of local users alone: asking a directory service for each process is no profiler's business.
fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units, containers and pods are found in the paths that the common managers make, and nowhere else.
    #[test]
    fn control_groups_are_understood() {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let check = |cgroup: &str, unit: &str, container: &str, pod: &str| {
            let facts = Facts { cgroup: cgroup.to_owned(), ..Facts::default() };
            assert_eq!((facts.unit(), facts.container(), &*facts.pod()), (unit, container, pod), "{cgroup}");
        };
        check("/", "", "", "");
        check("/system.slice/nginx.service", "nginx.service", "", "");
        check("/user.slice/user-0.slice/session-3.scope", "session-3.scope", "", "");
        check(&format!("/docker/{ID}"), "", "0123456789ab", "");
        let docker = format!("docker-{ID}.scope");
        check(&format!("/system.slice/{docker}"), &docker, "0123456789ab", "");
        let crio = format!("crio-{ID}.scope");
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice/{crio}"),
            &crio,
            "0123456789ab",
            "1a-2b",
        );
        check(&format!("/kubepods/besteffort/pod1a-2b/{ID}"), "", "0123456789ab", "1a-2b");
        check("/system.slice/podman.service", "podman.service", "", "");
    }

    /// Of a living process everything is read, of a dead one what was known before.
    #[test]
    fn processes_are_read() {
        let own = Facts::read(std::process::id().cast_signed(), "?");
        assert!(
            own.start_ticks > 0 && !own.exe.is_empty() && !own.cmdline.is_empty() && !own.user.is_empty(),
            "{own:?}"
        );
        assert!(own.exe.ends_with(own.exe_base()) && !own.is_kernel);
        let gone = Facts::read(i32::MAX, "ghost");
        assert_eq!(gone, Facts { comm: "ghost".to_owned(), ..Facts::default() });
    }
}
