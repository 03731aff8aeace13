//! What a server costs: processor and memory of all its processes.

use std::collections::HashMap;
use std::path::PathBuf;

/// A process and everything it started.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(parent) = parent(pid)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut todo) = (Vec::new(), vec![root]);
    while let Some(pid) = todo.pop() {
        found.push(pid);
        todo.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): field 4, counted from the end of the name.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processor seconds of all threads there are, to the nanosecond: ticks of
/// 10 ms would be most of what is measured here.
pub fn processor(pids: &[u32]) -> f64 {
    let tasks =
        pids.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten());
    let spent = |task: PathBuf| -> Option<u64> {
        let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let nanos: u64 = tasks.flatten().filter_map(|task| spent(task.path())).sum();
    nanos as f64 / 1e9
}

/// Memory in MiB: resident, and with what is shared counted in shares.
pub fn memory(pids: &[u32]) -> (f64, f64) {
    let (mut resident, mut shares) = (0.0, 0.0);
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
            kib.unwrap_or_default() / 1024.0
        };
        resident += field("Rss:");
        shares += field("Pss:");
    }
    (resident, shares)
}
