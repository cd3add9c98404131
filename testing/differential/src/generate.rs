//! The next step of a sequence, by chance and by what the worlds look like.

use std::collections::BTreeSet;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use world::{ARENA, Arg, Call, Event, NOTICE, Ptr, QueueSize, SemBuf, Set, Text, Timeout};

use crate::lockstep::{Limits, Lockstep};
use crate::step::{Action, Id, Name, Step};

/// What the calls of a run are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Message queues.
    Msg,
    /// Semaphores.
    Sem,
    /// Shared memory.
    Shm,
    /// POSIX message queues.
    Mq,
}

/// What the second world can do besides the calls themselves.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Tasks of other uids than the namespace's owner.
    pub other_users: bool,
    /// All tasks are such, from their first call on.
    pub strangers: bool,
    /// Files of /proc that show the namespace and change its limits.
    pub files: bool,
    /// Such files of POSIX queues' limits.
    pub queue_files: bool,
    /// Segments can be as large as what 64 bits reach. By 32-bit calls, 4 GiB would be put over all that a task has with `SHM_REMAP`.
    pub wide: bool,
    /// Descriptors can be polled.
    pub polls: bool,
    /// What `dup` makes is seen: to close it ends a registration.
    pub dups: bool,
    /// What a process maps and unmaps by calls of other kinds, and hands to its children, is seen.
    pub mappings: bool,
}

/// A source of steps.
pub struct Generator {
    random: Xoshiro256PlusPlus,
    kinds: Vec<Kind>,
    abilities: Abilities,
    names: Name,
    /// Objects to choose from: name, kind, and how many semaphores were asked for.
    objects: Vec<(Name, Kind, i32)>,
    /// Largest message that is likely to be allowed.
    msgmax: i64,
    text: u32,
    /// Processes that are some user's for good.
    users: BTreeSet<Name>,
}

/// More tasks than this are not kept alive.
const TASKS: usize = 8;
const MSG_STAT_ANY: i32 = 13;
const SEM_STAT_ANY: i32 = 20;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;
const PAGE: u64 = 4096;
/// Attachments begin at one of so many places, so many pages apart: they collide now and then.
const PLACES: u64 = 6;
const PAGES_APART: u64 = 2;
/// Length of the arrays for SETALL: no set that is made successfully is larger.
const LARGEST_SET: i32 = 64;

