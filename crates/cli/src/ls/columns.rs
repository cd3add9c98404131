//! The columns of lsipc: their names, labels and values.

use broker::posix;
use broker::sysv::{Limits, Perm, Queue, Segment, Set};
use engine::mqueue::MqStat;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{Gid, Group};

use crate::output::{Column, IS_STATIC, Manner, TimeFormat, column, command, name_in, owner, user};
use crate::table::Align::{Left, Right};

/// What all objects have.
pub(crate) trait Object {
    fn perm(&self) -> &Perm;
    fn ctime(&self) -> i64;
}

impl Object for Queue {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn ctime(&self) -> i64 {
        self.ctime
    }
}

impl Object for Set {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn ctime(&self) -> i64 {
        self.ctime
    }
}

impl Object for Segment {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn ctime(&self) -> i64 {
        self.ctime
    }
}

fn generic<T: Object>() -> Vec<Column<T>> {
    vec![
        column("KEY", "Key", Left, "Resource key", |o, _| Some(format!("0x{:08x}", o.perm().key))),
        column("ID", "ID", Left, "Resource ID", |o, _| Some(o.perm().id.to_string())),
        column("OWNER", "Owner", Right, "Owner's username or UID", |o, _| Some(owner(o.perm().uid))),
        column("PERMS", "Permissions", Right, "Permissions", |o, m| Some(permissions(o.perm().mode, m))),
        column("CUID", "Creator UID", Right, "Creator UID", |o, _| Some(o.perm().cuid.to_string())),
        column("CUSER", "Creator user", Left, "Creator user", |o, _| user(o.perm().cuid)),
        column("CGID", "Creator GID", Right, "Creator GID", |o, _| Some(o.perm().cgid.to_string())),
        column("CGROUP", "Creator group", Left, "Creator group", |o, _| group(o.perm().cgid)),
        column("UID", "UID", Right, "User ID", |o, _| Some(o.perm().uid.to_string())),
        column("USER", "User name", Left, "User name", |o, _| user(o.perm().uid)),
        column("GID", "GID", Right, "Group ID", |o, _| Some(o.perm().gid.to_string())),
        column("GROUP", "Group name", Left, "Group name", |o, _| group(o.perm().gid)),
        column("CTIME", "Last change", Right, "Time of the last change", |o, m| time(o.ctime(), m)),
    ]
}

/// In the order of the list of one segment.
pub(crate) fn of_segments() -> Vec<Column<Segment>> {
    let mut columns = generic();
    columns.extend([
        column("SIZE", "Segment size", Right, "Segment size", |s: &Segment, m| Some(size(s.segsz, m))),
        column("NATTCH", "Attached processes", Right, "Number of attached processes", |s, _| {
            Some(s.nattch.to_string())
        }),
        // Said of every segment, if only by nothing.
        column("STATUS", "Status", Left, "Status", |s, _| Some(status(s))),
        column("ATTACH", "Attach time", Right, "Attach time", |s, m| time(s.atime, m)),
        column("DETACH", "Detach time", Right, "Detach time", |s, m| time(s.dtime, m)),
        column("COMMAND", "Creator command", Left, "Creator command line", |s, _| command(s.cpid)),
        column("CPID", "Creator PID", Right, "PID of the creator", |s, _| Some(s.cpid.to_string())),
        column("LPID", "Last user PID", Right, "PID of last user", |s, _| Some(s.lpid.to_string())),
    ]);
    columns
}

fn status(segment: &Segment) -> String {
    let states = [(segment.dest, "dest"), (segment.locked, "locked")];
    let states: Vec<&str> = states.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    states.join(",")
}

/// In the order of the list of one queue.
pub(crate) fn of_queues() -> Vec<Column<Queue>> {
    let mut columns = generic();
    columns.extend([
        column("USEDBYTES", "Bytes used", Right, "Bytes used", |q: &Queue, m| Some(size(q.cbytes, m))),
        column("MSGS", "Messages", Left, "Number of messages", |q, _| Some(q.qnum.to_string())),
        column("SEND", "Msg sent", Right, "Time of last msg sent", |q, m| time(q.stime, m)),
        column("RECV", "Msg received", Right, "Time of last msg received", |q, m| time(q.rtime, m)),
        column("LSPID", "Msg sender", Right, "PID of the last msg sender", |q, _| Some(q.lspid.to_string())),
        column("LRPID", "Msg receiver", Right, "PID of the last msg receiver", |q, _| {
            Some(q.lrpid.to_string())
        }),
    ]);
    columns
}

