//! A job queue between processes: the most urgent job first, and each job done by one worker.
//!
//! A message's type is its urgency, 1 the most urgent: `Select::AtMost` takes the least type that is there. Workers end when a job of the last type says so, which comes
//! after all others.
//!
//! Run it with `cargo run -p ipcspace --example job_queue`; it starts its workers itself, as programs of their own that open the namespace by its name.

use std::env;
use std::process::{Child, Command, exit, id};

use ipcspace::{Error, Key, MsgType, Namespace, Queue, Result, Select};

const WORKERS: usize = 3;
const KEY: Key = Key::new(0x6a6f_6273);
const DONE: MsgType = MsgType::FIRST;

fn main() -> Result<()> {
    match env::args().nth(1) {
        Some(namespace) => work(&Namespace::open(&namespace)?),
        None => direct(),
    }
}

fn last() -> Result<MsgType> {
    MsgType::new(100)
}

/// Takes jobs, and tells what it has done.
fn work(ns: &Namespace) -> Result<()> {
    let jobs = ns.queue(KEY).open()?;
    let results = ns.queue(Key::new(KEY.number() + 1)).open()?;
    let mut text = [0; 256];
    loop {
        let got = jobs.recv(Select::AtMost(last()?), &mut text)?;
        if got.kind == last()? {
            return Ok(());
        }
        let mut report = format!("worker {}: ", id()).into_bytes();
        report.extend_from_slice(&text[..got.len]);
        results.send(DONE, &report)?;
    }
}

fn direct() -> Result<()> {
    let name = format!("jobs-{}", id());
    let ns = Namespace::builder(&name).create()?;
    let jobs = ns.queue(KEY).create_new(true).open()?;
    let results = ns.queue(Key::new(KEY.number() + 1)).create_new(true).open()?;

    let all = [(5, "tidy up"), (1, "put out the fire"), (3, "answer the door"), (5, "water the plants")];
    for (urgency, job) in all {
        jobs.send(MsgType::new(urgency)?, job.as_bytes())?;
    }
    let mut first = [0; 64];
    let got = jobs.peek(1, &mut first)?; // the queue itself is in the order of sending
    assert_eq!(&first[..got.len], b"put out the fire");

    let workers: Vec<Child> = (0..WORKERS).map(|_| start(&name)).collect::<Result<_>>()?;
    for _ in all {
        report(&results)?;
    }
    for _ in &workers {
        jobs.send(last()?, b"")?;
    }
    let failed = workers.into_iter().filter_map(|mut worker| worker.wait().ok()).any(|end| !end.success());
    if failed {
        exit(1);
    }
    println!("all done: {} messages left", jobs.status()?.messages);
    Ok(())
}

fn start(namespace: &str) -> Result<Child> {
    let program = env::current_exe().and_then(|own| Command::new(own).arg(namespace).spawn());
    Ok(program.unwrap_or_else(|error| {
        eprintln!("no worker: {error}");
        exit(1)
    }))
}

fn report(results: &Queue) -> std::result::Result<(), Error> {
    let mut text = [0; 256];
    let got = results.recv(Select::Any, &mut text)?;
    println!("{}", String::from_utf8_lossy(&text[..got.len]));
    Ok(())
}
