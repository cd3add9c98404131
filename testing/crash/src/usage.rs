//! What is in use of the arena, seen by a process of its own that makes no System V call: a leak shows, however small.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

/// What the dead left is put right after this time, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the blocks in use of each size class.
pub(crate) fn print() -> Result<bool, Box<dyn Error>> {
    let usage = client::with(|ctx| ctx.usage().map_err(engine::util::arena_errno));
    let usage = usage.map_err(|error| format!("the arena can't be looked at: {error}"))?;
    let blocks: Vec<_> = usage.blocks.iter().map(ToString::to_string).collect();
    println!("{}", blocks.join(" "));
    Ok(true)
}

/// Blocks in use, by size class.
pub(crate) type Blocks = Vec<u32>;

fn look() -> Result<Blocks, Box<dyn Error>> {
    // Without the library, as this process would be attached twice.
    let output = Command::new(env::current_exe()?).arg("usage").env_remove("LD_PRELOAD").output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Looks when everybody has come to rest: twice the same.
pub(crate) fn at_rest() -> Result<Blocks, Box<dyn Error>> {
    let mut last = look()?;
    let start = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(50));
        let now = look()?;
        if now == last {
            return Ok(now);
        }
        if start.elapsed() > PATIENCE {
            return Err("what is in use of the arena does not come to rest".into());
        }
        last = now;
    }
}

/// What is in use beyond `before`, or missing of it, once the dead are put right; nothing if it is the same.
pub(crate) fn leaked_since(before: &Blocks) -> Result<Option<String>, Box<dyn Error>> {
    let start = Instant::now();
    loop {
        let now = look()?;
        if now == *before {
            return Ok(None);
        }
        if start.elapsed() > PATIENCE {
            return Ok(Some(format!("blocks in use by size class: {now:?}; before: {before:?}")));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
