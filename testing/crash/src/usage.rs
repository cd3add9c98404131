//! What is in use of the arena, seen by a process of its own that makes no System V call: a leak shows, however small.

use std::collections::HashMap;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

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

/// What may be resident of the arena, bytes, one second after the last object has gone. Tables, and the slots of as many processes as there were
/// at a time, stay: that is up to 2.2 MB on a busy machine, where the dead are reaped late.
const RESIDENT_MAX: u64 = 3 << 20;

/// The broker that this process descends from, if there is one.
fn broker() -> Option<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|&parent| parent > 1)
    };
    let is_broker = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "ipcspace-broker\n")
    };
    std::iter::successors(Some(std::process::id()), |&pid| parent(pid)).find(is_broker)
}

/// Bytes of memory in each memory file that a process holds, by name and inode.
fn memory_files(pid: u32) -> std::io::Result<HashMap<(String, u64), u64>> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let path = entry.path();
        // One that is closed meanwhile holds nothing.
        let (Ok(name), Ok(file)) = (fs::read_link(&path), fs::metadata(&path)) else { continue };
        if let Some(name) = name.to_string_lossy().strip_prefix("/memfd:") {
            files.insert((name.to_owned(), file.ino()), file.blocks() * 512);
        }
    }
    Ok(files)
}

/// What of the memory has not been given back, a second after the last object has gone; nothing if all is well. A busy machine
/// gets a little more time. The kernel has no broker, and is believed.
pub(crate) fn not_returned() -> Result<Option<String>, Box<dyn Error>> {
    let Some(broker) = broker() else { return Ok(None) };
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    loop {
        let files = memory_files(broker)?;
        let of = |kind: &'static str| {
            files.iter().filter(move |((name, _), _)| name.starts_with(kind)).map(|(_, bytes)| *bytes)
        };
        if of("ipcspace").next().is_none() {
            return Err("the broker holds no arena that could be measured".into());
        }
        let (arena, segments) = (of("ipcspace").sum::<u64>(), of("SYSV").count());
        if arena <= RESIDENT_MAX && segments == 0 {
            return Ok(None);
        }
        if start.elapsed() > PATIENCE {
            return Ok(Some(format!(
                "{arena} bytes of the arena are resident, and {segments} files of segments are held, without any object"
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
