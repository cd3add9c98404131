//! Jobs of a POSIX queue, consumed by tasks of tokio beside other work.
//!
//! Run it with `cargo run -p ipcspace --features tokio --example async_consumer`; a child of its own sends the jobs.

use ipcspace::{Access, AsyncMqueue, Namespace};

const JOBS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ns = Namespace::private()?;
    let options = ns.mqueue("/jobs").size(4, 64);
    let queue = options.clone().create_new(true).open()?;
    // Before there are other threads.
    // SAFETY: the child sends and ends.
    if unsafe { libc::fork() } == 0 {
        let sender = options.access(Access::Send).open()?;
        for job in 0..JOBS {
            sender.send(format!("job {job}").as_bytes(), u32::from(job % 10 == 0))?;
        }
        std::process::exit(0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let done = runtime.block_on(async {
        let jobs = AsyncMqueue::new(queue)?;
        // Two of many tasks: while one waits, all others go on.
        tokio::try_join!(consume(&jobs, "left", JOBS / 2), consume(&jobs, "right", JOBS / 2))
    })?;
    println!("{} jobs", done.0 + done.1);
    options.remove()?;
    Ok(())
}

async fn consume(jobs: &AsyncMqueue, name: &str, count: usize) -> ipcspace::Result<usize> {
    let mut text = [0; 64];
    for _ in 0..count {
        let (len, priority) = jobs.recv(&mut text).await?;
        if priority > 0 {
            println!("{name}: {}, which is urgent", String::from_utf8_lossy(&text[..len]));
        }
        tokio::task::yield_now().await;
    }
    Ok(count)
}