/// POSIX queues have a name, and neither key nor identifier.
pub(crate) fn of_posix_queues() -> Vec<Column<MqStat>> {
    vec![
        column("NAME", "Name", Left, "Name", |q: &MqStat, _| Some(shown_name(q))),
        column("OWNER", "Owner", Right, "Owner's username or UID", |q, _| Some(owner(q.uid))),
        column("PERMS", "Permissions", Right, "Permissions", |q, m| Some(permissions(q.mode & 0o777, m))),
        column("UID", "UID", Right, "User ID", |q, _| Some(q.uid.to_string())),
        column("USER", "User name", Left, "User name", |q, _| user(q.uid)),
        column("GID", "GID", Right, "Group ID", |q, _| Some(q.gid.to_string())),
        column("GROUP", "Group name", Left, "Group name", |q, _| group(q.gid)),
        column("USEDBYTES", "Bytes used", Right, "Bytes used", |q, m| Some(size(q.qsize, m))),
        column("MSGS", "Messages", Left, "Number of messages", |q, _| Some(q.curmsgs.to_string())),
        column("MAXMSGS", "Most messages", Right, "Most messages", |q, _| Some(q.maxmsg.to_string())),
        column("MSGSIZE", "Longest message", Right, "Longest message", |q, m| {
            Some(size(q.msgsize.into(), m))
        }),
        column(
            "NOTIFY",
            "Notification",
            Left,
            "How a process is told of a message: none, signal, thread",
            |q, _| q.notify.map(|how| notification(how, q.notify_signo)),
        ),
        column("NPID", "Notified PID", Right, "PID of the process that is told", |q, _| {
            Some(q.notify_pid.to_string())
        }),
        column("ATIME", "Last access", Right, "Time of the last access", |q, m| time(q.atime, m)),
        column("MTIME", "Last modified", Right, "Time of the last modification", |q, m| time(q.mtime, m)),
        column("CTIME", "Last change", Right, "Time of the last change", |q, m| time(q.ctime, m)),
    ]
}

/// A POSIX queue's name; bytes that are no UTF-8 are replaced.
pub(crate) fn shown_name(q: &MqStat) -> String {
    let name: Vec<u8> = q.name().collect();
    format!("/{}", String::from_utf8_lossy(&name))
}

fn notification(how: i32, signo: i32) -> String {
    match how {
        abi::mqueue::SIGEV_SIGNAL => format!("signal {signo}"),
        abi::mqueue::SIGEV_THREAD => "thread".into(),
        _ => "none".into(),
    }
}

/// In the order of the list of one set.
pub(crate) fn of_sets() -> Vec<Column<Set>> {
    let mut columns = generic();
    columns.extend([
        column("NSEMS", "Semaphores", Right, "Number of semaphores", |s: &Set, _| Some(s.nsems.to_string())),
        column("OTIME", "Last operation", Right, "Time of the last operation", |s, m| time(s.otime, m)),
    ]);
    columns
}

/// A line of the summary.
#[derive(Debug)]
pub(crate) struct Limit {
    resource: &'static str,
    description: &'static str,
    limit: u64,
    /// For a limit of a number of things, how many there are.
    used: Option<u64>,
    is_size: bool,
}

/// The limits of queues.
pub(crate) fn queue_limits(l: &Limits) -> Vec<Limit> {
    let limit = |resource, description, limit: i64, used: Option<i64>, is_size| Limit {
        resource,
        description,
        limit: limit.unsigned_abs(),
        used: used.map(i64::unsigned_abs),
        is_size,
    };
    vec![
        limit("MSGMNI", "Number of message queues", l.msgmni, Some(l.queues), false),
        limit("MSGMAX", "Max size of message (bytes)", l.msgmax, None, true),
        limit("MSGMNB", "Default max size of queue (bytes)", l.msgmnb, None, true),
    ]
}

/// The limits of shared memory.
pub(crate) fn segment_limits(l: &Limits) -> Vec<Limit> {
    let limit =
        |resource, description, limit, used, is_size| Limit { resource, description, limit, used, is_size };
    vec![
        limit("SHMMNI", "Shared memory segments", l.shmmni, Some(l.segments.unsigned_abs()), false),
        limit("SHMALL", "Shared memory pages", l.shmall, Some(l.pages), false),
        limit("SHMMAX", "Max size of shared memory segment (bytes)", l.shmmax, None, true),
        limit("SHMMIN", "Min size of shared memory segment (bytes)", l.shmmin, None, true),
    ]
}

/// The limits of semaphores.
pub(crate) fn semaphore_limits(l: &Limits) -> Vec<Limit> {
    let limit = |resource, description, limit: i64, used: Option<i64>| Limit {
        resource,
        description,
        limit: limit.unsigned_abs(),
        used: used.map(i64::unsigned_abs),
        is_size: false,
    };
    vec![
        limit("SEMMNI", "Number of semaphore identifiers", l.semmni, Some(l.sets)),
        limit("SEMMNS", "Total number of semaphores", l.semmns, Some(l.semaphores)),
        limit("SEMMSL", "Max semaphores per semaphore set.", l.semmsl, None),
        limit("SEMOPM", "Max number of operations per semop(2)", l.semopm, None),
        limit("SEMVMX", "Semaphore max value", l.semvmx, None),
    ]
}

