//! What a server's processes have used, from `/proc`: CPU time and memory of a process and all that descend from it.
//! Never signals one; see `process.rs`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Of the CPU times in `/proc/PID/stat`: fixed by Linux for user space (`USER_HZ`), whatever the kernel's own rate.
const TICKS_PER_SECOND: u64 = 100;

/// A process, as `/proc/PID/stat` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: i32,
    /// Its parent's id.
    pub parent: i32,
    /// When it started, in ticks since the boot. With the id, it names a process for good.
    pub started: u64,
    /// User and system time so far, in ticks.
    ticks: u64,
}

impl Process {
    /// Reads a line of `/proc/PID/stat`. The name, in parentheses, may itself hold spaces and parentheses. One that has
    /// ended and waits for its parent to notice counts as gone.
    fn parse(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split_whitespace().collect();
        if matches!(fields.first(), Some(&("Z" | "X"))) {
            return None;
        }
        // The first of them is the third that `man proc_pid_stat` numbers.
        let number = |numbered: usize| fields.get(numbered - 3)?.parse::<u64>().ok();
        Some(Self {
            id: id.trim().parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            started: number(22)?,
            ticks: number(14)? + number(15)?,
        })
    }

    /// The process of that id, if there is one.
    pub fn read(id: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }
}

/// A process and its descendants, itself first; empty when it has ended.
pub fn tree(root: i32) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    descendants(root, &ids.filter_map(Process::read).collect::<Vec<_>>())
}

fn descendants(root: i32, all: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = all.iter().filter(|process| process.id == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.id) {
        found.extend(all.iter().filter(|process| process.parent == parent && process.id != parent).cloned());
        next += 1;
    }
    found
}

/// CPU time of a process and its descendants so far, to a hundredth of a second each.
pub fn cpu(root: i32) -> Duration {
    let ticks: u64 = tree(root).iter().map(|process| process.ticks).sum();
    Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND))
}

/// Memory of a process tree, in kibibytes. Pages that processes share count once for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Resident now.
    pub now_kib: u64,
    /// The most that was ever resident: the sum of each process's own peak.
    pub peak_kib: u64,
}

/// Memory of a process and its descendants.
///
/// # Errors
/// When the process has ended.
pub fn memory(root: i32) -> Result<Memory> {
    let mut sum = Memory::default();
    for process in tree(root) {
        let path = format!("/proc/{}/status", process.id);
        // A child that has just ended uses nothing.
        let Ok(status) = std::fs::read_to_string(Path::new(&path)) else { continue };
        sum.now_kib += kib(&status, "VmRSS").unwrap_or(0);
        sum.peak_kib += kib(&status, "VmHWM").unwrap_or(0);
    }
    (sum.peak_kib > 0).then_some(sum).with_context(|| format!("process {root} has ended"))
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4242 (node (main) x) S 17 4242 17 0 -1 4194304 9 0 0 0 250 75 0 0 20 0 11 0 987654 \
        1000000 2000 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0";

    fn process(id: i32, parent: i32) -> Process {
        Process { id, parent, started: 1, ticks: 1 }
    }

    #[test]
    fn reads_a_stat_line_whose_name_has_parentheses() {
        let expected = Process { id: 4242, parent: 17, started: 987_654, ticks: 325 };
        assert_eq!(Process::parse(STAT), Some(expected));
        assert_eq!(Process::parse(&STAT.replace(" S ", " Z ")), None);
        assert_eq!(Process::parse("4242 (node) S 17"), None);
        assert_eq!(Process::parse(""), None);
    }

    #[test]
    fn a_tree_holds_all_that_descend_and_nothing_else() {
        let all = [process(1, 0), process(10, 1), process(30, 20), process(20, 10), process(11, 1)];
        let ids = |root| descendants(root, &all).iter().map(|process| process.id).collect::<Vec<_>>();
        assert_eq!(ids(10), [10, 20, 30]);
        assert_eq!(ids(99), Vec::<i32>::new());
    }

    #[test]
    fn reads_memory_of_a_status_file() {
        let status = "Name:\tnode\nVmHWM:\t   81234 kB\nVmRSS:\t   70000 kB\nVmRSSx:\t1 kB\n";
        assert_eq!((kib(status, "VmHWM"), kib(status, "VmRSS")), (Some(81_234), Some(70_000)));
        assert_eq!(kib(status, "VmSwap"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(memory(own).unwrap().peak_kib > 0);
        assert!(memory(i32::MAX).is_err());
    }
}
