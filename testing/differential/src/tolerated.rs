//! What may differ between two worlds, each with its reason; all else must be equal.
//!
//! Left out of the comparison ([`comparable`]): clocks, of which only "never" and "some time" are told apart,
//! and pids, which are compared as tasks. Never put to the comparison ([`races`]): steps whose outcome is a
//! race in the kernel itself. Waited for ([`is_noted_late`]): that the ends of attachments are noted. Left out if the kernel
//! took pages back meanwhile ([`pages_taken_back`], [`damon_takes_pages`]): how many of them segments have ([`without_rss`]).

use std::fs;
use std::path::{Path, PathBuf};

use world::{Arg, Call, Data, Ptr, Reply};

use crate::step::{Action, Id, Name};

/// What a call of one world gave back, without what may differ.
pub fn comparable(call: &Call, mut reply: Reply, task_of: impl Fn(i32) -> Option<Name>) -> Reply {
    // Numbers that no pid has tell "nobody", a task, and a stranger apart.
    let task = |pid: i32| match pid {
        0 => 0,
        pid => task_of(pid).map_or(-1, |task| task as i32),
    };
    let clock = |seconds: &mut i64| *seconds = i64::from(*seconds != 0);
    match &mut reply.data {
        Data::MsgStat(stat) => {
            (stat.lspid, stat.lrpid) = (task(stat.lspid), task(stat.lrpid));
            [&mut stat.stime, &mut stat.rtime, &mut stat.ctime].into_iter().for_each(clock);
        }
        Data::ShmStat(stat) => {
            (stat.cpid, stat.lpid) = (task(stat.cpid), task(stat.lpid));
            [&mut stat.atime, &mut stat.dtime, &mut stat.ctime].into_iter().for_each(clock);
        }
        Data::SemStat(stat) => [&mut stat.otime, &mut stat.ctime].into_iter().for_each(clock),
        Data::Notice(notice) => notice.pid = task(notice.pid),
        Data::Text(text) => *text = comparable_list(text, task, clock),
        _ => {}
    }
    match call {
        Call::Semctl { cmd: libc::GETPID, .. } if reply.errno == 0 => {
            reply.ret = i64::from(task(reply.ret as i32));
        }
        // The number of the task that was made is the world's own.
        Call::Fork | Call::SpawnThread if reply.errno == 0 => reply.ret = 0,
        // A handler may run a little later in a task that sleeps in no call.
        Call::Handler { .. } if reply.errno == 0 => reply.ret = 0,
        _ => {}
    }
    reply
}

/// The text of a file; in a list of /proc/sysvipc, columns of pids and of times as in the structures. (That columns are as wide as the
/// kernel's is shown by `testing/programs`.)
fn comparable_list(text: &str, task: impl Fn(i32) -> i32, clock: impl Fn(&mut i64)) -> String {
    let Some((header, rows)) = text.split_once('\n') else { return text.to_owned() };
    let names: Vec<&str> = header.split_whitespace().collect();
    if !names.contains(&"key") {
        return text.to_owned();
    }
    let field = |(name, value): (&&str, &str)| match (*name, value.parse::<i64>()) {
        (name, Ok(pid)) if name.ends_with("pid") => task(pid as i32).to_string(),
        (name, Ok(mut seconds)) if name.ends_with("time") => {
            clock(&mut seconds);
            seconds.to_string()
        }
        _ => value.to_owned(),
    };
    let row = |row: &str| names.iter().zip(row.split_whitespace()).map(field).collect::<Vec<_>>().join(" ");
    [header.to_owned()].into_iter().chain(rows.lines().map(row)).collect::<Vec<_>>().join("\n")
}

/// How many pages the kernel has ever taken from files and segments, because memory was short or somebody wrote to `drop_caches`.
pub fn pages_taken_back() -> u64 {
    let counts = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let fields = counts.lines().filter_map(|line| line.split_once(' '));
    let taken = fields.filter(|(name, _)| name.starts_with("pgsteal_") || *name == "drop_pagecache");
    taken.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
}

/// Does DAMON, the kernel's watch over memory, take pages back that nobody has used of late? It counts them nowhere.
pub fn damon_takes_pages() -> bool {
    damon_takes_pages_below(Path::new("/sys"))
}

fn damon_takes_pages_below(sys: &Path) -> bool {
    let says = |file: PathBuf, word: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == word);
    let within = |directory: PathBuf| {
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let pages_out = |kdamond: PathBuf| {
        let mut schemes =
            within(kdamond.join("contexts")).flat_map(|context| within(context.join("schemes")));
        says(kdamond.join("state"), "on") && schemes.any(|scheme| says(scheme.join("action"), "pageout"))
    };
    says(sys.join("module/damon_reclaim/parameters/enabled"), "Y")
        || within(sys.join("kernel/mm/damon/admin/kdamonds")).any(pages_out)
}

