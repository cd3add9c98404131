//! What is where: the directories and files that are always there.

use std::ffi::OsStr;
use std::sync::LazyLock;

use engine::ipc_sysctl::Sysctl;
use engine::options::SYSVIPC;
use engine::proc::Sysvipc;

/// What an inode is.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    /// One that only has others in it.
    Directory,
    /// That of the POSIX queues.
    Mqueue,
    /// A queue in it, by its identifier.
    Queue(i32),
    /// One of `/proc/sysvipc`.
    List(Sysvipc),
    /// One of `/proc/sys`.
    Sysctl(&'static Sysctl),
}

struct Entry {
    parent: u64,
    name: &'static str,
    node: Node,
}

/// The topmost directory's inode.
const ROOT: u64 = 1;
/// Inodes of queues: these, and their identifiers.
const QUEUES: u64 = 1 << 32;

/// An entry's inode is one more than its place.
static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let mut entries = Vec::new();
    let mut add = |parent, name, node| {
        entries.push(Entry { parent, name, node });
        entries.len() as u64
    };
    let root = add(0, "", Node::Directory);
    add(root, "mqueue", Node::Mqueue);
    let proc = add(root, "proc", Node::Directory);
    let lists = add(proc, "sysvipc", Node::Directory);
    for (name, list) in [("msg", Sysvipc::Msg), ("sem", Sysvipc::Sem), ("shm", Sysvipc::Shm)] {
        if SYSVIPC {
            add(lists, name, Node::List(list));
        }
    }
    let sys = add(proc, "sys", Node::Directory);
    let fs = add(sys, "fs", Node::Directory);
    let directories = [
        ("kernel/", add(sys, "kernel", Node::Directory)),
        ("fs/mqueue/", add(fs, "mqueue", Node::Directory)),
    ];
    for sysctl in Sysctl::all() {
        if let Some((directory, name)) = place(sysctl)
            && let Some((_, parent)) = directories.iter().find(|(path, _)| *path == directory)
        {
            add(*parent, name, Node::Sysctl(sysctl));
        }
    }
    entries
});

/// The directory of a sysctl's file below `/proc/sys`, with a slash behind it, and the file's name.
fn place(sysctl: &'static Sysctl) -> Option<(&'static str, &'static str)> {
    Some((str::from_utf8(sysctl.directory()).ok()?, str::from_utf8(sysctl.file()?).ok()?))
}

/// What an inode is, if it is one.
pub(crate) fn node(ino: u64) -> Option<Node> {
    if ino >= QUEUES {
        return i32::try_from(ino - QUEUES).ok().map(Node::Queue);
    }
    let at = usize::try_from(ino.checked_sub(ROOT)?).ok()?;
    ENTRIES.get(at).map(|entry| entry.node)
}

/// The inode of the queue of an identifier.
pub(crate) fn ino_of_queue(id: i32) -> u64 {
    QUEUES + u64::from(id.cast_unsigned())
}

/// The inode that a directory is in; its own for the topmost one.
pub(crate) fn parent(ino: u64) -> u64 {
    let at = usize::try_from(ino.saturating_sub(ROOT)).unwrap_or(0);
    ENTRIES.get(at).map_or(ROOT, |entry| entry.parent.max(ROOT))
}

/// What is in a directory: inodes and names.
pub(crate) fn children(parent: u64) -> impl Iterator<Item = (u64, &'static str, Node)> {
    (ROOT..)
        .zip(ENTRIES.iter())
        .filter(move |(_, entry)| entry.parent == parent)
        .map(|(ino, e)| (ino, e.name, e.node))
}

/// The inode of a name in a directory.
pub(crate) fn child(parent: u64, name: &OsStr) -> Option<(u64, Node)> {
    children(parent).find(|(_, own, _)| name == *own).map(|(ino, _, node)| (ino, node))
}

/// The paths of all files of sysctls, from the topmost directory on.
pub(crate) fn sysctl_paths() -> impl Iterator<Item = String> {
    Sysctl::all().filter_map(place).map(|(directory, name)| format!("proc/sys/{directory}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(path: &str) -> Option<(u64, Node)> {
        path.split('/').try_fold((ROOT, Node::Directory), |(ino, _), name| child(ino, OsStr::new(name)))
    }

    #[test]
    fn every_file_is_found_by_its_path_and_its_inode() {
        for path in sysctl_paths() {
            let (ino, found) = walk(&path).unwrap_or_else(|| panic!("{path}"));
            let (Node::Sysctl(by_path), Some(Node::Sysctl(by_ino))) = (found, node(ino)) else {
                panic!("{path}")
            };
            assert_eq!(
                (by_path.name(), by_path.name()),
                (by_ino.name(), &*path["proc/sys/".len()..].replace('/', "."))
            );
        }
        assert!(sysctl_paths().any(|path| path == "proc/sys/fs/mqueue/queues_max"));
        assert!(matches!(walk("proc/sysvipc/shm"), Some((_, Node::List(Sysvipc::Shm)))));
        assert!(walk("proc/sys/kernel/hostname").is_none() && walk("mqueue/x").is_none());
    }

    #[test]
    fn a_directory_knows_its_parent() {
        let (ino, _) = walk("proc/sys/fs/mqueue").unwrap();
        let (above, _) = walk("proc/sys/fs").unwrap();
        assert_eq!((parent(ino), parent(ROOT)), (above, ROOT));
    }

    #[test]
    fn a_queue_has_an_inode_of_its_own() {
        assert!(matches!(node(ino_of_queue(i32::MAX)), Some(Node::Queue(i32::MAX))));
        assert!(node(0).is_none() && node(QUEUES - 1).is_none());
    }
}
