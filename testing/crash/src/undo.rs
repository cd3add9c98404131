//! A parent that has just reaped its killed child finds the child's SEM_UNDO applied.

use std::error::Error;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use crate::ipc::{self, op};
use crate::shared::Shared;

const VALUE: i32 = 5;

/// Kills `count` children; whether the semaphore was restored each time.
pub(crate) fn run(count: u64) -> Result<bool, Box<dyn Error>> {
    let named =
        |call: &'static str| move |error| format!("{call}: {}", std::io::Error::from_raw_os_error(error));
    let shared = Shared::map()?;
    let set = ipc::semget(libc::IPC_PRIVATE, 2, 0o600).map_err(named("semget"))?;
    ipc::sem_set_value(set, 0, VALUE).map_err(named("SETVAL"))?;
    let mut restored = 0;
    for number in 1..=count {
        shared.heartbeat.store(0, SeqCst);
        let child = ipc::fork(|| hold(shared, set))?;
        while shared.heartbeat.load(SeqCst) == 0 {
            if let Some(status) = ipc::try_wait(child) {
                return Err(format!("child {number} ended by itself: {}", ipc::ended(status)).into());
            }
            thread::yield_now();
        }
        let held = ipc::sem_query(set, 0, libc::GETVAL).map_err(named("GETVAL"))?;
        ipc::kill(child, libc::SIGKILL);
        ipc::wait(child);
        let values = [0, 1].map(|semnum| ipc::sem_query(set, semnum, libc::GETVAL));
        if held == VALUE - 3 && values == [Ok(VALUE), Ok(0)] {
            restored += 1;
        } else {
            eprintln!("child {number}: {held} while it lived, {values:?} after its death");
            ipc::sem_set_value(set, 0, VALUE).map_err(named("SETVAL"))?;
            ipc::sem_set_value(set, 1, 0).map_err(named("SETVAL"))?;
        }
    }
    println!("{restored} of {count}");
    Ok(restored == count)
}

/// Takes three of one semaphore and gives two to another, says so, and waits for death.
fn hold(shared: &Shared, set: i32) -> i32 {
    let mut ops = [op(0, -3, libc::SEM_UNDO), op(1, 2, libc::SEM_UNDO)];
    if ipc::semop(set, &mut ops).is_err() {
        return 1;
    }
    shared.heartbeat.store(1, SeqCst);
    loop {
        thread::park();
    }
}