/// Without the number of pages in memory. A page of a segment that was read and never written is all zeros, and the kernel takes it back as
/// it takes back a file's: from one world's segments, from the other's, or from both, and in memory of either kind.
pub fn without_rss(reply: &mut Reply) {
    match &mut reply.data {
        Data::ShmInfo(info) => info.shm_rss = 0,
        Data::Text(text) => {
            let Some((header, rows)) = text.split_once('\n') else { return };
            let Some(rss) = header.split_whitespace().position(|name| name == "rss") else { return };
            let left = |row: &str| {
                let fields = row.split_whitespace().enumerate().filter(|(column, _)| *column != rss);
                fields.map(|(_, field)| field).collect::<Vec<_>>().join(" ")
            };
            *text = rows.lines().map(left).collect::<Vec<_>>().join("\n");
        }
        _ => {}
    }
}

/// Would the outcome of `call` depend on which of several woken tasks the kernel runs first? `sleepers` are the
/// calls asleep on the same object.
pub fn races(call: &Call, sleepers: &[(Name, Call)]) -> bool {
    let senders = sleepers.iter().filter(|(_, call)| matches!(call, Call::Msgsnd { .. })).count();
    match call {
        // All senders that fit now are woken, and try for themselves: who comes first, and whose message is first
        // in the queue, is open.
        Call::Msgrcv { .. } => senders > 1,
        // So are all receivers, which queue up again in the order they happen to run.
        Call::Msgctl { cmd: libc::IPC_SET, .. } => sleepers.len() > 1,
        _ => false,
    }
}

/// May some attachments end with this that nobody but the process itself knows of? They are noted in the segments when whoever serves the
/// namespace hears of it, or when somebody asks, and not before the next process attaches or detaches, as in the kernel. So
/// [`LOOK`] follows in both worlds. That a death by any other step is followed by it too, goes by the number of tasks.
pub fn is_noted_late(action: &Action) -> bool {
    matches!(
        action,
        Action::Kill | Action::Call(Call::<Id>::Exec | Call::Exit | Call::ExitThread | Call::Fork)
    )
}

/// A call that leaves all as it is, and returns when what has ended is noted: `shmctl(0, SHM_INFO, …)`.
pub const LOOK: Call = Call::Shmctl { id: 0, cmd: 14, arg: Arg::Buf(Ptr::Valid) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_list_pids_and_times_may_differ_and_nothing_else() {
        let text = "key semid perms lspid lrpid uid otime ctime\n 1 2 600 77 0 5 1234 0\n";
        let read = |path: &str| Call::ReadFile { path: path.into() };
        let reply = Reply { ret: 0, errno: 0, data: Data::Text(text.into()) };
        let seen = comparable(&read("/proc/sysvipc/msg"), reply, |pid| (pid == 77).then_some(3));
        let expected = "key semid perms lspid lrpid uid otime ctime\n1 2 600 3 0 5 1 0";
        assert_eq!(seen.data, Data::Text(expected.into()));
    }

    #[test]
    fn pages_in_memory_can_be_left_out_and_nothing_else() {
        let without = |text: &str| {
            let mut reply = Reply { ret: 0, errno: 0, data: Data::Text(text.into()) };
            without_rss(&mut reply);
            reply.data
        };
        let list = |rss: &str| format!("key shmid size rss swap\n1 2 4096 {rss} 0");
        assert_eq!(without(&list("4096")), without(&list("0")));
        assert_ne!(without("key size rss\n1 4096 0"), without("key size rss\n1 8192 0"));
        assert_eq!(without("1\t 2"), Data::Text("1\t 2".into()));
    }

    #[test]
    fn damon_is_seen_where_it_pages_out() {
        let sys = std::env::temp_dir().join(format!("differential-damon-{}", std::process::id()));
        let kdamond = sys.join("kernel/mm/damon/admin/kdamonds/0");
        let scheme = kdamond.join("contexts/0/schemes/1");
        fs::create_dir_all(&scheme).unwrap();
        let takes = |state: &str, action: &str| {
            fs::write(kdamond.join("state"), state).unwrap();
            fs::write(scheme.join("action"), action).unwrap();
            damon_takes_pages_below(&sys)
        };
        let seen = [takes("off\n", "pageout\n"), takes("on\n", "stat\n"), takes("on\n", "pageout\n")];
        fs::remove_dir_all(&sys).unwrap();
        assert_eq!(seen, [false, false, true]);
        assert!(!damon_takes_pages_below(&sys));
    }

    #[test]
    fn other_text_is_compared_as_it_is() {
        assert_eq!(comparable_list("1\t 2\n", |_| 0, |_| ()), "1\t 2\n");
    }
}
