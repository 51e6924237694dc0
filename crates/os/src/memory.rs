//! How much memory this process holds, and how much it may still take: what the machine has left, cut by the limits of its cgroups.
//!
//! An estimate in the asker's favour: what the kernel could drop or swap out counts as available, and others may
//! take it first. It tells what certainly cannot be had.

use std::fs;
use std::io;
use std::path::Path;

use crate::cgroup::{self, Group, Version};

/// Bytes of memory that this process holds, shared ones included.
///
/// # Errors
/// None in practice: the kernel's table is not what it should be.
pub fn resident() -> io::Result<u64> {
    let kibibytes = row(&fs::read_to_string("/proc/self/status")?, "VmRSS:");
    Ok(kibibytes.ok_or(io::ErrorKind::InvalidData)? * 1024)
}

/// Bytes that may still be had; `None` if nothing tells.
#[must_use]
pub fn available() -> Option<u64> {
    available_by(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available_by(proc: &Path, mount: &Path) -> Option<u64> {
    let table = fs::read_to_string(proc.join("meminfo")).ok()?;
    let kibibytes = |name| row(&table, name).map_or(0, |value| value * 1024);
    let swap = kibibytes("SwapFree:");
    let machine = kibibytes("MemAvailable:").saturating_add(swap);
    let groups = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let least = cgroup::groups(&groups, mount, "memory").filter_map(|group| headroom(&group)).min();
    Some(least.map_or(machine, |headroom| headroom.saturating_add(swap).min(machine)))
}

/// What a group may still use: its limit, less what it uses, but for files that the kernel would drop.
fn headroom(group: &Group) -> Option<u64> {
    let [limit, usage, active, inactive] = match group.version {
        Version::One => {
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"]
        }
        Version::Two => ["memory.max", "memory.current", "active_file", "inactive_file"],
    };
    let read = |name: &str| fs::read_to_string(group.folder.join(name)).ok();
    // No limit is the word "max", or a number beyond all memory.
    let limit: u64 = read(limit)?.trim().parse().ok()?;
    let usage: u64 = read(usage)?.trim().parse().ok()?;
    let table = read("memory.stat").unwrap_or_default();
    let files = row(&table, active).unwrap_or(0).saturating_add(row(&table, inactive).unwrap_or(0));
    Some(limit.saturating_sub(usage.saturating_sub(files)))
}

/// The number in the row of that name.
fn row(table: &str, name: &str) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == name)?;
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const MEMINFO: &str = "MemTotal: 1000 kB\nMemAvailable: 100 kB\nSwapFree: 10 kB\n";

    fn available(files: &[(&str, &str)]) -> Option<u64> {
        let scratch = Scratch::new();
        for (path, text) in files {
            let path = scratch.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available_by(&scratch.path("proc"), &scratch.path("cgroup"))
    }

    #[test]
    fn without_limits_the_machine_decides() {
        let files =
            [("proc/meminfo", MEMINFO), ("proc/self/cgroup", "0::/\n"), ("cgroup/memory.max", "max\n")];
        assert_eq!(available(&files), Some(110 * 1024));
        assert_eq!(available(&files[..1]), Some(110 * 1024));
        assert_eq!(available(&[]), None);
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let found = available(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("cgroup/pod/memory.max", "60000\n"),
            ("cgroup/pod/memory.current", "50000\n"),
            ("cgroup/pod/memory.stat", "anon 1\nactive_file 3000\ninactive_file 4000\n"),
            ("cgroup/pod/box/memory.max", "max\n"),
            ("cgroup/pod/box/memory.current", "50000\n"),
        ]);
        assert_eq!(found, Some(10_000 + 3000 + 4000 + 10 * 1024));
    }

    #[test]
    fn the_first_version_of_cgroups_is_read_too() {
        let found = available(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/x\n"),
            ("cgroup/memory/x/memory.limit_in_bytes", "30000\n"),
            ("cgroup/memory/x/memory.usage_in_bytes", "40000\n"),
            ("cgroup/memory/x/memory.stat", "active_file 5\ntotal_active_file 0\ntotal_inactive_file 0\n"),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cgroup/memory/memory.usage_in_bytes", "1\n"),
        ]);
        assert_eq!(found, Some(10 * 1024), "over its limit: only swap is left");
    }

    #[test]
    fn what_is_written_to_is_held() {
        const SIZE: usize = 64 << 20;
        let before = resident().unwrap();
        let written = std::hint::black_box(vec![1_u8; SIZE]);
        let during = resident().unwrap();
        drop(written);
        assert!(during >= before + SIZE as u64 * 9 / 10, "{before} {during}");
    }

    #[test]
    fn this_machine_tells() {
        assert!(super::available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
