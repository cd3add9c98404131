//! A lock between processes that is freed when its holder is killed.
//!
//! A semaphore of 1 is the lock; `undo` has what a process acquired given back when it ends, however it ends. What the holder had begun to change is as
//! it left it: whoever comes next has to look, as here, where a counter in shared memory tells that a change was not finished.
//!
//! Run it with `cargo run -p ipcspace --example crash_safe_lock`; it kills a child of its own.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use ipcspace::{Namespace, Result, Semaphores, Shared};

ipcspace::shared! {
    /// What the lock guards: the two are the same but in the middle of a change.
    struct Account {
        begun: AtomicU64,
        finished: AtomicU64,
    }
}

/// Changes the account, under the lock.
fn change(lock: &Semaphores, account: &Shared<Account>, hold: impl FnOnce()) -> Result<()> {
    let _held = lock.acquire(&[(0, 1)])?;
    let (begun, finished) = (account.begun.load(SeqCst), account.finished.load(SeqCst));
    if begun != finished {
        println!("change {begun} was not finished: whoever made it has died; made again");
    } else {
        account.begun.store(begun + 1, SeqCst);
    }
    hold();
    account.finished.store(account.begun.load(SeqCst), SeqCst);
    Ok(())
}

fn main() -> Result<()> {
    let ns = Namespace::private()?;
    let lock = ns.semaphores(1).initial(1).open()?.undo();
    let account = ns.shared::<Account>().open()?;

    change(&lock, &account, || {})?;
    // SAFETY: the child only changes the account and sleeps.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = change(&lock, &account, || std::thread::sleep(Duration::from_secs(60)));
        std::process::exit(1);
    }
    while account.begun.load(SeqCst) != 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("the child holds the lock: {}", lock.try_acquire(&[(0, 1)]).unwrap_err());
    // SAFETY: a child of this process.
    unsafe { libc::kill(child, libc::SIGKILL) };
    change(&lock, &account, || {})?;
    println!(
        "{} changes, all of them finished: {}",
        account.begun.load(SeqCst),
        account.finished.load(SeqCst)
    );
    assert_eq!(account.finished.load(SeqCst), 2);
    Ok(())
}
