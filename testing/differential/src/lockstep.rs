//! Two worlds that go through the same steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use std::{fmt, thread};

use world::{Call, Reply, State, TaskId, World};

use crate::step::{Action, Id, Name, Step};
use crate::tolerated;

/// After how long a world that seemed at rest is looked at again.
const LATER: Duration = Duration::from_millis(50);

/// The limits that a sequence begins with: sysctl names and values.
pub type Limits = Vec<(String, String)>;

/// Makes a fresh world with these limits.
pub type Make<'a> = &'a dyn Fn(&Limits) -> Box<dyn World>;

/// What one task is seen to do after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its call has returned.
    Done(Reply),
    /// Anything else.
    Else(State),
}

impl Seen {
    fn without_rss(mut self) -> Seen {
        if let Seen::Done(reply) = &mut self {
            tolerated::without_rss(reply);
        }
        self
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Done(reply) => write!(f, "{reply}"),
            Seen::Else(State::Blocked) => f.write_str("asleep"),
            Seen::Else(state) => write!(f, "{state:?}"),
        }
    }
}

/// What a task did after a step, in either world.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Who.
    pub task: Name,
    /// In the first world (the kernel) and in the second.
    pub seen: [Seen; 2],
}

/// What came of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It makes no sense here (its task is asleep or dead, its object unknown), or its outcome is a race.
    Skipped,
    /// The observations, equal or not, of the tasks that came to something.
    Ran(Vec<Observation>),
}

/// A task that is alive, in both worlds.
#[derive(Debug, Clone)]
pub struct Task {
    ids: [TaskId; 2],
    /// The task that is the first of the same process.
    pub leader: Name,
    /// The call it is in; between two steps that means asleep.
    pub in_call: Option<Call>,
    /// It is stopped.
    pub stopped: bool,
    /// The descriptor that it sleeps by has been closed. If the kernel has it make its call again, it comes to whatever has that number by then.
    adrift: bool,
}

/// Two worlds.
pub struct Lockstep {
    worlds: [Box<dyn World>; 2],
    /// Those alive.
    pub tasks: BTreeMap<Name, Task>,
    /// Ids, by the name of the call that gave them.
    pub objects: BTreeMap<Name, i32>,
    /// The descriptors of POSIX queues that each process has, by its first task; each with the name of the call that gave it.
    pub descriptors: BTreeMap<Name, BTreeMap<i32, Name>>,
    /// Which processes, by their first task, handle which signals.
    pub handles: BTreeSet<(Name, i32)>,
    /// Processes, by their first task, whose effective ids are not their real ones.
    borrowed_ids: BTreeSet<Name>,
    /// Whether anything was ever attached, and the task that looks on when some attachments have ended.
    attached: bool,
    witness: Option<[TaskId; 2]>,
    /// Names by the worlds' own numbers; the dead stay.
    names: [BTreeMap<TaskId, Name>; 2],
    /// [`tolerated::pages_taken_back`] when the worlds were made.
    taken_back: u64,
    /// How many replies were the same only without the pages in memory, which the kernel has taken back.
    pub without_rss: u64,
}

