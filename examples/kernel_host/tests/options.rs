//! What is left out of the engine answers ENOSYS, and what is built does not.
//!
//! `cargo test -p kernel_host --no-default-features --features sysvipc --test options` and the like.

use abi::{Errno, syscall as nr};
use engine::options::{POSIX_MQUEUE, SYSCTL, SYSVIPC};
use kernel_host::{AddressSpace, Machine};

const SYSV: [i64; 12] = [
    nr::MSGGET,
    nr::MSGSND,
    nr::MSGRCV,
    nr::MSGCTL,
    nr::SEMGET,
    nr::SEMOP,
    nr::SEMTIMEDOP,
    nr::SEMCTL,
    nr::SHMGET,
    nr::SHMAT,
    nr::SHMDT,
    nr::SHMCTL,
];
const POSIX: [i64; 6] =
    [nr::MQ_OPEN, nr::MQ_UNLINK, nr::MQ_TIMEDSEND, nr::MQ_TIMEDRECEIVE, nr::MQ_NOTIFY, nr::MQ_GETSETATTR];

#[test]
fn a_call_that_is_left_out_is_enosys() {
    for (numbers, built) in [(&SYSV[..], SYSVIPC), (&POSIX[..], POSIX_MQUEUE)] {
        for number in numbers {
            let mut machine = Machine::new(true);
            let task = machine.spawn(AddressSpace::default());
            machine.call_by_number(task, *number, [u64::MAX; 6]);
            let result = machine.take(task).expect("a call that fails");
            assert_eq!(result == Err(Errno::ENOSYS), !built, "call {number}: {result:?}");
            machine.exit(task);
        }
    }
}

#[test]
fn files_that_are_left_out_are_not_there() {
    let mut machine = Machine::new(true);
    let task = machine.spawn(AddressSpace::default());
    let there = |built| if built { None } else { Some(Errno::ENOENT) };
    assert_eq!(machine.read_file(task, "/proc/sysvipc/msg").err(), there(SYSVIPC));
    assert_eq!(machine.read_file(task, "/proc/sys/kernel/msgmax").err(), there(SYSCTL && SYSVIPC));
    assert_eq!(machine.read_file(task, "/proc/sys/fs/mqueue/msg_max").err(), there(SYSCTL && POSIX_MQUEUE));
    assert_eq!(machine.write_sysctl(task, "kernel.msgmni", "7").err(), there(SYSCTL && SYSVIPC));
    assert_eq!(machine.write_sysctl(task, "ipcspace.msgqueue", "7").err(), there(SYSCTL));
}
