//! How much memory this process can get: the machine's available memory and the remainder of its control groups' limits. All
//! memory planning in Zonda uses this module.

use std::fs;
use std::path::Path;
use sysinfo::System;

/// Memory that this process can get without swapping, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// The machine's available memory; `None` if unknown.
    pub machine: Option<u64>,
    /// What remains in the tightest control group, among this process's own and all above it; `None` if none has a limit.
    pub group: Option<u64>,
    /// The lowest limit among them.
    pub group_limit: Option<u64>,
}

impl Available {
    /// Reads the current figures.
    pub fn now() -> Available {
        let mut system = System::new();
        system.refresh_memory();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Available {
            machine: Some(system.available_memory()).filter(|&bytes| bytes > 0),
            ..Available::in_groups(Path::new("/sys/fs/cgroup"), &groups)
        }
    }

    /// What remains in the control groups listed in `/proc/self/cgroup`.
    fn in_groups(root: &Path, lines: &str) -> Available {
        let found: Vec<Group> = lines.lines().flat_map(|line| in_group(root, line)).collect();
        Available {
            machine: None,
            group: found.iter().map(|g| g.left).min(),
            group_limit: found.iter().map(|g| g.limit).min(),
        }
    }

    /// The smaller of both, in bytes; `None` if the machine's available memory is unknown.
    pub fn bytes(&self) -> Option<u64> {
        self.machine.map(|machine| machine.min(self.group.unwrap_or(u64::MAX)))
    }
}

/// A control group with a limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    left: u64,
    limit: u64,
}

/// The limits of a group and of all above it, from a line of `/proc/self/cgroup` (memory controller, version 1 or 2). In a
/// container the files are at the root, although the line names a path outside it.
fn in_group(root: &Path, line: &str) -> Vec<Group> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next(), fields.next(), fields.next().unwrap_or("/"));
    let (root, names) = match controllers {
        Some("") => (root.to_owned(), ["memory.max", "memory.current", "inactive_file"]),
        Some(c) if c.split(',').any(|c| c == "memory") => {
            (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
        }
        _ => return Vec::new(),
    };
    let own = root.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|folder| folder.starts_with(&root))
        .filter_map(|folder| {
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            // `max`, or the largest number in version 1, means no limit.
            let limit: u64 = read(names[0])?.trim().parse().ok().filter(|&limit| limit < 1 << 60)?;
            let used: u64 = read(names[1])?.trim().parse().ok()?;
            // Cached files, which the system would drop first.
            let stat = read("memory.stat").unwrap_or_default();
            let cached =
                stat.lines().find_map(|l| l.strip_prefix(names[2])?.trim().parse().ok()).unwrap_or(0);
            Some(Group { left: limit.saturating_sub(used.saturating_sub(cached)), limit })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_is_used_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory.max", "max\n");
        put("a/memory.max", "1000000\n");
        put("a/memory.current", "400000\n");
        put("a/memory.stat", "anon 1\ninactive_file 100000\n");
        put("a/b/memory.max", "800000\n");
        put("a/b/memory.current", "50000\n");
        let of = |lines| Available::in_groups(folder.path(), lines);
        // 800,000 − 50,000 in its own group, 1,000,000 − 300,000 in the one above.
        let two = Available { machine: None, group: Some(700_000), group_limit: Some(800_000) };
        assert_eq!(of("0::/a/b"), two);
        put("memory/x/memory.limit_in_bytes", "5000\n");
        put("memory/x/memory.usage_in_bytes", "6000\n");
        put("memory/x/memory.stat", "total_inactive_file 1500\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/memory.usage_in_bytes", "1\n");
        let one = Available { machine: None, group: Some(500), group_limit: Some(5000) };
        assert_eq!(of("4:memory,hugetlb:/x\n3:cpuset:/"), one);
        for none in ["", "3:cpuset:/", "nonsense", "0::/"] {
            assert_eq!(of(none), Available::default(), "{none:?}");
        }
    }

    #[test]
    fn the_smaller_of_machine_and_group_is_used() {
        let left = |machine, group| Available { machine, group, group_limit: None }.bytes();
        assert_eq!(
            (left(Some(5), Some(3)), left(Some(2), Some(3)), left(Some(2), None)),
            (Some(3), Some(2), Some(2))
        );
        assert_eq!(left(None, Some(3)), None);
        assert!(Available::now().bytes().is_none_or(|bytes| bytes > 0));
    }
}
