//! Thousands of connections that mean harm, and how long others wait.

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use abi::syscall as nr;
use client::wire;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::link::{Link, bytes_of, socket_path};
use crate::user::{Process, status};
use crate::{broker, link};

/// Who means harm.
const HOSTILE: [u32; 4] = [3001, 3002, 3003, 3004];
/// Who does not.
const HONEST: u32 = 2001;
/// What each may have.
const OBJECTS: u64 = 200;
const BYTES: u64 = 4 << 20;
/// Beyond the quotas: what a call that is under way has in its hands.
const UNDER_WAY: u64 = 1 << 20;
/// How long an honest call may take before it is said that it hangs.
const HANGS: Duration = Duration::from_secs(10);
/// What a connection costs the broker: memory of its thread and of the messages, and descriptors.
const CONNECTION_BYTES: u64 = 200 << 10;
const CONNECTION_DESCRIPTORS: usize = 4;
/// Callers of a user's at the door who are not yet answered, each with a descriptor.
const CALLERS: usize = 128;
/// How much more memory may stay in use when all is over: what the allocators keep, and the tables of slots.
const KEPT: u64 = 64 << 20;
/// What a server needs that has nothing else to do.
const BARE: &str = "for comparison, a question to a server that nobody floods";
/// Mappings of one who means harm, so that it takes long to look at them: about as many as there can be. To make them takes long as well, so one does.
const MAPPINGS: usize = 60_000;

/// Flood the broker, and measure how long others wait
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Hostile connections at a time
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Fail if at the 99th percentile others wait longer
    #[arg(long)]
    within_ms: Option<u64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Options {
    /// Limits of the namespace.
    pub(crate) fn sysctls(&self) -> Vec<String> {
        let connections = self.connections.div_ceil(HOSTILE.len());
        vec![
            format!("ipcspace.stranger_objects={OBJECTS}"),
            format!("ipcspace.stranger_bytes={BYTES}"),
            format!("ipcspace.stranger_connections={connections}"),
            format!("ipcspace.stranger_waiters={}", connections / 2),
        ]
    }

    /// What the quotas let the broker come to have, who had so much before: bytes of memory, and descriptors.
    fn most(&self, bytes: u64, descriptors: usize) -> (u64, usize) {
        let users = HOSTILE.len();
        let of_user = BYTES + UNDER_WAY;
        // Every segment is an object, and a descriptor.
        let descriptors_of_user = OBJECTS as usize + CALLERS;
        (
            bytes + users as u64 * of_user + self.connections as u64 * CONNECTION_BYTES,
            descriptors + users * descriptors_of_user + self.connections * CONNECTION_DESCRIPTORS,
        )
    }
}

/// Whether nobody was harmed.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    broker::warm_up(HONEST)?;
    let queue = queue_of(HONEST)?;
    // A queue keeps a little of its first message.
    call(queue)?;
    let before = broker::held()?;
    let resident_before = resident_of_broker();
    let each = options.connections / HOSTILE.len();
    let attack = |uid: u32, round: u64| {
        let seed = options.seed ^ round << 32 ^ u64::from(uid);
        Process::start(uid, || {
            if uid == HOSTILE[0] {
                have_many_mappings()?;
            }
            attack(each, Xoshiro256PlusPlus::seed_from_u64(seed))
        })
    };
    let mut attackers = HOSTILE.map(|uid| attack(uid, 0));
    thread::sleep(Duration::from_millis(500));
    let time = Duration::from_secs(options.seconds);
    let (socket, bare) = (socket_path(), bare_path());
    let _bare = start_bare(&bare)?;
    let honest: [(&str, u32, Measured, &Path); 4] = [
        (BARE, 0, |_, path| ask(path), &bare),
        ("a call of a stranger's", HONEST, |queue, _| call(queue), &socket),
        ("a connection of a stranger's, with a call", HONEST, |_, path| connect(path), &socket),
        ("a question of the owner's", 0, |_, path| ask(path), &socket),
    ];
    let mut measured = Vec::new();
    for (name, uid, one, path) in honest {
        let (reader, mut writer) = io::pipe()?;
        let process = Process::start(uid, move || {
            // It is the broker that is measured.
            sys::thread::be_prompt();
            let ended = Instant::now() + time;
            while Instant::now() < ended {
                let begun = Instant::now();
                one(queue, path)?;
                let took = begun.elapsed();
                if took > HANGS {
                    return Err(format!("{name} took {took:?}").into());
                }
                writer.write_all(&u64::try_from(took.as_nanos())?.to_ne_bytes())?;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })?;
        measured.push((name, reader, process));
    }
    let ended = Instant::now() + time;
    let (mut resident, mut threads, mut descriptors, mut held) = (0, 0, 0, true);
    for round in 1.. {
        if Instant::now() > ended {
            break;
        }
        thread::sleep(Duration::from_millis(500));
        resident = resident.max(resident_of_broker());
        threads = threads.max(status(broker::pid(), "Threads"));
        descriptors = descriptors.max(broker::descriptors()?);
        for uid in HOSTILE {
            let has = broker::usage_of(uid)?;
            if has.objects > OBJECTS || has.bytes > BYTES + UNDER_WAY {
                println!("uid {uid} has {has:?}, and may have {OBJECTS} objects and {BYTES} bytes");
                held = false;
            }
        }
        // In the middle of whatever it does.
        let one = round as usize % HOSTILE.len();
        attackers[one] = Err(io::ErrorKind::NotFound.into());
        attackers[one] = attack(HOSTILE[one], round);
    }
    for (name, reader, process) in measured {
        let mut times = times(reader)?;
        held &= process.wait();
        times.sort_unstable();
        let at = |percent: usize| {
            times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
        };
        println!(
            "{name}: {} times, median {:?}, 99 % {:?}, longest {:?}",
            times.len(),
            at(50),
            at(99),
            at(100)
        );
        let is_too_long = |most| name != BARE && at(99) > Duration::from_millis(most);
        if options.within_ms.is_some_and(is_too_long) || times.is_empty() {
            println!("that is too long");
            held = false;
        }
    }
    fs::remove_file(&bare)?;
    let most = options.most(resident_before, before.descriptors);
    println!(
        "the broker had {threads} threads at most, {} MiB of {} that the quotas let it have, {descriptors} descriptors of {}",
        resident >> 20,
        most.0 >> 20,
        most.1
    );
    if threads < options.connections as u64 / 8 {
        println!("the attack did not take place");
        held = false;
    }
    held &= resident <= most.0 && descriptors <= most.1;
    drop(attackers);
    held &= broker::gives_all_back(&before, queue)?;
    let resident = resident_of_broker();
    println!("before it had {} MiB, and has {} MiB in the end", resident_before >> 20, resident >> 20);
    held &= resident <= resident_before + KEPT;
    println!("{}", if held { "nobody was harmed" } else { "somebody was harmed" });
    Ok(held)
}