impl Lockstep {
    /// Two fresh worlds.
    pub fn new(make: [Make<'_>; 2], limits: &Limits) -> Lockstep {
        Lockstep {
            worlds: make.map(|make| make(limits)),
            tasks: BTreeMap::new(),
            objects: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            handles: BTreeSet::new(),
            borrowed_ids: BTreeSet::new(),
            attached: false,
            witness: None,
            names: [BTreeMap::new(), BTreeMap::new()],
            taken_back: tolerated::pages_taken_back(),
            without_rss: 0,
        }
    }

    /// The calls asleep on the object of `call`.
    fn sleepers(&self, call: &Call) -> Vec<(Name, Call)> {
        let Some(wanted) = object(call) else { return Vec::new() };
        let asleep = self.tasks.iter().filter_map(|(name, task)| Some((*name, task.in_call.clone()?)));
        asleep.filter(|(_, call)| object(call) == Some(wanted)).collect()
    }

    /// The call with its object's id, if that is known.
    fn resolve(&self, call: &Call<Id>) -> Option<Call> {
        let mut known = true;
        let mut look = |name| match self.objects.get(&name) {
            Some(id) => *id,
            None => {
                known = false;
                0
            }
        };
        let call = call.clone().map_id(|id| match id {
            Id::Of(name) => look(name),
            Id::Stale(name) => look(name).wrapping_add(32768),
            Id::Index(name) => look(name) % 32768,
            Id::Raw(id) => id,
        });
        known.then_some(call)
    }

    /// Takes the step in both worlds and waits until they are at rest.
    pub fn step(&mut self, step: &Step) -> Outcome {
        let before = self.tasks.len();
        let outcome = self.take(step);
        let ran = matches!(outcome, Outcome::Ran(_));
        if ran && self.attached && (self.tasks.len() != before || tolerated::is_noted_late(&step.action)) {
            self.let_it_be_noted();
        }
        outcome
    }

    /// Somebody who is none of the tasks asks how much memory segments have.
    fn let_it_be_noted(&mut self) {
        let witness = match self.witness {
            Some(witness) => witness,
            None => *self.witness.insert([self.worlds[0].spawn(), self.worlds[1].spawn()]),
        };
        self.both(|world, side| drop(world.call(witness[side], &tolerated::LOOK)));
    }

    fn take(&mut self, step: &Step) -> Outcome {
        if let Action::Spawn = step.action {
            let ids = [self.worlds[0].spawn(), self.worlds[1].spawn()];
            self.add(step.makes, ids, step.makes);
            return Outcome::Ran(Vec::new());
        }
        if !self.tasks.contains_key(&step.task) {
            return Outcome::Skipped;
        }
        match &step.action {
            Action::Call(call) => match self.resolve(call) {
                Some(call) if self.sensible(step.task, &call) => self.call(step, call),
                _ => Outcome::Skipped,
            },
            Action::Signal(signal) if !self.sensible_signal(step.task, *signal) => Outcome::Skipped,
            Action::Signal(signal) => self.signal(step.task, *signal),
            Action::Kill | Action::Spawn => {
                let ids = self.tasks[&step.task].ids;
                self.both(|world, side| world.kill(ids[side]));
                self.observe()
            }
        }
    }

    fn sensible(&self, task: Name, call: &Call) -> bool {
        let leads = self.tasks[&task].leader == task;
        let fits = match call {
            // With borrowed ids the loader leaves the preload library out, and all calls go to the kernel.
            Call::Exec => leads && !self.borrowed_ids.contains(&task),
            Call::ExitThread => !leads,
            // glibc interrupts the other threads with a signal of its own.
            Call::SetIds { .. } => self.process(self.tasks[&task].leader).count() == 1,
            _ => true,
        };
        let free = self.tasks[&task].in_call.is_none() && !self.tasks[&task].stopped;
        free && fits && !tolerated::races(call, &self.sleepers(call))
    }

    fn sensible_signal(&self, task: Name, signal: i32) -> bool {
        let Task { leader, stopped, adrift, .. } = self.tasks[&task];
        match signal {
            // Not all doors notice it in their sleep; and which of several sleepers queues up again first is open.
            libc::SIGSTOP => {
                let asleep = self.process(leader).filter(|task| task.in_call.is_some()).count();
                let most = usize::from(self.worlds.iter().all(|world| world.stops_sleepers()));
                !stopped && asleep <= most && !self.process(leader).any(|task| task.adrift)
            }
            libc::SIGCONT => true,
            signal => !stopped && !adrift && self.handles.contains(&(leader, signal)),
        }
    }

    fn process(&self, leader: Name) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(move |task| task.leader == leader)
    }