impl Generator {
    /// The same seed gives the same steps, as long as the worlds do the same.
    pub fn new(seed: u64, kinds: &[Kind], abilities: Abilities) -> Generator {
        Generator {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            kinds: kinds.to_vec(),
            abilities,
            names: 0,
            objects: Vec::new(),
            msgmax: 8192,
            text: 0,
            users: BTreeSet::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        *choices.choose(&mut self.random).expect("choices")
    }

    fn name(&mut self) -> Name {
        self.names += 1;
        self.names
    }

    /// The limits of a new sequence: often the defaults, often so tight that they are met.
    pub fn limits(&mut self) -> Limits {
        let queues = if self.kinds.contains(&Kind::Mq) { self.queue_limits() } else { Limits::new() };
        if self.chance(40) {
            return queues;
        }
        self.msgmax = self.pick(&[64, 100, 8192]);
        let limit = |name: &str, value: String| (format!("kernel.{name}"), value);
        let mut limits = vec![
            limit("msgmax", self.msgmax.to_string()),
            limit("msgmnb", self.pick(&[0, 200, 4096, 16384]).to_string()),
            limit("msgmni", self.pick(&[3, 5, 32000]).to_string()),
            limit("sem", self.pick(&["40 100 20 6", "64 64 10 4", "64 1000 500 100"]).to_owned()),
        ];
        limits.extend(queues);
        limits
    }

    /// Queues that don't say how large they are to be are small: users' limit is for all namespaces of the kernel's.
    fn queue_limits(&mut self) -> Limits {
        let (msg_default, msgsize_default) = (self.pick(&["1", "2", "3", "10"]), self.pick(&["128", "200"]));
        let defaults = [("msg_default", msg_default), ("msgsize_default", msgsize_default)];
        let mut limits = defaults.to_vec();
        if self.chance(50) {
            limits.push(("queues_max", self.pick(&["0", "2", "3", "3", "256", "-1"])));
            limits.push(("msg_max", self.pick(&["1", "2", "10", "1000"])));
            limits.push(("msgsize_max", self.pick(&["128", "200", "8192", "100000"])));
        }
        limits.into_iter().map(|(name, value)| (format!("fs.mqueue.{name}"), value.to_owned())).collect()
    }

    /// The next step.
    pub fn step(&mut self, pair: &Lockstep) -> Step {
        let free: Vec<Name> = pair
            .tasks
            .iter()
            .filter(|(_, task)| task.in_call.is_none() && !task.stopped)
            .map(|(name, _)| *name)
            .collect();
        if pair.tasks.len() < 2 || free.is_empty() && pair.tasks.len() < TASKS {
            return Step { task: 0, action: Action::Spawn, makes: self.name() };
        }
        if free.is_empty() || self.chance(2) {
            return self.disturb(pair);
        }
        if self.abilities.strangers
            && let Some(newcomer) =
                free.iter().copied().find(|name| !self.users.contains(&pair.tasks[name].leader))
        {
            self.users.insert(newcomer);
            return Step { task: newcomer, action: Action::Call(self.stranger()), makes: 0 };
        }
        let task = self.pick(&free);
        // Threads of one process share descriptors, so there are to be more of them.
        let life = if self.kinds == [Kind::Mq] { 5 } else { 3 };
        if self.chance(life) {
            return self.life(pair, task);
        }
        let files = if self.kinds == [Kind::Mq] { self.abilities.queue_files } else { self.abilities.files };
        if files && self.chance(2) {
            return Step { task, action: Action::Call(self.file()), makes: 0 };
        }
        self.objects.retain(|(name, _, _)| pair.objects.contains_key(name) || *name == self.names);
        // The last free task must not fall asleep too easily, or the rest is killing.
        let careful = free.len() < 2 || pair.tasks.len() - free.len() >= 5;
        let makes = self.name();
        let kind = self.kinds.choose(&mut self.random).copied().expect("an area");
        let call = match kind {
            Kind::Msg => self.msg(makes, careful),
            Kind::Sem => self.sem(makes, careful),
            Kind::Shm => self.shm(makes),
            Kind::Mq => {
                let known = pair.descriptors.get(&pair.tasks[&task].leader);
                let known: Vec<Name> = known.into_iter().flatten().map(|(_, name)| *name).collect();
                self.mq(&known, careful)
            }
        };
        Step { task, action: Action::Call(call), makes }
    }

    /// Something happens to a task, asleep or not.
    fn disturb(&mut self, pair: &Lockstep) -> Step {
        let all: Vec<Name> = pair.tasks.keys().copied().collect();
        let asleep: Vec<Name> =
            pair.tasks.iter().filter(|(_, task)| task.in_call.is_some()).map(|(name, _)| *name).collect();
        let task = if asleep.is_empty() || self.chance(20) { self.pick(&all) } else { self.pick(&asleep) };
        let stopped = pair.tasks[&task].stopped;
        let action = match self.random.random_range(0..10) {
            _ if stopped => Action::Signal(libc::SIGCONT),
            0..=2 => Action::Kill,
            3 => Action::Signal(libc::SIGSTOP),
            _ => Action::Signal(libc::SIGUSR1),
        };
        let handled = pair.handles.contains(&(pair.tasks[&task].leader, libc::SIGUSR1));
        let action = if action == Action::Signal(libc::SIGUSR1) && !handled { Action::Kill } else { action };
        Step { task, action, makes: 0 }
    }

    /// Tasks come and go and change.
    fn life(&mut self, pair: &Lockstep, task: Name) -> Step {
        let leads = pair.tasks[&task].leader == task;
        let call = match self.random.random_range(0..20) {
            0..=3 if pair.tasks.len() < TASKS && self.sees_mappings() => Call::Fork,
            4..=6 if pair.tasks.len() < TASKS => Call::SpawnThread,
            7..=8 => Call::Exit,
            9..=10 if !leads => Call::ExitThread,
            11..=12 if leads => Call::Exec,
            13..=14 if self.abilities.queue_files && self.kinds == [Kind::Mq] => self.queue_sysctl(),
            13..=14 if self.abilities.files && self.kinds != [Kind::Mq] => self.sysctl(),
            15..=16 if self.abilities.other_users && !self.abilities.strangers => self.user(),
            _ => Call::Handler { signal: libc::SIGUSR1, restart: self.chance(50) },
        };
        Step { task, action: Action::Call(call), makes: self.name() }
    }

    /// Whether children of a process that may have segments attached are seen, where that matters.
    fn sees_mappings(&self) -> bool {
        self.abilities.mappings || !self.kinds.contains(&Kind::Shm)
    }

    /// What shows the namespace as text.
    fn file(&mut self) -> Call<Id> {
        if self.kinds == [Kind::Mq] {
            let names = ["queues_max", "msg_max", "msgsize_max", "msg_default", "msgsize_default"];
            return Call::ReadFile { path: format!("/proc/sys/fs/mqueue/{}", self.pick(&names)) };
        }
        let lists = ["sysvipc/msg", "sysvipc/sem", "sysvipc/shm"];
        let sysctls =
            ["sys/kernel/sem", "sys/kernel/msg_next_id", "sys/kernel/shmmax", "sys/kernel/shm_next_id"];
        // The list of each area often: it shows all of its objects at once.
        let files = if self.chance(75) { &lists[..] } else { &sysctls[..] };
        Call::ReadFile { path: format!("/proc/{}", self.pick(files)) }
    }

    fn sysctl(&mut self) -> Call<Id> {
        let (name, value) = match self.random.random_range(0..8) {
            0 => ("msgmax", self.pick(&["0", "64", "100", "8192", "-1", "9000"])),
            1 => ("msgmnb", self.pick(&["0", "200", "4096", "16384", "-1"])),
            2 => ("msgmni", self.pick(&["0", "3", "32000", "32769"])),
            3 => ("msg_next_id", self.pick(&["5", "65541", "-1"])),
            4 => ("sem_next_id", self.pick(&["7", "98310", "-1"])),
            5 => (
                "shmmax",
                self.pick(&["0", "4096 5", "0x1000", "-1", "18446744073709551615", "18446744073709551616"]),
            ),
            _ => {
                ("sem", self.pick(&["64", "64 100 20", "64 1000 500 100", "40 100 20 40000", "64 64 10 4 5"]))
            }
        };
        Call::WriteSysctl { name: format!("kernel.{name}"), value: value.to_owned() }
    }

    fn queue_sysctl(&mut self) -> Call<Id> {
        let (name, value) = match self.random.random_range(0..5) {
            0 => ("queues_max", self.pick(&["0", "2", "256", "-1", "x"])),
            1 => ("msg_max", self.pick(&["0", "1", "2", "10", "1000", "65536", "65537"])),
            2 => ("msgsize_max", self.pick(&["127", "128", "200", "8192", "16777216", "16777217"])),
            3 => ("msg_default", self.pick(&["0", "1", "2", "10"])),
            _ => ("msgsize_default", self.pick(&["127", "128", "200"])),
        };
        Call::WriteSysctl { name: format!("fs.mqueue.{name}"), value: value.to_owned() }
    }

    fn user(&mut self) -> Call<Id> {
        let (euid, egid) = (self.pick(&[0, 0, 1000, 1001]), self.pick(&[0, 1000, 1001]));
        let groups = self.pick(&[&[][..], &[1000], &[1001, 5]]).to_vec();
        Call::SetIds { euid, egid, groups }
    }

    fn stranger(&mut self) -> Call<Id> {
        let (uid, gid) = (self.pick(&[1000, 1001, 1002]), self.pick(&[1000, 1001]));
        let groups = self.pick(&[&[][..], &[1000], &[1001, 5]]).to_vec();
        Call::BecomeUser { uid, gid, groups }
    }

    fn key(&mut self) -> i32 {
        self.pick(&[0, 0, 1, 2, 3, 0x7fff_ffff, -1])
    }

    fn get_flags(&mut self) -> i32 {
        let create = self.pick(&[libc::IPC_CREAT, libc::IPC_CREAT, libc::IPC_CREAT | libc::IPC_EXCL, 0]);
        create | self.pick(&[0o600, 0o600, 0o666, 0o640, 0, 0o777, 0o400])
    }

    /// Mostly an object of the kind that was made lately, now and then something else.
    fn id(&mut self, kind: Kind) -> Id {
        let names: Vec<Name> =
            self.objects.iter().filter(|object| object.1 == kind).map(|object| object.0).collect();
        if names.is_empty() || self.chance(3) {
            return Id::Raw(self.pick(&[0, 1, -1, 7, 32768, i32::MAX, i32::MIN]));
        }
        let recent = names[names.len().saturating_sub(5)..].choose(&mut self.random).copied();
        let name = recent.expect("names is not empty");
        match self.random.random_range(0..100) {
            0..=1 => Id::Stale(name),
            _ => Id::Of(name),
        }
    }

    fn stat_id(&mut self, kind: Kind) -> Id {
        match self.id(kind) {
            Id::Of(name) if self.chance(70) => Id::Index(name),
            id => id,
        }
    }

    fn ptr(&mut self, straddles: &[usize]) -> Ptr {
        if !self.chance(4) {
            return Ptr::Valid;
        }
        let straddle = self.pick(straddles);
        self.pick(&[Ptr::Null, Ptr::Bad, Ptr::Wild, Ptr::ReadOnly, Ptr::Straddle(straddle)])
    }

    fn forget_removed(&mut self, id: Id) {
        // Some are kept, so that stale ids are used too.
        if let Id::Of(removed) = id
            && self.chance(80)
        {
            self.objects.retain(|(name, _, _)| *name != removed);
        }
    }

    fn msg(&mut self, makes: Name, careful: bool) -> Call<Id> {
        let few = self.objects.iter().filter(|object| object.1 == Kind::Msg).count() < 2;
        match self.random.random_range(0..100) {
            _ if few && self.chance(50) => self.msgget(makes),
            0..=4 => self.msgget(makes),
            5..=42 => self.msgsnd(careful),
            43..=82 => self.msgrcv(careful),
            _ => self.msgctl(),
        }
    }

    fn msgget(&mut self, makes: Name) -> Call<Id> {
        self.objects.push((makes, Kind::Msg, 0));
        Call::Msgget { key: self.key(), flags: self.get_flags() }
    }

    fn size(&mut self) -> i64 {
        let max = self.msgmax;
        match self.random.random_range(0..40) {
            0 => max,
            1 => max + 1,
            2 => -1,
            3 => i64::MIN,
            4 => i64::MAX,
            5..=7 => 0,
            8..=9 => 1,
            10..=13 => max / 2,
            _ => self.random.random_range(0..=max.min(300)),
        }
    }

    fn mtype(&mut self) -> i64 {
        match self.random.random_range(0..50) {
            0 => 0,
            1 => -1,
            2 => i64::MIN,
            3 => i64::MAX,
            4 => i64::from(i32::MAX) + 1,
            _ => self.random.random_range(1..=5),
        }
    }

    fn nowait(&mut self, careful: bool) -> i32 {
        let percent = if careful { 98 } else { 55 };
        if self.chance(percent) { libc::IPC_NOWAIT } else { 0 }
    }

    fn msgsnd(&mut self, careful: bool) -> Call<Id> {
        let (id, mtype, size) = (self.id(Kind::Msg), self.mtype(), self.size());
        self.text += 1;
        let text = Text::Pattern { seed: self.text, len: size.clamp(0, 20_000) as usize };
        let ptr = self.ptr(&[0, 4, 8, 9, 16]);
        Call::Msgsnd { id, ptr, mtype, text, size, flags: self.nowait(careful) }
    }

    fn msgrcv(&mut self, careful: bool) -> Call<Id> {
        let (id, size, ptr) = (self.id(Kind::Msg), self.size(), self.ptr(&[0, 4, 8, 9, 16]));
        let size = if self.chance(50) { self.msgmax } else { size };
        let mtype = match self.random.random_range(0..10) {
            0..=3 => 0,
            4..=6 => self.mtype(),
            7 => self.mtype().wrapping_neg(),
            _ => -self.random.random_range(1..=5),
        };
        let mut flags = self.nowait(careful);
        for (flag, percent) in [(libc::MSG_NOERROR, 30), (libc::MSG_EXCEPT, 10), (libc::MSG_COPY, 6)] {
            flags |= if self.chance(percent) { flag } else { 0 };
        }
        // Where a receiver sleeps the message is chosen by the sender, so a copy's position is small.
        let mtype = if flags & libc::MSG_COPY != 0 { self.pick(&[0, 1, 2, 5, -1, 100]) } else { mtype };
        Call::Msgrcv { id, ptr, size, mtype, flags }
    }

    fn set(&mut self) -> Set {
        // SAFETY: no pointers, no failure.
        let me = unsafe { libc::geteuid() };
        let other = if self.abilities.other_users { 1000 } else { me };
        let another = if self.abilities.strangers { 1001 } else { me };
        let uid = self.pick(&[me, another, other, u32::MAX]);
        let gid = self.pick(&[me, me, other]);
        let mode = self.pick(&[0o600, 0o666, 0o640, 0, 0o7777, 0o400, 0o004]);
        let qbytes = self.pick(&[0, 1, 100, 200, 1000, 4096, 16384]);
        Set { uid, gid, mode, qbytes }
    }

    fn msgctl(&mut self) -> Call<Id> {
        let out = Arg::Buf(self.ptr(&[8, 100]));
        let (id, cmd, arg) = match self.random.random_range(0..100) {
            0..=39 => (self.id(Kind::Msg), libc::IPC_STAT, out),
            40..=54 => (self.id(Kind::Msg), libc::IPC_SET, Arg::Set(self.ptr(&[8, 100]), self.set())),
            55..=69 => (self.id(Kind::Msg), libc::IPC_RMID, out),
            70..=77 => (self.stat_id(Kind::Msg), libc::MSG_STAT, out),
            78..=83 => (self.stat_id(Kind::Msg), MSG_STAT_ANY, out),
            84..=88 => (Id::Raw(self.pick(&[0, 0, 5, -1])), libc::IPC_INFO, out),
            89..=95 => (Id::Raw(self.pick(&[0, 0, 5, -1])), libc::MSG_INFO, out),
            _ => (self.id(Kind::Msg), self.pick(&[-1, 99, 0x102, i32::MAX, 14]), out),
        };
        if cmd == libc::IPC_RMID {
            self.forget_removed(id);
        }
        Call::Msgctl { id, cmd, arg }
    }

    fn sem(&mut self, makes: Name, careful: bool) -> Call<Id> {
        let few = self.objects.iter().filter(|object| object.1 == Kind::Sem).count() < 2;
        match self.random.random_range(0..100) {
            _ if few && self.chance(50) => self.semget(makes),
            0..=4 => self.semget(makes),
            5..=64 => self.semop(careful),
            _ => self.semctl(),
        }
    }

    fn semget(&mut self, makes: Name) -> Call<Id> {
        let nsems = match self.random.random_range(0..20) {
            0 => 0,
            1 => -1,
            2 => 32001,
            3 => LARGEST_SET,
            4..=5 => self.random.random_range(1..=40),
            _ => self.random.random_range(1..=4),
        };
        self.objects.push((makes, Kind::Sem, nsems.clamp(1, LARGEST_SET)));
        Call::Semget { key: self.key(), nsems, flags: self.get_flags() }
    }

    fn nsems(&self, id: Id) -> u16 {
        let of = |wanted| self.objects.iter().find(|(name, _, _)| *name == wanted).map(|object| object.2);
        match id {
            Id::Of(name) => of(name).unwrap_or(1) as u16,
            _ => 1,
        }
    }

    fn sembuf(&mut self, nsems: u16, nowait: u32) -> SemBuf {
        let num = match self.random.random_range(0..100) {
            0 => nsems,
            1 => u16::MAX,
            _ => self.random.random_range(0..nsems),
        };
        let op = match self.random.random_range(0..60) {
            0 => self.pick(&[i16::MAX, i16::MIN, -i16::MAX, 30000]),
            1..=12 => 0,
            13..=35 => -self.random.random_range(1..=3),
            _ => self.random.random_range(1..=2),
        };
        let wait = if self.chance(nowait) { libc::IPC_NOWAIT as i16 } else { 0 };
        let undo = if self.chance(25) { libc::SEM_UNDO as i16 } else { 0 };
        SemBuf { num, op, flags: wait | undo }
    }

    fn semop(&mut self, careful: bool) -> Call<Id> {
        let id = self.id(Kind::Sem);
        let nsems = self.nsems(id);
        let length = match self.random.random_range(0..40) {
            0..=25 => 1,
            26..=37 => self.random.random_range(2..=4),
            _ => self.random.random_range(5..=40),
        };
        let nowait = if careful { 97 } else { 45 };
        let ops: Vec<SemBuf> = (0..length).map(|_| self.sembuf(nsems, nowait)).collect();
        let count = match self.random.random_range(0..60) {
            0 => self.pick(&[0, 100_000, u64::MAX, 1 << 32]),
            _ => ops.len() as u64,
        };
        let ptr = self.ptr(&[0, 3, 6]);
        if self.chance(80) {
            return Call::Semop { id, ptr, ops, count };
        }
        Call::Semtimedop { id, ptr, ops, count, timeout: self.timeout() }
    }

    /// Over at once, over soon (which the worlds wait for), or never.
    fn timeout(&mut self) -> Timeout {
        let ptr = self.pick(&[
            Ptr::Valid,
            Ptr::Valid,
            Ptr::Valid,
            Ptr::Valid,
            Ptr::Null,
            Ptr::Bad,
            Ptr::Straddle(8),
        ]);
        let (sec, nsec) = match self.random.random_range(0..20) {
            0 => (0, -1),
            1 => (0, 1_000_000_000),
            2 => (-1, 0),
            3..=6 => (0, 0),
            7..=8 => (0, 1_000_000),
            9 => (i64::MAX, 999_999_999),
            _ => (1000, 0),
        };
        Timeout { ptr, sec, nsec }
    }

    fn semctl(&mut self) -> Call<Id> {
        let id = self.id(Kind::Sem);
        let nsems = self.nsems(id);
        let num = match self.random.random_range(0..30) {
            0 => -1,
            1 => i32::from(nsems),
            2 => i32::MAX,
            _ => i32::from(self.random.random_range(0..nsems)),
        };
        let out = Arg::Buf(self.ptr(&[0, 1, 8, 100]));
        let (id, cmd, arg) = match self.random.random_range(0..100) {
            0..=13 => (id, libc::GETVAL, out),
            14..=23 => (id, libc::GETALL, out),
            24..=31 => (id, libc::GETPID, out),
            32..=38 => (id, libc::GETNCNT, out),
            39..=44 => (id, libc::GETZCNT, out),
            45..=56 => (id, libc::SETVAL, Arg::Int(self.pick(&[0, 0, 1, 1, 2, 5, 32767, 32768, -1]))),
            57..=63 => (id, libc::SETALL, self.values()),
            64..=72 => (id, libc::IPC_STAT, out),
            73..=77 => (id, libc::IPC_SET, Arg::Set(self.ptr(&[8, 100]), self.set())),
            78..=86 => (id, libc::IPC_RMID, out),
            87..=90 => (self.stat_id(Kind::Sem), libc::SEM_STAT, out),
            91..=93 => (self.stat_id(Kind::Sem), SEM_STAT_ANY, out),
            94..=95 => (Id::Raw(self.pick(&[0, 0, 5, -1])), libc::IPC_INFO, out),
            96..=98 => (Id::Raw(self.pick(&[0, 0, 5, -1])), libc::SEM_INFO, out),
            _ => (id, self.pick(&[-1, 99, 0x102, i32::MAX]), out),
        };
        if cmd == libc::IPC_RMID {
            self.forget_removed(id);
        }
        Call::Semctl { id, num, cmd, arg }
    }

    fn shm(&mut self, makes: Name) -> Call<Id> {
        let few = self.objects.iter().filter(|object| object.1 == Kind::Shm).count() < 2;
        match self.random.random_range(0..100) {
            _ if few && self.chance(50) => self.shmget(makes),
            0..=6 => self.shmget(makes),
            7..=34 => self.shmat(),
            35..=49 => Call::Shmdt { addr: self.address() },
            50..=57 => Call::Poke { addr: self.inside(), value: self.random.random_range(1..=255) },
            58..=65 => Call::Peek { addr: self.inside() },
            66..=70 if self.abilities.mappings => {
                Call::Munmap { addr: self.place(), len: PAGE * self.pick(&[1, 1, 2, 3, 5]) }
            }
            _ => self.shmctl(),
        }
    }

    fn shmget(&mut self, makes: Name) -> Call<Id> {
        let size = match self.random.random_range(0..30) {
            0 => 0,
            1 if self.abilities.wide => u64::MAX,
            2 if self.abilities.wide => u64::MAX - (1 << 24),
            3 if self.abilities.wide => 1 << 62,
            4 => 20 * PAGE,
            _ => self.pick(&[1, 4095, 4096, 4097, 2 * PAGE, 3 * PAGE, 5 * PAGE]),
        };
        self.objects.push((makes, Kind::Shm, 0));
        Call::Shmget { key: self.key(), size, flags: self.get_flags() }
    }

    fn place(&mut self) -> u64 {
        ARENA.start + PAGE * PAGES_APART * self.random.random_range(0..PLACES)
    }

    /// An address for shmat or shmdt.
    fn address(&mut self) -> u64 {
        match self.random.random_range(0..40) {
            0..=5 => 1,
            6 => self.place() + 1,
            7..=8 => self.place() + PAGE,
            9 => u64::MAX - PAGE + 1,
            10 => 1 << 47,
            _ => self.place(),
        }
    }

    /// An address in the range of attachments.
    fn inside(&mut self) -> u64 {
        self.place() + PAGE * self.pick(&[0, 0, 1, 2, 4]) + self.pick(&[0, 1, 4095])
    }

    fn shmat(&mut self) -> Call<Id> {
        let mut addr = self.address();
        let mut flags = 0;
        for (flag, percent) in
            [(libc::SHM_RDONLY, 20), (libc::SHM_RND, 15), (libc::SHM_REMAP, 10), (libc::SHM_EXEC, 4)]
        {
            flags |= if self.chance(percent) { flag } else { 0 };
        }
        if addr == 1 {
            // Rounded down it would be address 0, whose rights differ from user to user.
            addr = 0;
        }
        Call::Shmat { id: self.id(Kind::Shm), addr, flags }
    }

    fn shmctl(&mut self) -> Call<Id> {
        let out = Arg::Buf(self.ptr(&[0, 1, 8, 100]));
        let id = self.id(Kind::Shm);
        let (id, cmd, arg) = match self.random.random_range(0..100) {
            0..=39 => (id, libc::IPC_STAT, out),
            40..=47 => (id, libc::IPC_SET, Arg::Set(self.ptr(&[8, 100]), self.set())),
            48..=65 => (id, libc::IPC_RMID, out),
            66..=72 => (self.stat_id(Kind::Shm), SHM_STAT, out),
            73..=79 => (self.stat_id(Kind::Shm), SHM_STAT_ANY, out),
            80..=82 => (Id::Raw(self.pick(&[0, 0, 5, -1])), libc::IPC_INFO, out),
            83..=89 => (Id::Raw(self.pick(&[0, 0, 5, -1])), SHM_INFO, out),
            90..=92 => (id, libc::SHM_LOCK, out),
            93..=95 => (id, libc::SHM_UNLOCK, out),
            _ => (id, self.pick(&[-1, 99, 0x102, i32::MAX, 5]), out),
        };
        if cmd == libc::IPC_RMID {
            self.forget_removed(id);
        }
        Call::Shmctl { id, cmd, arg }
    }

    fn values(&mut self) -> Arg {
        let mut values: Vec<u16> = (0..LARGEST_SET).map(|_| self.pick(&[0, 0, 1, 2, 3])).collect();
        if self.chance(10) {
            values[0] = self.pick(&[32767, 32768, u16::MAX]);
        }
        Arg::Values(self.ptr(&[0, 1, 2]), values)
    }

    /// `known` are the descriptors that the task's process has.
    fn mq(&mut self, known: &[Name], careful: bool) -> Call<Id> {
        if known.is_empty() && self.chance(80) {
            return self.mq_open();
        }
        let fd = match known {
            [] => Id::Raw(self.pick(&[0, -1, 7, i32::MAX, i32::MIN])),
            _ if self.chance(2) => Id::Raw(self.pick(&[0, 1, 2, -1, 7, i32::MAX, i32::MIN])),
            known => Id::Of(self.pick(known)),
        };
        match self.random.random_range(0..100) {
            0..=6 => self.mq_open(),
            7..=9 => Call::MqUnlink { ptr: self.ptr(&[0, 1, 2]), name: self.queue_name() },
            10..=12 => Call::Close { fd },
            _ if known.len() > 8 => Call::Close { fd },
            13..=14 if self.abilities.dups => Call::Dup { fd },
            15..=45 => self.mq_send(fd, careful),
            46..=76 => self.mq_receive(fd, careful),
            77..=82 => self.mq_notify(fd),
            83..=86 => Call::TakeNotice,
            87..=88 => Call::Umask { mask: self.pick(&[0, 0, 0o022, 0o077, 0o777]) },
            89..=94 if self.abilities.polls => Call::Poll { fd },
            _ => self.mq_getsetattr(fd),
        }
    }

    fn queue_name(&mut self) -> String {
        match self.random.random_range(0..60) {
            0 => String::new(),
            1 => self.pick(&[".", "..", "a/b", "/", "...", "abcdefgh"]).to_owned(),
            2 => "x".repeat(self.pick(&[255, 256, 4094, 4095, 4096])),
            _ => self.pick(&["a", "b", "c", "a b"]).to_owned(),
        }
    }

    fn mq_open(&mut self) -> Call<Id> {
        let mode = self.pick(&[libc::O_RDWR, libc::O_RDWR, libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY, 3]);
        let create = self.pick(&[libc::O_CREAT, libc::O_CREAT, libc::O_CREAT | libc::O_EXCL, 0]);
        let nonblock = if self.chance(40) { libc::O_NONBLOCK } else { 0 };
        let attr = self.chance(85).then(|| QueueSize {
            ptr: self.ptr(&[0, 8, 63]),
            maxmsg: self.pick(&[1, 1, 2, 2, 3, 5, 10, 11, 1000, 0, -1, i64::MAX]),
            msgsize: self.pick(&[1, 16, 16, 64, 64, 100, 129, 8193, 100_000, 0, -1, i64::MAX]),
        });
        Call::MqOpen {
            ptr: self.ptr(&[0, 1, 2]),
            name: self.queue_name(),
            oflag: mode | create | nonblock,
            mode: self.pick(&[0o600, 0o600, 0o666, 0o640, 0, 0o400, 0o222, 0o7777]),
            attr,
        }
    }

    fn queue_timeout(&mut self, careful: bool) -> Timeout {
        let never = |ptr| Timeout { ptr, sec: 1000, nsec: 0 };
        match self.random.random_range(0..20) {
            0..=1 => self.timeout(),
            2..=4 => Timeout { ptr: Ptr::Valid, sec: 0, nsec: 1_000_000 },
            5..=8 => Timeout { ptr: Ptr::Valid, sec: 0, nsec: 0 },
            _ if careful => Timeout { ptr: Ptr::Valid, sec: 0, nsec: 0 },
            9..=10 => never(Ptr::Null),
            _ => never(Ptr::Valid),
        }
    }

    fn mq_send(&mut self, fd: Id, careful: bool) -> Call<Id> {
        let len = match self.random.random_range(0..30) {
            0 => self.pick(&[u64::MAX, 1 << 63, 1 << 32, 100_000, 8193]),
            1..=3 => self.pick(&[64, 65, 100, 101]),
            _ => self.random.random_range(0..=16),
        };
        self.text += 1;
        let text = Text::Pattern { seed: self.text, len: len.min(20_000) as usize };
        let prio = match self.random.random_range(0..30) {
            0 => self.pick(&[32767, 32768, u32::MAX]),
            _ => self.random.random_range(0..4),
        };
        let (ptr, timeout) = (self.ptr(&[0, 4, 8, 9, 16]), self.queue_timeout(careful));
        Call::MqTimedsend { fd, ptr, text, len, prio, timeout }
    }

    fn mq_receive(&mut self, fd: Id, careful: bool) -> Call<Id> {
        let len = match self.random.random_range(0..30) {
            0 => self.pick(&[u64::MAX, 1 << 63, 1 << 32]),
            1..=4 => self.pick(&[0, 1, 15, 16, 63, 64]),
            _ => 100_000,
        };
        let (ptr, timeout) = (self.ptr(&[0, 4, 8, 9, 16]), self.queue_timeout(careful));
        let prio = if self.chance(10) { Ptr::Null } else { self.ptr(&[0, 3]) };
        Call::MqTimedreceive { fd, ptr, len, prio, timeout }
    }

    fn mq_notify(&mut self, fd: Id) -> Call<Id> {
        if self.chance(25) {
            return Call::MqNotify { fd, event: None };
        }
        let notify =
            self.pick(&[libc::SIGEV_SIGNAL, libc::SIGEV_SIGNAL, libc::SIGEV_SIGNAL, libc::SIGEV_NONE]);
        let notify = if self.chance(4) { self.pick(&[3, libc::SIGEV_THREAD_ID, -1]) } else { notify };
        let signo = if self.chance(8) { self.pick(&[0, -1, 65, i32::MAX]) } else { NOTICE };
        self.text += 1;
        let event = Event { ptr: self.ptr(&[0, 8, 63]), notify, signo, value: self.text.into() };
        Call::MqNotify { fd, event: Some(event) }
    }

    fn mq_getsetattr(&mut self, fd: Id) -> Call<Id> {
        let nonblock = i64::from(libc::O_NONBLOCK);
        let flags = self.pick(&[0, 0, nonblock, nonblock, nonblock | 1, 1, -1]);
        let flags = self.chance(40).then(|| (self.ptr(&[0, 8, 63]), flags));
        let old = if self.chance(10) { Ptr::Null } else { self.ptr(&[0, 8, 63]) };
        Call::MqGetsetattr { fd, flags, old }
    }
}
