//! The storm: epochs of killing and stopping, after each of which everything is checked.
//!
//! Three kinds of process: the supervisor makes no System V call, so it can tell of a driver that hangs; the driver
//! starts, kills and stops the clients, and checks; the clients work (`client.rs`).
//!
//! An epoch ends in one of two ways, in turn. *Abruptly*: all clients are killed. *In order*: they are told to finish,
//! whoever is still asleep must have a reason for it, and then gets what it waits for. After either, with no client
//! left, messages, semaphores and the namespace's totals must add up. In the end all objects are removed, and the memory must be given back.

use std::error::Error;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Args;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::client::{self, POOL_UNITS, POOLS, POSIX_NAMES, TRANSFER_UNITS, TRANSFERS};
use crate::ipc::{self, Errno, Message, TEXT_SIZE, op};
use crate::matching::{self, Receive};
use crate::queue::Queue;
use crate::shared::{
    Activity, CLIENTS, Doing, HELD_KEY, Letter, MUTEXES, QUEUES, SYSV_QUEUES, Shared, THREADS,
};
use crate::usage;

/// Size of the segment that stays.
const HELD_PAGES: usize = 4;
/// After this time at the latest, `nattch` is right.
const COUNTED: Duration = Duration::from_secs(1);
/// Of a segment's mode: removed.
const SHM_DEST: u32 = 0o1000;
const EPOCH_KILLS: u64 = 250;
/// With no progress of anybody for this long, those who are asleep would sleep on.
const SETTLED: Duration = Duration::from_secs(1);
/// Whoever can go on has done so after this time, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A driver without a heartbeat for this long hangs.
const DRIVER_PATIENCE: Duration = Duration::from_secs(60);

/// What the storm is to be.
#[derive(Args)]
pub(crate) struct Options {
    /// SIGKILLs
    #[arg(long, default_value_t = 1000)]
    kills: u64,
    /// SIGSTOPs, each with its SIGCONT
    #[arg(long, default_value_t = 200)]
    stops: u64,
    /// Of the random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the storm from a supervisor; whether every invariant held.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let start = Instant::now();
    let shared = Shared::map()?;
    println!("seed {}", options.seed);
    let driver = ipc::fork(|| {
        if let Err(error) = Driver::new(shared, options).and_then(|mut driver| driver.storm(options)) {
            shared.violation(&format!("the driver's {error}"));
        }
        0
    })?;
    supervise(shared, driver);
    for (number, report) in shared.reports().iter().enumerate() {
        println!("violation {}: {report}", number + 1);
    }
    let violations = shared.violations.load(SeqCst);
    println!(
        "longest call of a healthy client {:.1} ms; {:.0} s",
        shared.latency_ns_max.load(SeqCst) as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
    println!(
        "{} kills, {} stops, {violations} violations",
        shared.kills.load(SeqCst),
        shared.stops.load(SeqCst)
    );
    Ok(violations == 0)
}

/// Waits for the driver's end, and ends it and its clients if it hangs.
fn supervise(shared: &Shared, driver: libc::pid_t) {
    let mut last = (0, Instant::now());
    loop {
        if let Some(status) = ipc::try_wait(driver) {
            if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
                shared.violation(&format!("the driver ended: {}", ipc::ended(status)));
            }
            return;
        }
        let heartbeat = shared.heartbeat.load(SeqCst);
        if heartbeat != last.0 {
            last = (heartbeat, Instant::now());
        } else if last.1.elapsed() > DRIVER_PATIENCE {
            shared.violation(&format!("the driver hangs: {}", where_asleep(driver)));
            for (place, client) in shared.clients.iter().enumerate() {
                let pid = client.pid.load(SeqCst);
                if pid != 0 {
                    shared.violation(&format!("  client {place} then: {}", where_asleep(pid)));
                }
            }
            // The clients die with it.
            ipc::kill(driver, libc::SIGKILL);
            ipc::wait(driver);
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The system calls that a process's threads are in.
fn where_asleep(pid: libc::pid_t) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return format!("{pid} is gone") };
    let of_task = |task: fs::DirEntry| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (call, stat) = (read("syscall"), read("stat"));
        let state = stat.rsplit(')').next().unwrap_or("").trim_start().chars().next().unwrap_or('?');
        format!(
            "{} {state} [{}]",
            task.file_name().display(),
            call.split(" 0x7f").next().unwrap_or("").trim()
        )
    };
    tasks.flatten().map(of_task).collect::<Vec<_>>().join(", ")
}