    fn signal(&mut self, task: Name, signal: i32) -> Outcome {
        let Task { ids, leader, .. } = self.tasks[&task];
        self.both(|world, side| world.signal(ids[side], signal));
        if matches!(signal, libc::SIGSTOP | libc::SIGCONT) {
            for task in self.tasks.values_mut().filter(|task| task.leader == leader) {
                task.stopped = signal == libc::SIGSTOP;
            }
        }
        self.observe()
    }

    fn call(&mut self, step: &Step, call: Call) -> Outcome {
        let ids = self.tasks[&step.task].ids;
        self.both(|world, side| world.start(ids[side], &call));
        self.tasks.get_mut(&step.task).expect("checked by step").in_call = Some(call.clone());
        let states = self.come_to_rest();
        let own = states.iter().find(|(name, _, _)| *name == step.task);
        if let Some((_, _, [State::Done(first), State::Done(second)])) = own {
            self.record(step, &call, [first.ret, second.ret].map(|ret| ret as TaskId), first);
        }
        Outcome::Ran(self.observations(states))
    }

    /// What the call that has returned has made.
    fn record(&mut self, step: &Step, call: &Call, ids: [TaskId; 2], reply: &Reply) {
        let leader = self.tasks.get(&step.task).map_or(step.task, |task| task.leader);
        match call {
            _ if reply.errno != 0 => {}
            Call::Msgget { .. } | Call::Semget { .. } | Call::Shmget { .. } => {
                self.objects.insert(step.makes, reply.ret as i32);
            }
            Call::Shmat { .. } => self.attached = true,
            Call::Fork => {
                let inherited: Vec<_> =
                    self.handles.iter().filter(|(of, _)| *of == leader).copied().collect();
                self.handles.extend(inherited.into_iter().map(|(_, signal)| (step.makes, signal)));
                if self.borrowed_ids.contains(&leader) {
                    self.borrowed_ids.insert(step.makes);
                }
                if let Some(inherited) = self.descriptors.get(&leader) {
                    self.descriptors.insert(step.makes, inherited.clone());
                }
                self.add(step.makes, ids, step.makes);
            }
            Call::SetIds { euid: 0, egid: 0, .. } => {
                self.borrowed_ids.remove(&leader);
            }
            Call::SetIds { .. } => {
                self.borrowed_ids.insert(leader);
            }
            Call::SpawnThread => {
                self.add(step.makes, ids, leader);
            }
            Call::Exec => {
                self.handles.retain(|(of, _)| *of != leader);
                self.descriptors.remove(&leader);
            }
            Call::MqOpen { .. } | Call::Dup { .. } => {
                let fd = reply.ret as i32;
                self.objects.insert(step.makes, fd);
                self.descriptors.entry(leader).or_default().insert(fd, step.makes);
            }
            Call::Close { fd } => {
                if let Some(descriptors) = self.descriptors.get_mut(&leader) {
                    descriptors.remove(fd);
                }
                for task in self.tasks.values_mut().filter(|task| task.leader == leader) {
                    let by = match &task.in_call {
                        Some(Call::MqTimedsend { fd, .. } | Call::MqTimedreceive { fd, .. }) => Some(fd),
                        _ => None,
                    };
                    task.adrift |= by == Some(fd);
                }
            }
            Call::Handler { signal, .. } => {
                self.handles.insert((leader, *signal));
            }
            _ => {}
        }
    }

    fn add(&mut self, name: Name, ids: [TaskId; 2], leader: Name) {
        self.tasks.insert(name, Task { ids, leader, in_call: None, stopped: false, adrift: false });
        for (names, id) in self.names.iter_mut().zip(ids) {
            names.insert(id, name);
        }
    }

    fn both(&mut self, mut act: impl FnMut(&mut dyn World, usize)) {
        for (side, world) in self.worlds.iter_mut().enumerate() {
            act(world.as_mut(), side);
        }
    }

    fn observe(&mut self) -> Outcome {
        let states = self.come_to_rest();
        Outcome::Ran(self.observations(states))
    }

