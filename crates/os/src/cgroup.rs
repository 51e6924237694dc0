//! The control groups that this process is in: a limit of any of them is a limit of the process.

use std::path::{Path, PathBuf};

/// A group on the way from ours to the root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) version: Version,
    /// Where its files are.
    pub(crate) folder: PathBuf,
}

/// The two generations of control groups, whose files have different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Every controller has a tree of its own.
    One,
    Two,
}

/// The groups that have a say in what `controller` shares out, by the text of `/proc/self/cgroup`, ours first.
///
/// Within a container a path may name the host's hierarchy, which is not mounted: of these only the root exists.
pub(crate) fn groups<'a>(
    membership: &'a str,
    mount: &'a Path,
    controller: &'a str,
) -> impl Iterator<Item = Group> + 'a {
    membership.lines().filter_map(move |line| tree(line, mount, controller)).flat_map(
        |(version, root, path)| {
            path.ancestors().map(move |path| Group { version, folder: root.join(path) }).collect::<Vec<_>>()
        },
    )
}

/// The tree of one line, `hierarchy:controllers:path`: its root, and the way from there to our group.
fn tree<'a>(line: &'a str, mount: &Path, controller: &str) -> Option<(Version, PathBuf, &'a Path)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = Path::new(path.trim_start_matches('/'));
    if controllers.is_empty() {
        return Some((Version::Two, mount.to_owned(), path));
    }
    let is_ours = controllers.split(',').any(|name| name == controller);
    is_ours.then(|| (Version::One, mount.join(controller), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(membership: &str) -> Vec<(Version, String)> {
        let groups = groups(membership, Path::new("/cg"), "cpu");
        groups.map(|group| (group.version, group.folder.to_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn every_group_up_to_the_root_counts() {
        let expected = ["/cg/pod/box", "/cg/pod", "/cg/"].map(|folder| (Version::Two, folder.to_owned()));
        assert_eq!(found("0::/pod/box\n"), expected);
        assert_eq!(found("0::/\n"), [(Version::Two, "/cg/".to_owned())]);
    }

    #[test]
    fn of_the_first_version_only_the_tree_of_the_controller_counts() {
        let expected = ["/cg/cpu/x", "/cg/cpu/"].map(|folder| (Version::One, folder.to_owned()));
        assert_eq!(found("4:memory:/x\n3:cpu,cpuacct:/x\n2:cpuset:/x\n"), expected);
    }

    #[test]
    fn what_is_no_line_of_the_table_is_skipped() {
        assert_eq!(found("\n0:\nnonsense\n"), []);
    }
}