fn bare_path() -> PathBuf {
    env::temp_dir().join(format!("ipcspace-bare-{}", std::process::id()))
}

/// Starts a server that does nothing but to answer, at that path: nobody asks it but who measures. What it takes is what those who mean harm take from
/// everybody by using the CPUs.
fn start_bare(path: &Path) -> Result<Process, Box<dyn Error>> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::MAXCONN)?;
    let serve = move || {
        // As the broker does: the scheduler knows groups of processes by their sessions.
        nix::unistd::setsid()?;
        sys::thread::be_prompt();
        loop {
            let link = Link::accept(&listener)?;
            link.wait(HANGS)?;
            link.receive(&mut [0; wire::QUESTION])?;
            link.send(&[0; wire::ANSWER], None)?;
        }
    };
    Ok(Process::start(0, serve)?)
}

/// A queue for one user alone.
fn queue_of(uid: u32) -> io::Result<i32> {
    let mut stat = std::mem::MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: room for the structure, which is all zeros before.
    let (queue, done) = unsafe {
        let queue = libc::msgget(libc::IPC_PRIVATE, 0o600);
        let mut done = libc::msgctl(queue, libc::IPC_STAT, stat.as_mut_ptr());
        let stat = stat.assume_init_mut();
        (stat.msg_perm.uid, stat.msg_perm.gid) = (uid, uid);
        done |= libc::msgctl(queue, libc::IPC_SET, stat);
        (queue, done)
    };
    if queue < 0 || done != 0 { Err(io::Error::last_os_error()) } else { Ok(queue) }
}

type Measured = fn(i32, &Path) -> Result<(), Box<dyn Error>>;

fn resident_of_broker() -> u64 {
    (status(broker::pid(), "RssAnon") + status(broker::pid(), "RssShmem")) << 10
}

fn times(mut reader: io::PipeReader) -> io::Result<Vec<Duration>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(link::words_of(&bytes).into_iter().map(Duration::from_nanos).collect())
}

