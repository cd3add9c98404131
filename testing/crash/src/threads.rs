//! Short threads: each does one operation, so each registers, and none may leave anything behind.

use std::error::Error;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Instant;

use crate::ipc::{self, Message, op};

/// Alive at a time.
const TOGETHER: u64 = 8;

/// Runs `count` threads; whether each one's operation succeeded and the objects show exactly what they did.
pub(crate) fn run(count: u64) -> Result<bool, Box<dyn Error>> {
    let named =
        |call: &'static str| move |error| format!("{call}: {}", std::io::Error::from_raw_os_error(error));
    let queue = ipc::msgget(libc::IPC_PRIVATE, 0o600).map_err(named("msgget"))?;
    let set = ipc::semget(libc::IPC_PRIVATE, 1, 0o600).map_err(named("semget"))?;
    let succeeded = AtomicU64::new(0);
    let start = Instant::now();
    let mut begun = 0;
    while begun < count {
        let batch = TOGETHER.min(count - begun);
        thread::scope(|scope| {
            for number in begun..begun + batch {
                let succeeded = &succeeded;
                scope.spawn(move || match operate(number, queue, set) {
                    Ok(()) => drop(succeeded.fetch_add(1, SeqCst)),
                    Err(error) => {
                        eprintln!("thread {number}: {}", std::io::Error::from_raw_os_error(error));
                    }
                });
            }
        });
        begun += batch;
        if begun - succeeded.load(SeqCst) > 10 {
            eprintln!("ended after {begun} threads: too many failures");
            break;
        }
    }
    let of_kind = |kind: u64| (begun + 3 - kind) / 4;
    let (sent, received, up, down) = (of_kind(0), of_kind(1), of_kind(2), of_kind(3));
    let waiting = ipc::msg_stat(queue).map_err(named("IPC_STAT"))?.msg_qnum;
    let value = ipc::sem_query(set, 0, libc::GETVAL).map_err(named("GETVAL"))?;
    let exact = waiting == sent - received && value as u64 == up - down;
    if !exact {
        eprintln!(
            "{waiting} messages wait instead of {}, the semaphore is {value} instead of {}",
            sent - received,
            up - down
        );
    }
    let succeeded = succeeded.load(SeqCst);
    println!("{:.1} s", start.elapsed().as_secs_f64());
    println!("{succeeded} of {count}");
    Ok(exact && succeeded == count)
}

/// The one operation of a thread. Those that take wait for those of their batch that give.
fn operate(number: u64, queue: i32, set: i32) -> Result<(), ipc::Errno> {
    let mut message = Message::new();
    match number % 4 {
        0 => ipc::msgsnd(queue, &message, 8, 0),
        1 => ipc::msgrcv(queue, &mut message, 8, 0, 0).map(drop),
        2 => ipc::semop(set, &mut [op(0, 1, libc::SEM_UNDO)]),
        _ => ipc::semop(set, &mut [op(0, -1, libc::SEM_UNDO)]),
    }
}