    /// Waits for both worlds, and gives the tasks that were in a call, or are dead.
    fn come_to_rest(&mut self) -> Vec<(Name, Option<Call>, [State; 2])> {
        let settled = self.settle();
        let mut states = Vec::new();
        for ((name, task), now) in self.tasks.iter_mut().zip(settled) {
            let was = task.in_call.clone();
            if !matches!(now[0], State::Blocked | State::Stopped) {
                (task.in_call, task.adrift) = (None, false);
            }
            if was.is_some() || now[0] != now[1] || now[0] == State::Dead {
                states.push((*name, was, now));
            }
        }
        for (name, _, now) in &states {
            if now[0] == State::Dead {
                self.tasks.remove(name);
            }
        }
        states
    }

    /// What each task has come to. Who is asleep in one world only is looked at again: of a death, whoever serves a world may be told
    /// a little later than whoever waits for it, and no step is taken meanwhile.
    fn settle(&mut self) -> Vec<[State; 2]> {
        self.both(|world, _| world.settle());
        let ids: Vec<[TaskId; 2]> = self.tasks.values().map(|task| task.ids).collect();
        let mut states: Vec<_> =
            ids.iter().map(|ids| [0, 1].map(|side| self.worlds[side].poll(ids[side]))).collect();
        let in_one = |now: &[State; 2]| (now[0] == State::Blocked) != (now[1] == State::Blocked);
        if states.iter().any(in_one) {
            thread::sleep(LATER);
            self.both(|world, _| world.settle());
            for (now, ids) in states.iter_mut().zip(&ids).filter(|(now, _)| in_one(now)) {
                let side = usize::from(now[1] == State::Blocked);
                now[side] = self.worlds[side].poll(ids[side]);
            }
        }
        states
    }

    fn observations(&mut self, states: Vec<(Name, Option<Call>, [State; 2])>) -> Vec<Observation> {
        let observation = |(task, call, [first, second]): (Name, Option<Call>, [State; 2])| {
            let mut seen = [self.seen(0, call.as_ref(), first), self.seen(1, call.as_ref(), second)];
            if seen[0] != seen[1] {
                let left = seen.clone().map(Seen::without_rss);
                if left[0] == left[1] && (tolerated::damon_takes_pages() || self.memory_was_short()) {
                    self.without_rss += 1;
                    seen = left;
                }
            }
            Observation { task, seen }
        };
        states.into_iter().map(observation).collect()
    }

    /// Whether pages were taken back since the worlds were made. The kernel counts them when it is done with that, which takes its time
    /// on a busy machine.
    fn memory_was_short(&self) -> bool {
        const LOOKS: u32 = 20;
        (0..LOOKS).any(|look| {
            if look > 0 {
                thread::sleep(LATER);
            }
            tolerated::pages_taken_back() != self.taken_back
        })
    }

    fn seen(&self, side: usize, call: Option<&Call>, state: State) -> Seen {
        match (state, call) {
            (State::Done(reply), Some(call)) => {
                let task_of = |pid| self.name_of(side, pid);
                Seen::Done(tolerated::comparable(call, reply, task_of))
            }
            (state, _) => Seen::Else(state),
        }
    }

    /// The name of the task, dead or alive, that has or had this pid.
    fn name_of(&self, side: usize, pid: i32) -> Option<Name> {
        let id = self.worlds[side].task_of(pid)?;
        self.names[side].get(&id).copied()
    }
}

/// What a call acts on: objects of different kinds may have the same id.
fn object(call: &Call) -> Option<(bool, i32)> {
    match call {
        Call::Msgsnd { id, .. } | Call::Msgrcv { id, .. } | Call::Msgctl { id, .. } => Some((true, *id)),
        Call::Semop { id, .. } | Call::Semtimedop { id, .. } | Call::Semctl { id, .. } => Some((false, *id)),
        _ => None,
    }
}
