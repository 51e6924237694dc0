//! How many processors this process may really use: its affinity mask, cut by the cgroup's CPU quota.
//!
//! A container started with two processors' worth of quota on a machine of twenty still sees twenty in its
//! affinity mask; a pool of twenty busy threads would be throttled most of the time.

use std::fs;
use std::path::Path;

use crate::cgroup::{self, Group, Version};

/// The number of processors that affinity and quota allow, at least 1. Read anew at each call.
#[must_use]
pub fn available() -> usize {
    let affinity = affinity().unwrap_or(1);
    match quota(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")) {
        // Rounded up: 1.5 processors keep two workers busy most of the time, and one never.
        Some(quota) => affinity.min(ceil(quota)).max(1),
        None => affinity,
    }
}

fn affinity() -> Option<usize> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    Some((set.count() as usize).max(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; a quota is positive")]
fn ceil(quota: f64) -> usize {
    quota.ceil() as usize
}

/// The smallest quota, in processors, on the way from our cgroup to the root, by cgroup v2 or v1.
fn quota(membership: &Path, mount: &Path) -> Option<f64> {
    let membership = fs::read_to_string(membership).ok()?;
    let quota_of = |group: Group| match group.version {
        Version::One => v1_quota(&group.folder),
        Version::Two => v2_quota(&group.folder),
    };
    cgroup::groups(&membership, mount, "cpu").filter_map(quota_of).reduce(f64::min)
}

fn v2_quota(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    ratio(words.next()?, words.next()?)
}

fn v1_quota(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// `max` and `-1` mean "no quota".
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("manyhands-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn quota_of(name: &str, files: &[(&str, &str)]) -> Option<f64> {
        let root = tree(name, files);
        let found = quota(&root.join("membership"), &root);
        fs::remove_dir_all(root).unwrap();
        found
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let found = quota_of(
            "v2",
            &[
                ("membership", "0::/pod/box\n"),
                ("pod/cpu.max", "150000 100000\n"),
                ("pod/box/cpu.max", "max 100000\n"),
            ],
        );
        assert_eq!(found, Some(1.5));
    }

    #[test]
    fn the_first_version_of_cgroups_is_read_too() {
        let found = quota_of(
            "v1",
            &[
                ("membership", "4:memory:/x\n3:cpu,cpuacct:/x\n"),
                ("cpu/x/cpu.cfs_quota_us", "-1\n"),
                ("cpu/x/cpu.cfs_period_us", "100000\n"),
                ("cpu/cpu.cfs_quota_us", "200000\n"),
                ("cpu/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(found, Some(2.0));
    }

    #[test]
    fn no_quota_is_no_limit() {
        assert_eq!(quota_of("none", &[("membership", "0::/\n"), ("cpu.max", "max 100000")]), None);
    }

    #[test]
    fn the_machine_has_at_least_one() {
        assert!(available() >= 1);
    }
}