/// A message sent and received, by libc's functions.
fn call(queue: i32) -> Result<(), Box<dyn Error>> {
    let mut message = [1u64, 0x6f6e_6573_7479];
    let at = message.as_mut_ptr();
    // SAFETY: the message is as long as is said.
    let done =
        unsafe { libc::msgsnd(queue, at.cast(), 8, 0) == 0 && libc::msgrcv(queue, at.cast(), 8, 0, 0) == 8 };
    if done { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// A new connection, and one call by it.
fn connect(path: &Path) -> Result<(), Box<dyn Error>> {
    let link = Link::connect(path, true)?;
    link.ask(wire::ASK_CALLS, [0; 2])?;
    answered(&link)?;
    link.call(nr::MSGGET, &[0x77, 0])?;
    answered(&link)
}

fn ask(path: &Path) -> Result<(), Box<dyn Error>> {
    let link = Link::connect(path, true)?;
    link.ask(wire::ASK_STATUS, [0; 2])?;
    answered(&link)
}

fn answered(link: &Link) -> Result<(), Box<dyn Error>> {
    link.wait(HANGS)?;
    match link.receive(&mut [0; 256])? {
        [] => Err("the broker closed the connection".into()),
        _ => Ok(()),
    }
}

// ---- the other side

/// Where messages are said to be.
const AT: u64 = 4096;
const NOWAIT: u64 = 0o4000;
const STAT_ANY: u64 = 13;

/// What a connection does.
#[derive(Clone, Copy)]
enum Role {
    /// Connects, and says nothing.
    Silent,
    /// Says half of a question.
    Half,
    /// Makes objects without end.
    Maker,
    /// Sends messages without end.
    Sender,
    /// Asks for what there is without end, and hardly looks at the answers.
    Asker,
    /// Makes a call that reads memory, and does not answer what is asked.
    Stuck,
    /// Sleeps.
    Sleeper,
    /// Comes and goes.
    Guest,
    /// Says that it was forked, again and again.
    Forked,
}

impl Role {
    const ALL: [Role; 9] = [
        Role::Silent,
        Role::Half,
        Role::Maker,
        Role::Sender,
        Role::Asker,
        Role::Stuck,
        Role::Sleeper,
        Role::Guest,
        Role::Forked,
    ];

    /// One thing that it does, without waiting. Whether the connection is to be kept.
    fn act(self, link: &Link, is_new: bool, random: &mut Xoshiro256PlusPlus) -> bool {
        if is_new
            && !matches!(self, Role::Silent | Role::Half | Role::Forked)
            && link.ask(wire::ASK_CALLS, [0; 2]).is_err()
        {
            return false;
        }
        let done = match self {
            Role::Silent => Ok(0),
            Role::Half if is_new => link.send(&wire::MAGIC.to_ne_bytes(), None),
            Role::Half => Ok(0),
            Role::Maker => match random.random_range(0..3) {
                0 => link.call(nr::MSGGET, &[0, 0o666]),
                1 => link.call(nr::SEMGET, &[0, random.random_range(1..5000), 0o666]),
                _ => link.call(nr::SHMGET, &[0, random.random_range(1..1 << 20), 0o666]),
            },
            Role::Sender => {
                let message = bytes_of(&[1; 9]);
                link.call_with(nr::MSGSND, &[random.random_range(0..800), AT, 64, NOWAIT], (AT, &message))
            }
            Role::Asker => link.call(nr::MSGCTL, &[random.random_range(0..2000), STAT_ANY]),
            Role::Stuck if is_new => link.call(nr::MSGSND, &[0, AT, 8, 0]),
            Role::Stuck => Ok(0),
            Role::Sleeper if is_new => link.call(nr::MSGRCV, &[0, AT, 8, 77_777, 0]),
            Role::Sleeper => Ok(0),
            // Each time needs a connection of its own: not so often that it is these that others wait for.
            Role::Forked if random.random_ratio(15, 16) => Ok(0),
            Role::Forked => {
                let mut message = wire::encode([wire::MAGIC, wire::TELL_FORKED, 1, 1]).to_vec();
                message.extend(random.random_range(0..100i32).to_ne_bytes());
                return link.send(&message, None).is_err();
            }
            Role::Guest => return random.random_ratio(3, 4),
        };
        matches!(done, Ok(_) | Err(nix::Error::EAGAIN))
    }
}

/// Maps memory in as many pieces: every other page otherwise than the one before.
fn have_many_mappings() -> io::Result<()> {
    const PAGE: usize = 4096;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory, which nobody reads, and pages of it.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), MAPPINGS * PAGE, libc::PROT_NONE, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        for page in (0..MAPPINGS).step_by(2) {
            if libc::mprotect(start.byte_add(page * PAGE), PAGE, libc::PROT_READ) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Holds so many connections and does its worst with each, until it is killed.
fn attack(count: usize, mut random: Xoshiro256PlusPlus) -> Result<(), Box<dyn Error>> {
    let path = socket_path();
    let mut links: Vec<Option<Link>> = std::iter::repeat_with(|| None).take(count).collect();
    loop {
        for (at, place) in links.iter_mut().enumerate() {
            let is_new = place.is_none();
            if is_new {
                *place = Link::connect(&path, false).ok();
            }
            let Some(link) = place else { continue };
            let role = Role::ALL[at % Role::ALL.len()];
            // Some of what comes is taken, or the broker's threads would only wait.
            let is_open = random.random_ratio(1, 2) || !matches!(link.receive(&mut [0; 1 << 16]), Ok([]));
            if !role.act(link, is_new, &mut random) || !is_open {
                *place = None;
            }
        }
    }
}