/// The limits of POSIX queues.
pub(crate) fn posix_queue_limits(l: &posix::Limits) -> Vec<Limit> {
    let limit = |resource, description, limit: i32, used: Option<u32>, is_size| Limit {
        resource,
        description,
        // A negative one is none at all.
        limit: u32::try_from(limit).unwrap_or(u32::MAX).into(),
        used: used.map(u64::from),
        is_size,
    };
    vec![
        limit("MQUMNI", "Number of POSIX message queues", l.queues_max, Some(l.queues), false),
        limit("MQUMAX", "Max size of POSIX message (bytes)", l.msgsize_max, None, true),
        limit("MQUMNB", "Max number of messages in POSIX message queue", l.msg_max, None, false),
    ]
}

/// The columns of the summary.
pub(crate) fn of_limits() -> Vec<Column<Limit>> {
    vec![
        column("RESOURCE", "Resource", Left, "Resource name", |l: &Limit, _| Some(l.resource.into())),
        column("DESCRIPTION", "Description", Left, "Resource description", |l, _| Some(l.description.into())),
        column("LIMIT", "Limit", Right, "Limit of the namespace", |l, m| {
            Some(if l.is_size { size(l.limit, m) } else { l.limit.to_string() })
        }),
        column("USED", "Used", Right, "Currently used", |l, _| {
            Some(l.used.map_or_else(|| "-".into(), |used| used.to_string()))
        }),
        column("USE%", "Use", Right, "Currently use percentage", |l, _| {
            Some(
                l.used.map_or_else(
                    || "-".into(),
                    |used| format!("{:.2}%", used as f64 / l.limit as f64 * 100.0),
                ),
            )
        }),
    ]
}

fn group(gid: u32) -> Option<String> {
    if IS_STATIC {
        return name_in("/etc/group", gid);
    }
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

fn permissions(mode: u32, manner: &Manner) -> String {
    if manner.numeric_perms {
        return format!("{mode:04o}");
    }
    let letter = |bit: u32| if mode >> bit & 1 == 1 { ['x', 'w', 'r'][bit as usize % 3] } else { '-' };
    (0..9).rev().map(letter).collect()
}

fn size(bytes: u64, manner: &Manner) -> String {
    if manner.bytes {
        return bytes.to_string();
    }
    // The largest unit of which there is at least one, with one decimal unless it is zero.
    let unit = bytes.checked_ilog2().unwrap_or(0) / 10;
    let letter = ['B', 'K', 'M', 'G', 'T', 'P', 'E'][unit as usize];
    let scale = 1_u128 << (10 * unit);
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{letter}"),
        (whole, tenth) => format!("{whole}.{tenth}{letter}"),
    }
}

fn time(seconds: i64, manner: &Manner) -> Option<String> {
    if seconds == 0 {
        return None;
    }
    let zone: TimeZone = manner.now.time_zone().clone();
    let then = Timestamp::from_second(seconds).ok()?.to_zoned(zone);
    let format = match manner.time {
        TimeFormat::Full => "%a %b %e %H:%M:%S %Y",
        TimeFormat::Iso => "%Y-%m-%dT%H:%M:%S%:z",
        TimeFormat::Short if then.date() == manner.now.date() => "%H:%M",
        TimeFormat::Short if then.year() == manner.now.year() => "%b%d",
        TimeFormat::Short => "%Y-%b%d",
    };
    Some(then.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(time: TimeFormat) -> Manner {
        let now = "2026-03-09T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        Manner { bytes: false, numeric_perms: false, time, now }
    }

    #[test]
    fn sizes_are_those_of_lsipc() {
        let size = |bytes| size(bytes, &manner(TimeFormat::Short));
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1K"),
            (1075, "1K"),
            (1076, "1.1K"),
            (3000, "2.9K"),
            (10239, "10K"),
            (999_999, "976.6K"),
            (1_048_575, "1024K"),
            (123_456_789, "117.7M"),
            (1_600_000_000, "1.5G"),
            (u64::MAX - (1 << 24), "16E"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_local_and_as_short_as_asked() {
        let at = |seconds, format| time(seconds, &manner(format)).unwrap();
        let today = 1_773_051_300; // 2026-03-09 10:15:00 UTC
        assert_eq!(at(today, TimeFormat::Short), "11:15");
        assert_eq!(at(today - 86_400, TimeFormat::Short), "Mar08");
        assert_eq!(at(today - 86_400 * 365, TimeFormat::Short), "2025-Mar09");
        assert_eq!(at(today, TimeFormat::Full), "Mon Mar  9 11:15:00 2026");
        assert_eq!(at(today, TimeFormat::Iso), "2026-03-09T11:15:00+01:00");
        assert_eq!(time(0, &manner(TimeFormat::Short)), None);
    }

    #[test]
    fn permissions_are_letters_or_digits() {
        let mut manner = manner(TimeFormat::Short);
        assert_eq!(permissions(0o641, &manner), "rw-r----x");
        manner.numeric_perms = true;
        assert_eq!(permissions(0o41, &manner), "0041");
    }

    #[test]
    fn an_unknown_owner_is_a_number() {
        assert_eq!((owner(0).as_str(), owner(4_000_000_000).as_str()), ("root", "4000000000"));
    }
}