/// An error of the driver's own calls, which never may fail.
fn failed(call: &'static str) -> impl Fn(Errno) -> String {
    move |error| format!("{call}: {}", std::io::Error::from_raw_os_error(error))
}

struct Stopped {
    place: usize,
    incarnation: u64,
    until: Instant,
}

struct Driver {
    shared: &'static Shared,
    seed: u64,
    random: Xoshiro256PlusPlus,
    stopped: Vec<Stopped>,
    /// What killed clients were in the middle of receiving.
    receives_cut: Vec<Receive>,
    transfer_sum: i32,
    message: Box<Message>,
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

impl Driver {
    fn new(shared: &'static Shared, options: &Options) -> Outcome<Driver> {
        for index in 0..QUEUES {
            let queue = match index {
                0..SYSV_QUEUES => ipc::msgget(libc::IPC_PRIVATE, 0o600).map(Queue::SystemV),
                _ => Queue::new_posix(c"/crash"),
            };
            shared.set_queue(index, queue.map_err(failed("msgget or mq_open"))?);
        }
        let create = |count: usize, value: i32| -> Outcome<i32> {
            let set = ipc::semget(libc::IPC_PRIVATE, count as i32, 0o600).map_err(failed("semget"))?;
            for semnum in 0..count {
                ipc::sem_set_value(set, semnum, value).map_err(failed("SETVAL"))?;
            }
            Ok(set)
        };
        shared.mutexes.store(create(MUTEXES, 1)?, SeqCst);
        shared.transfers.store(create(TRANSFERS, TRANSFER_UNITS)?, SeqCst);
        let pools = create(POOLS + 1, POOL_UNITS)?;
        ipc::sem_set_value(pools, POOLS, 0).map_err(failed("SETVAL"))?;
        shared.pools.store(pools, SeqCst);
        let held = ipc::shmget(HELD_KEY, HELD_PAGES << 12, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
        shared.held.store(held.map_err(failed("shmget"))?, SeqCst);
        Ok(Driver {
            shared,
            seed: options.seed,
            random: Xoshiro256PlusPlus::seed_from_u64(options.seed),
            stopped: Vec::new(),
            receives_cut: Vec::new(),
            transfer_sum: TRANSFERS as i32 * TRANSFER_UNITS,
            message: Box::new(Message::new()),
        })
    }

    fn storm(&mut self, options: &Options) -> Outcome {
        let (shared, seed) = (self.shared, self.seed);
        let prober = ipc::fork(|| {
            client::probe(shared, seed);
            0
        })?;
        let mut abruptly = true;
        while self.kills() < options.kills || self.stops() < options.stops {
            self.epoch(options)?;
            self.end_epoch(abruptly)?;
            self.check_all()?;
            abruptly = !abruptly;
        }
        if let Some(status) = ipc::try_wait(prober) {
            shared.violation(&format!("the prober ended by itself: {}", ipc::ended(status)));
            return Ok(());
        }
        ipc::kill(prober, libc::SIGKILL);
        ipc::wait(prober);
        self.remove_all()?;
        if let Some(report) = usage::not_returned()? {
            shared.violation(&report);
        }
        Ok(())
    }

    /// Removes what lasts through all epochs, too.
    fn remove_all(&self) -> Outcome {
        self.remove_strays()?;
        for index in 0..QUEUES {
            self.shared.queue(index).remove().map_err(failed("IPC_RMID or mq_close"))?;
        }
        for set in [&self.shared.mutexes, &self.shared.pools, &self.shared.transfers] {
            ipc::sem_remove(set.load(SeqCst)).map_err(failed("IPC_RMID"))?;
        }
        ipc::shm_remove(self.shared.held.load(SeqCst)).map_err(failed("IPC_RMID"))?;
        Ok(())
    }

    fn kills(&self) -> u64 {
        self.shared.kills.load(SeqCst)
    }

    fn stops(&self) -> u64 {
        self.shared.stops.load(SeqCst)
    }

    /// Starts the clients, and kills and stops some until it is time to look.
    fn epoch(&mut self, options: &Options) -> Outcome {
        self.shared.finishing.store(false, SeqCst);
        for place in 0..CLIENTS {
            self.start(place)?;
        }
        let kills_end = options.kills.min(self.kills() + EPOCH_KILLS);
        let stops_per_kill = options.stops as f64 / options.kills.max(1) as f64;
        loop {
            let kills_due = self.kills() < kills_end;
            let stops_wanted =
                if kills_due { (self.kills() as f64 * stops_per_kill) as u64 } else { options.stops };
            let stops_due = self.stops() < stops_wanted.min(options.stops);
            if !kills_due && (!stops_due || self.kills() < options.kills) {
                return Ok(());
            }
            self.shared.heartbeat.fetch_add(1, SeqCst);
            thread::sleep(Duration::from_micros(self.random.random_range(0..8000)));
            self.continue_stopped(Instant::now());
            if stops_due {
                self.stop_one();
            }
            if kills_due {
                let place = self.random.random_range(0..CLIENTS);
                self.kill(place);
                if self.random.random_ratio(1, 16) {
                    self.check_attachments()?;
                }
                self.start(place)?;
            }
        }
    }

    /// While all clients are stopped, `nattch` of the segment that stays must be what their /proc/PID/maps have of it.
    fn check_attachments(&self) -> Outcome {
        let pids: Vec<_> = self.shared.clients.iter().map(|client| client.pid.load(SeqCst)).collect();
        let running = |place: &usize| {
            pids[*place] != 0 && !self.stopped.iter().any(|s| s.place == *place && self.is_current(s))
        };
        let stopped_now: Vec<usize> = (0..CLIENTS).filter(running).collect();
        stopped_now.iter().for_each(|place| ipc::kill(pids[*place], libc::SIGSTOP));
        let start = Instant::now();
        loop {
            let before = self.mappings();
            let stat = ipc::shm_stat(self.shared.held.load(SeqCst)).map_err(failed("IPC_STAT"))?;
            let after = self.mappings();
            if before == after && stat.shm_nattch == before {
                break;
            }
            if start.elapsed() > COUNTED {
                self.shared.violation(&format!(
                    "a segment is attached {} times by IPC_STAT, and mapped {before} times, then {after} times",
                    stat.shm_nattch
                ));
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        stopped_now.iter().for_each(|place| ipc::kill(pids[*place], libc::SIGCONT));
        Ok(())
    }

    /// How often clients have the segment that stays mapped.
    fn mappings(&self) -> u64 {
        let name = format!("SYSV{HELD_KEY:08x} ");
        let pids = self.shared.clients.iter().map(|client| client.pid.load(SeqCst)).filter(|pid| *pid != 0);
        let maps = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok());
        maps.map(|maps| maps.matches(&name).count() as u64).sum()
    }

    fn start(&mut self, place: usize) -> Outcome {
        let (shared, seed) = (self.shared, self.seed);
        let client = &shared.clients[place];
        client.incarnation.fetch_add(1, SeqCst);
        client.threads.iter().for_each(Activity::end);
        let pid = ipc::fork(|| {
            client::live(shared, place, seed);
            0
        })?;
        client.pid.store(pid, SeqCst);
        Ok(())
    }

    /// Kills a client if there is one, and notes which messages it may have had in hand.
    fn kill(&mut self, place: usize) {
        let client = &self.shared.clients[place];
        let pid = client.pid.load(SeqCst);
        if pid == 0 {
            return;
        }
        client.doomed.store(client.incarnation.load(SeqCst), SeqCst);
        ipc::kill(pid, libc::SIGKILL);
        let status = ipc::wait(pid);
        client.pid.store(0, SeqCst);
        self.shared.kills.fetch_add(1, SeqCst);
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        let finished = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        if !(killed || finished && self.shared.finishing.load(SeqCst)) {
            self.shared.violation(&format!("client {place} ended by itself: {}", ipc::ended(status)));
        }
        for activity in &client.threads {
            if let Doing::Receive(receive) = activity.doing() {
                self.receives_cut.push(receive);
            }
        }
    }

    /// Stops a client, mostly for a moment, now and then for longer than anybody may be delayed.
    fn stop_one(&mut self) {
        let place = self.random.random_range(0..CLIENTS);
        if self.stopped.iter().any(|stopped| self.is_current(stopped) && stopped.place == place) {
            return;
        }
        let long = self.random.random_ratio(1, 20);
        let duration_ms = if long { 1500 } else { self.random.random_range(1..30) };
        let client = &self.shared.clients[place];
        ipc::kill(client.pid.load(SeqCst), libc::SIGSTOP);
        self.shared.stops.fetch_add(1, SeqCst);
        self.stopped.push(Stopped {
            place,
            incarnation: client.incarnation.load(SeqCst),
            until: Instant::now() + Duration::from_millis(duration_ms),
        });
    }

    /// Whether the client that was stopped still lives.
    fn is_current(&self, stopped: &Stopped) -> bool {
        self.shared.clients[stopped.place].incarnation.load(SeqCst) == stopped.incarnation
    }

    /// Lets those go on whose time has come.
    fn continue_stopped(&mut self, now: Instant) {
        for stopped in std::mem::take(&mut self.stopped) {
            let pid = self.shared.clients[stopped.place].pid.load(SeqCst);
            if !self.is_current(&stopped) || pid == 0 {
                continue;
            }
            if stopped.until <= now {
                ipc::kill(pid, libc::SIGCONT);
            } else {
                self.stopped.push(stopped);
            }
        }
    }

    fn end_epoch(&mut self, abruptly: bool) -> Outcome {
        if abruptly {
            for place in 0..CLIENTS {
                self.kill(place);
            }
        }
        self.shared.finishing.store(true, SeqCst);
        self.wait_for_prober()?;
        if !abruptly {
            self.continue_stopped(Instant::now() + PATIENCE);
            self.let_settle();
            self.check_sleepers()?;
            self.complete_sleepers()?;
        }
        Ok(())
    }

    fn wait_for_prober(&mut self) -> Outcome {
        // What it says now may be of the last epoch.
        self.shared.prober_rests.store(false, SeqCst);
        let start = Instant::now();
        while !self.shared.prober_rests.load(SeqCst) {
            if start.elapsed() > PATIENCE {
                return Err(
                    "wait for the prober, which hangs in a call that never waits or is dead, is over".into(),
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Reaps who finishes, until nobody gets any further.
    fn let_settle(&mut self) {
        let (begun, mut last) = (Instant::now(), (u64::MAX, Instant::now()));
        while last.1.elapsed() < SETTLED {
            self.shared.heartbeat.fetch_add(1, SeqCst);
            let alive = self.reap();
            let threads = self.shared.clients.iter().flat_map(|client| &client.threads);
            let progress =
                threads.map(|activity| activity.count.load(SeqCst)).sum::<u64>() * 100 - alive as u64;
            if progress != last.0 {
                last = (progress, Instant::now());
            }
            if alive == 0 || begun.elapsed() > PATIENCE {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Reaps who has finished; the number of those who have not.
    fn reap(&self) -> usize {
        let mut alive = 0;
        for (place, client) in self.shared.clients.iter().enumerate() {
            let pid = client.pid.load(SeqCst);
            if pid == 0 {
                continue;
            }
            match ipc::try_wait(pid) {
                None => alive += 1,
                Some(status) => {
                    client.pid.store(0, SeqCst);
                    if status != 0 {
                        self.shared
                            .violation(&format!("client {place} ended by itself: {}", ipc::ended(status)));
                    }
                }
            }
        }
        alive
    }

    /// What each thread that is still there waits for.
    fn sleepers(&self) -> Vec<(usize, Doing)> {
        let mut sleepers = Vec::new();
        for (place, client) in self.shared.clients.iter().enumerate() {
            if client.pid.load(SeqCst) != 0 {
                let doing =
                    client.threads.iter().map(Activity::doing).filter(|&doing| doing != Doing::Nothing);
                sleepers.extend(doing.map(|doing| (place, doing)));
            }
        }
        sleepers
    }

    /// Whoever sleeps must have a reason.
    fn check_sleepers(&mut self) -> Outcome {
        for (place, doing) in self.sleepers() {
            let could_go_on = match doing {
                Doing::Receive(receive) => self.take(&receive)?,
                Doing::Send { queue, size } => {
                    self.shared.queue(queue).has_room(size).map_err(failed("IPC_STAT"))?
                }
                Doing::Transfer(from) => {
                    let set = self.shared.transfers.load(SeqCst);
                    ipc::sem_query(set, from, libc::GETVAL).map_err(failed("GETVAL"))? != 0
                }
                Doing::Mutex(_) | Doing::Pool => true,
                Doing::Nothing | Doing::Churn => false,
            };
            if could_go_on {
                let pid = self.shared.clients[place].pid.load(SeqCst);
                self.shared.violation(&format!(
                    "client {place} is asleep and could go on: {doing:?}; {}",
                    where_asleep(pid)
                ));
            }
        }
        Ok(())
    }

    /// Takes a message that such a receive would take, if there is one.
    fn take(&mut self, receive: &Receive) -> Outcome<bool> {
        let flags = libc::IPC_NOWAIT | if receive.except { libc::MSG_EXCEPT } else { 0 };
        match client::receive_into(self.shared, &mut self.message, receive, TEXT_SIZE, flags) {
            Ok(()) => Ok(true),
            Err(libc::ENOMSG) => Ok(false),
            Err(error) => Err(failed("msgrcv")(error).into()),
        }
    }

    /// Gives everybody what they wait for, until all have finished.
    fn complete_sleepers(&mut self) -> Outcome {
        let start = Instant::now();
        while self.reap() > 0 {
            self.shared.heartbeat.fetch_add(1, SeqCst);
            if start.elapsed() > PATIENCE {
                self.give_up_on_sleepers();
                return Ok(());
            }
            for queue in 0..QUEUES {
                self.drain(queue)?;
            }
            for (_, doing) in self.sleepers() {
                self.complete(doing)?;
            }
            self.remove_strays()?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn complete(&mut self, doing: Doing) -> Outcome {
        match doing {
            Doing::Receive(receive) => {
                let poison = Letter::poison(receive);
                poison.write(&mut self.message);
                let queue = self.shared.queue(receive.queue);
                match queue.send(&self.message, poison.size, libc::IPC_NOWAIT) {
                    Ok(()) | Err(libc::EAGAIN) => Ok(()),
                    Err(error) => Err(failed("msgsnd")(error).into()),
                }
            }
            Doing::Transfer(from) => {
                self.transfer_sum += 1;
                let raised = ipc::semop(self.shared.transfers.load(SeqCst), &mut [op(from, 1, 0)]);
                Ok(raised.map_err(failed("semop"))?)
            }
            _ => Ok(()),
        }
    }

    fn give_up_on_sleepers(&mut self) {
        for (place, doing) in self.sleepers() {
            let pid = self.shared.clients[place].pid.load(SeqCst);
            self.shared
                .violation(&format!("client {place} does not wake up: {doing:?}; {}", where_asleep(pid)));
        }
        for place in 0..CLIENTS {
            self.kill(place);
        }
    }

    /// Takes all that is in a queue: messages and bytes.
    fn drain(&mut self, queue: usize) -> Outcome<(u64, u64)> {
        let any = Receive { queue, mtype: 0, except: false };
        let (mut messages, mut bytes) = (0, 0);
        loop {
            let from = self.shared.queue(queue);
            match from.receive(&mut self.message, TEXT_SIZE, any.mtype, libc::IPC_NOWAIT) {
                Ok(got) => {
                    self.shared.note_received(&self.message, queue, got, TEXT_SIZE);
                    messages += 1;
                    bytes += got as u64;
                }
                Err(libc::ENOMSG) => return Ok((messages, bytes)),
                Err(error) => return Err(failed("msgrcv")(error).into()),
            }
        }
    }

    /// With no client left, everything must add up.
    fn check_all(&mut self) -> Outcome {
        self.shared.heartbeat.fetch_add(1, SeqCst);
        self.remove_strays()?;
        self.check_queues()?;
        self.check_letters();
        self.check_semaphores()?;
        self.check_totals()
    }

    fn check_queues(&mut self) -> Outcome {
        for queue in 0..QUEUES {
            let (messages, bytes) = self.shared.queue(queue).counts().map_err(failed("IPC_STAT"))?;
            let found = self.drain(queue)?;
            let told = (messages, bytes.unwrap_or(found.1));
            if told != found {
                self.shared.violation(&format!(
                    "queue {queue} tells of {told:?} messages and bytes; it has {found:?}"
                ));
            }
        }
        Ok(())
    }

    fn check_letters(&mut self) {
        let missing = self.shared.missing();
        let lost: Vec<_> = missing.iter().map(|letter| (letter.queue, letter.mtype)).collect();
        for index in matching::unaccounted(&lost, &self.receives_cut) {
            self.shared.violation(&format!("{:?} was sent, and nobody has it", missing[index]));
        }
        self.receives_cut.clear();
        self.shared.forget_letters();
    }

    fn check_semaphores(&mut self) -> Outcome {
        let shared = self.shared;
        let check = |what: &str, set: i32, semnum: usize, wanted: i32| -> Outcome {
            for (command, name, wanted) in [
                (libc::GETVAL, "GETVAL", wanted),
                (libc::GETNCNT, "GETNCNT", 0),
                (libc::GETZCNT, "GETZCNT", 0),
            ] {
                let found = ipc::sem_query(set, semnum, command).map_err(failed(name))?;
                if found != wanted && wanted >= 0 {
                    shared.violation(&format!("{what} {semnum}: {name} is {found} instead of {wanted}"));
                }
            }
            Ok(())
        };
        for mutex in 0..MUTEXES {
            check("mutex", shared.mutexes.load(SeqCst), mutex, 1)?;
            shared.owners[mutex].store(0, SeqCst);
        }
        let pools = shared.pools.load(SeqCst);
        for pool in 0..POOLS {
            check("pool", pools, pool, POOL_UNITS)?;
        }
        check("gate", pools, POOLS, 0)?;
        let (transfers, mut sum) = (shared.transfers.load(SeqCst), 0);
        for semnum in 0..TRANSFERS {
            // Any value will do.
            check("transfer", transfers, semnum, -1)?;
            sum += ipc::sem_query(transfers, semnum, libc::GETVAL).map_err(failed("GETVAL"))?;
        }
        if sum != self.transfer_sum {
            shared.violation(&format!("the transfers add up to {sum} instead of {}", self.transfer_sum));
            self.transfer_sum = sum;
        }
        Ok(())
    }

    fn check_totals(&self) -> Outcome {
        let (_, msg) = ipc::msg_info().map_err(failed("MSG_INFO"))?;
        let (_, sem) = ipc::sem_info().map_err(failed("SEM_INFO"))?;
        let found = [msg.msgpool, msg.msgmap, msg.msgtql, sem.semusz, sem.semaem];
        let wanted = [SYSV_QUEUES as i32, 0, 0, 3, (MUTEXES + POOLS + 1 + TRANSFERS) as i32];
        if found != wanted {
            self.shared.violation(&format!(
                "the namespace tells of {found:?} queues, messages, bytes, sets and semaphores; there are {wanted:?}"
            ));
        }
        let (_, shm) = ipc::shm_info().map_err(failed("SHM_INFO"))?;
        let found = [shm.used_ids.unsigned_abs().into(), shm.shm_tot, shm.shm_rss, shm.shm_swp];
        // Nobody touches the one that stays.
        let wanted = [1, HELD_PAGES as u64, 0, 0];
        if found != wanted {
            self.shared.violation(&format!(
                "the namespace tells of {found:?} segments, pages, resident and swapped ones; there are {wanted:?}"
            ));
        }
        Ok(())
    }

    /// Removes the objects that clients left, or still wait on.
    fn remove_strays(&self) -> Outcome {
        let (highest, _) = ipc::msg_info().map_err(failed("MSG_INFO"))?;
        let id = |index| if let Queue::SystemV(id) = self.shared.queue(index) { Some(id) } else { None };
        let lasting: Vec<i32> = (0..QUEUES).filter_map(id).collect();
        for queue in (0..=highest).filter_map(|index| ipc::msg_at(index).ok()) {
            if !lasting.contains(&queue) {
                allow_gone(ipc::msg_remove(queue)).map_err(failed("IPC_RMID"))?;
            }
        }
        let (highest, _) = ipc::sem_info().map_err(failed("SEM_INFO"))?;
        let lasting =
            [&self.shared.mutexes, &self.shared.pools, &self.shared.transfers].map(|id| id.load(SeqCst));
        for set in (0..=highest).filter_map(|index| ipc::sem_at(index).ok()) {
            if !lasting.contains(&set) {
                allow_gone(ipc::sem_remove(set)).map_err(failed("IPC_RMID"))?;
            }
        }
        for name in POSIX_NAMES {
            match ipc::mq_unlink(name) {
                Ok(()) | Err(libc::ENOENT) => {}
                Err(error) => return Err(failed("mq_unlink")(error).into()),
            }
        }
        let (highest, _) = ipc::shm_info().map_err(failed("SHM_INFO"))?;
        for (segment, stat) in (0..=highest).filter_map(|index| ipc::shm_at(index).ok()) {
            let alive = self.shared.clients.iter().any(|client| client.pid.load(SeqCst) != 0);
            if !alive && (stat.shm_nattch != 0 || u32::from(stat.shm_perm.mode) & SHM_DEST != 0) {
                self.shared.violation(&format!(
                    "segment {segment} of mode {:o} is attached {} times, and nobody is there",
                    stat.shm_perm.mode, stat.shm_nattch
                ));
            }
            if segment != self.shared.held.load(SeqCst) {
                allow_gone(ipc::shm_remove(segment)).map_err(failed("IPC_RMID"))?;
            }
        }
        Ok(())
    }
}

/// A client may have removed the object meanwhile.
fn allow_gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(libc::EINVAL | libc::EIDRM) => Ok(()),
        other => other,
    }
}

// The ledger's place for a client's threads and what the clients start agree.
const _: () = assert!(THREADS >= 1 && CLIENTS * THREADS < 1 << 15);
