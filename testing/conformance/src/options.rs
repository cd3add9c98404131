//! What a build leaves out, as the kernel's can: each of these cases is run where that is so (`--without`), by which it is known which of the others can't be.
//! (A kernel that is built so is needed to see it there.)

use std::fs::{File, OpenOptions};
use std::io;

use clap::ValueEnum;
use libc::{CLONE_NEWIPC, IPC_CREAT, O_CREAT, O_RDWR};

use crate::{
    Door,
    call::{
        Answer, answer, getval, mq_getattr, mq_notify, mq_open, mq_receive, mq_send, mq_unlink, msg_stat,
        msgget, msgrcv, msgsnd, op, semget, semop, semtimedop_for, shm_stat, shmat, shmdt, shmget,
    },
    case::{Case, cases},
    check::{Outcome, same},
    errno::{EINVAL, ENOENT, ENOSYS, Errno},
    simulated::simulation,
};

/// The build options of the engine; see crates/engine/Cargo.toml.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuildOption {
    Sysvipc,
    PosixMqueue,
    IpcNs,
    Sysctl,
    Compat,
}

cases! { "options":
    without_sysvipc.without(BuildOption::Sysvipc),
    without_sysvipc_there_are_no_files.without(BuildOption::Sysvipc).only(FILES),
    without_posix_mqueue.without(BuildOption::PosixMqueue),
    without_posix_mqueue_there_are_no_limits.without(BuildOption::PosixMqueue).only(FILES),
    without_ipc_ns.without(BuildOption::IpcNs).only(&[Door::Preload]),
    without_sysctl.without(BuildOption::Sysctl).only(FILES),
    without_compat.without(BuildOption::Compat).only(&[Door::Trap32]),
}

/// The doors that answer who opens files of the namespace's.
const FILES: &[Door] = &[Door::Preload, Door::Trap, Door::Host];

/// Whether a case can't be run where this is left out.
pub(crate) fn needs(case: &Case, door: Door, option: BuildOption) -> bool {
    let call = case.name.split('/').next().unwrap_or_default();
    let of_queues = matches!(call, "mqueue" | "mqd");
    // These are about all kinds of objects.
    let of_all = call == "namespace";
    match option {
        BuildOption::Sysvipc => !of_queues,
        BuildOption::PosixMqueue => of_queues || of_all,
        BuildOption::IpcNs => of_all,
        BuildOption::Sysctl => of_all || call == "sysctl" || !case.limits.is_empty(),
        BuildOption::Compat => matches!(door, Door::Kernel32 | Door::Trap32),
    }
}

fn without_sysvipc() -> Outcome {
    fn out<T>(answer: Answer<T>) -> Answer<()> {
        answer.map(drop)
    }
    let all = [
        out(msgget(1, IPC_CREAT | 0o600)),
        out(msgsnd(0, 1, b"", 0)),
        out(msgrcv(0, 1, 0, 0)),
        out(msg_stat(0)),
        out(semget(1, 1, IPC_CREAT | 0o600)),
        out(semop(0, &[op(0, 1, 0)])),
        out(semtimedop_for(0, &[op(0, 1, 0)], 1, 0)),
        out(getval(0, 0)),
        out(shmget(1, 1, IPC_CREAT | 0o600)),
        out(shmat(0, 0, 0)),
        out(shmdt(4096)),
        out(shm_stat(0)),
    ];
    same!(all, [Err(ENOSYS); 12]);
    Ok(())
}

fn without_posix_mqueue() -> Outcome {
    let all = [
        mq_open("/queue", O_CREAT | O_RDWR, 0o600, None),
        mq_unlink("/queue"),
        mq_send(0, b"", 0),
        mq_receive(0, 1).map(|_| 0),
        mq_notify(0, None),
        mq_getattr(0).map(|_| 0),
    ];
    same!(all, [Err(ENOSYS); 6]);
    Ok(())
}

fn without_ipc_ns() -> Outcome {
    // SAFETY: a number.
    same!(answer(unsafe { libc::unshare(CLONE_NEWIPC) }), Err(EINVAL));
    Ok(())
}

/// That there are no such files, neither to read nor to write.
fn none(paths: &[&str]) -> Outcome {
    for &path in paths {
        let (read, written) = match simulation() {
            Some(simulation) => simulation.machine(|machine| {
                let (tid, name) = (simulation.tid(), path.trim_start_matches("/proc/sys/").replace('/', "."));
                let read = machine.read_file(tid, path).map(drop);
                (read.map_err(|e| e.raw()), machine.write_sysctl(tid, &name, "7").map_err(|e| e.raw()))
            }),
            None => {
                let of =
                    |opened: io::Result<File>| opened.map(drop).map_err(|e| e.raw_os_error().unwrap_or(0));
                (of(File::open(path)), of(OpenOptions::new().write(true).open(path)))
            }
        };
        same!((path, read.map_err(Errno)), (path, Err(ENOENT)));
        same!((path, written.map_err(Errno)), (path, Err(ENOENT)));
    }
    Ok(())
}

fn without_sysvipc_there_are_no_files() -> Outcome {
    none(&["/proc/sysvipc/msg", "/proc/sysvipc/sem", "/proc/sysvipc/shm", "/proc/sys/kernel/msgmax"])
}

fn without_posix_mqueue_there_are_no_limits() -> Outcome {
    none(&["/proc/sys/fs/mqueue/queues_max", "/proc/sys/fs/mqueue/msg_max"])
}

fn without_sysctl() -> Outcome {
    none(&["/proc/sys/kernel/msgmax", "/proc/sys/kernel/sem", "/proc/sys/fs/mqueue/msg_max"])
}

fn without_compat() -> Outcome {
    same!(msgget(1, IPC_CREAT | 0o600), Err(ENOSYS));
    same!(getval(0, 0), Err(ENOSYS));
    same!(shmdt(4096), Err(ENOSYS));
    Ok(())
}
