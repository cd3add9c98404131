//! A case on the simulated machine: its own program and those of its tasks take turns in this one thread.
//!
//! The case runs on the thread's stack, each task on one of its own. A program that waits, in a call or for another,
//! hands the turn on, and looks again when it has it back. When nobody can go on, the machine's clock moves to the
//! next end of a sleep. All programs share the memory of this process: nobody's changes are undone by a fork. Only where segments are attached,
//! each process has addresses of its own, which the machine reads and writes for it.
//!
//! Left out are the cases that are about a real system's programs, files and memory (each says what it wants, by `system`), descriptors that are polled or
//! handed on, other namespaces, of which this machine has one, and the calls of 32-bit programs (each says at which doors it is run, by `only`).
//!
//! # Safety
//! The kernel itself copies from and to the addresses that a program passes, so a wrong one is an error. What is
//! written there is what a program has asked for.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use abi::Errno;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use kernel_host::{ANYWHERE, Access, AddressSpace, Credentials, Machine, Memory, Schedule, State, Tid};

use crate::check::{Failure, Outcome};

thread_local! {
    static SIMULATION: RefCell<Option<Rc<Simulation>>> = const { RefCell::new(None) };
}

/// The simulation that this thread's programs are in, if they are in one.
pub(crate) fn simulation() -> Option<Rc<Simulation>> {
    SIMULATION.with_borrow(Clone::clone)
}

/// Runs a case on a machine with these limits and this schedule.
pub(crate) fn run(limits: &[(&str, &str)], schedule: Schedule, case: impl FnOnce() -> Outcome) -> Outcome {
    let mut machine = Machine::with_schedule(true, schedule);
    let own = machine.spawn(OwnMemory::new());
    for (name, value) in limits {
        machine
            .write_sysctl(own, name, value)
            .map_err(|error| Failure(format!("{name}={value}: {error}")))?;
    }
    let simulation = Rc::new(Simulation {
        machine: RefCell::new(machine),
        programs: RefCell::default(),
        running: Cell::new(own),
        yielder: Cell::new(None),
        moves: Cell::new(0),
    });
    SIMULATION.set(Some(Rc::clone(&simulation)));
    let outcome = case();
    let steps = simulation.machine(|machine| machine.schedule().steps());
    simulation.programs.take();
    SIMULATION.set(None);
    outcome.map_err(|Failure(why)| Failure(format!("after {steps} steps: {why}")))
}

/// A machine, and the programs of its threads.
pub(crate) struct Simulation {
    machine: RefCell<Machine<OwnMemory>>,
    programs: RefCell<Vec<Program>>,
    /// The thread whose turn it is.
    running: Cell<Tid>,
    /// Where its program hands the turn back; none for the case itself, which gives the turns.
    yielder: Cell<Option<Turn>>,
    /// Counts what programs have got done.
    moves: Cell<u64>,
}

type Turn = *const Yielder<(), ()>;

/// The program of one thread, but for the case itself.
struct Program {
    tid: Tid,
    yielder: Rc<Cell<Option<Turn>>>,
    coroutine: Coroutine<(), (), ()>,
}

impl Simulation {
    /// The machine, between two calls of programs.
    pub(crate) fn machine<R>(&self, act: impl FnOnce(&mut Machine<OwnMemory>) -> R) -> R {
        act(&mut self.machine.borrow_mut())
    }

    /// The running program's thread.
    pub(crate) fn tid(&self) -> Tid {
        self.running.get()
    }

    /// The running program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.machine(|machine| machine.pid(self.tid()))
    }

    /// Makes a call of the running program.
    pub(crate) fn call(&self, number: i64, registers: [u64; 6]) -> Result<i64, Errno> {
        let tid = self.tid();
        self.machine(|machine| machine.call_by_number(tid, number, registers));
        self.wait_for(|| self.machine(|machine| machine.take(tid)))
    }

    /// The running program's address space.
    pub(crate) fn space<R>(&self, act: impl FnOnce(&mut AddressSpace) -> R) -> R {
        self.machine(|machine| act(machine.memory(self.tid()).space()))
    }

    /// What the running program reads there.
    pub(crate) fn byte_at(&self, addr: u64) -> u8 {
        let mut byte = [0];
        let read = self.machine(|machine| machine.memory(self.tid()).read(addr, &mut byte));
        read.expect("a case reads where it has something attached");
        byte[0]
    }

    /// The running program writes there.
    pub(crate) fn set_byte(&self, addr: u64, value: u8) {
        let written = self.machine(|machine| machine.memory(self.tid()).write(addr, &[value]));
        written.expect("a case writes where it has something attached");
    }

    /// Waits until there is something, while the others run.
    pub(crate) fn wait_for<R>(&self, mut look: impl FnMut() -> Option<R>) -> R {
        loop {
            if let Some(found) = look() {
                self.moves.set(self.moves.get() + 1);
                return found;
            }
            match self.yielder.get() {
                // SAFETY: it is the running coroutine's own, which lives as long as its stack is in use.
                Some(turn) => unsafe { (*turn).suspend(()) },
                None => assert!(self.run_others() || self.let_time_pass(), "nobody can go on"),
            }
        }
    }

    /// Lets the others run until all of them wait.
    pub(crate) fn rest(&self) {
        while self.run_others() {}
    }

    /// Gives each program a turn. Whether one got something done.
    fn run_others(&self) -> bool {
        assert!(self.yielder.get().is_none(), "the case itself gives the turns");
        let before = self.moves.get();
        let own = self.tid();
        let mut turns: Vec<Tid> = self.programs.borrow().iter().map(|program| program.tid).collect();
        while !turns.is_empty() {
            let tid = turns.remove(self.machine(|machine| machine.schedule().choose(turns.len())));
            // Out of the list meanwhile: the program may begin others.
            let Some(program) = self.take_program(tid) else { continue };
            if self.machine(|machine| machine.state(tid)) == State::Dead {
                drop(program);
                continue;
            }
            if let Some(program) = self.give_turn(program) {
                self.programs.borrow_mut().push(program);
            }
        }
        // Calls that were left in their middle go on between the turns of programs.
        let went_on = self.machine(Machine::turn);
        self.running.set(own);
        went_on || before != self.moves.get()
    }

    fn take_program(&self, tid: Tid) -> Option<Program> {
        let mut programs = self.programs.borrow_mut();
        let at = programs.iter().position(|program| program.tid == tid)?;
        Some(programs.remove(at))
    }

    /// None if the program is over.
    fn give_turn(&self, mut program: Program) -> Option<Program> {
        self.running.set(program.tid);
        self.yielder.set(program.yielder.get());
        let outcome = program.coroutine.resume(());
        self.yielder.set(None);
        matches!(outcome, CoroutineResult::Yield(())).then_some(program)
    }

    /// Whether a sleep ends by it.
    fn let_time_pass(&self) -> bool {
        self.machine(|machine| match machine.next_deadline() {
            Some(deadline) => {
                machine.advance_to(deadline);
                true
            }
            None => false,
        })
    }

    /// Begins the program of a new thread.
    fn begin(self: &Rc<Self>, tid: Tid, work: impl FnOnce(&Simulation) + 'static) {
        let yielder = Rc::new(Cell::new(None));
        let (own, simulation) = (Rc::clone(&yielder), Rc::clone(self));
        let coroutine = Coroutine::new(move |turn: &Yielder<(), ()>, ()| {
            own.set(Some(std::ptr::from_ref(turn)));
            simulation.yielder.set(own.get());
            work(&simulation);
            simulation.moves.set(simulation.moves.get() + 1);
        });
        self.programs.borrow_mut().push(Program { tid, yielder, coroutine });
        self.moves.set(self.moves.get() + 1);
    }

    /// Begins a program in a child process of the running one's.
    pub(crate) fn fork<T: 'static>(self: &Rc<Self>, work: impl FnOnce() -> T + 'static) -> Child<T> {
        let child = self.machine(|machine| machine.fork(self.tid()));
        self.child(child, true, work, |machine, tid| machine.exit(tid))
    }

    /// Begins a program in a thread of the running one's process.
    pub(crate) fn thread<T: 'static>(self: &Rc<Self>, work: impl FnOnce() -> T + 'static) -> Child<T> {
        let thread = self.machine(|machine| machine.clone_thread(self.tid()));
        self.child(thread, false, work, |machine, tid| machine.exit_thread(tid))
    }

    fn child<T: 'static>(
        self: &Rc<Self>,
        tid: Tid,
        dies_with_us: bool,
        work: impl FnOnce() -> T + 'static,
        end: impl FnOnce(&mut Machine<OwnMemory>, Tid) + 'static,
    ) -> Child<T> {
        let report = Rc::new(Cell::new(None));
        let place = Rc::clone(&report);
        self.begin(tid, move |simulation| {
            place.set(Some(work()));
            simulation.machine(|machine| end(machine, tid));
        });
        Child { simulation: Rc::clone(self), tid, report, dies_with_us }
    }

    /// The running program's process becomes one that sleeps for ever.
    pub(crate) fn execute_sleep(&self) -> ! {
        self.machine(|machine| machine.exec(self.tid(), OwnMemory::new()));
        self.sleep_for_ever()
    }

    /// The running program does nothing any more.
    pub(crate) fn sleep_for_ever(&self) -> ! {
        self.wait_for(|| None)
    }

    /// Who the running program's process is from now on.
    pub(crate) fn become_user(&self, euid: u32, egid: u32, groups: Option<&[u32]>) {
        let tid = self.tid();
        self.machine(|machine| {
            let groups = groups.map_or_else(|| machine.credentials(tid).groups, <[u32]>::to_vec);
            machine.set_credentials(tid, Credentials::new(euid, egid, groups));
        });
    }

    /// The running program's process is really that user from now on.
    pub(crate) fn become_for_good(&self, uid: u32) {
        let tid = self.tid();
        self.machine(|machine| {
            let groups = machine.credentials(tid).groups;
            machine.set_credentials(tid, Credentials { uid, ..Credentials::new(uid, 0, groups) });
        });
    }

    /// Which capabilities the running program's process has from now on, as bits.
    pub(crate) fn have_only(&self, capabilities: u64) {
        let tid = self.tid();
        self.machine(|machine| {
            let credentials = machine.credentials(tid);
            machine.set_credentials(tid, Credentials { capabilities, ..credentials });
        });
    }
}

/// A task or a thread that was begun, and what it answers.
pub(crate) struct Child<T> {
    simulation: Rc<Simulation>,
    tid: Tid,
    report: Rc<Cell<Option<T>>>,
    dies_with_us: bool,
}

/// A case that ends early leaves nobody behind.
impl<T> Drop for Child<T> {
    fn drop(&mut self) {
        if self.dies_with_us {
            self.signal(libc::SIGKILL);
        }
    }
}

impl<T> Child<T> {
    pub(crate) fn tid(&self) -> Tid {
        self.tid
    }

    fn state(&self) -> State {
        self.simulation.machine(|machine| machine.state(self.tid))
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.simulation.rest();
        self.state() == State::Asleep
    }

    /// What it is doing, for people.
    pub(crate) fn whereabouts(&self) -> String {
        format!("{:?}", self.state())
    }

    pub(crate) fn signal(&self, signal: i32) {
        self.simulation.machine(|machine| {
            if machine.state(self.tid) != State::Dead {
                machine.signal(self.tid, signal);
            }
        });
        if self.state() == State::Dead {
            drop(self.simulation.take_program(self.tid));
        }
    }

    /// What it has answered; waits for that and for its end.
    pub(crate) fn join(&self) -> T {
        self.simulation.wait_for(|| self.report.take())
    }
}

/// The memory of this process, which is that of all programs, but for the addresses at which segments are attached.
#[derive(Clone)]
pub(crate) struct OwnMemory {
    space: AddressSpace,
}

/// The addresses at which segments are attached: there is never anything of a Linux process.
const ATTACHED: Range<u64> = ANYWHERE..2 * ANYWHERE;

impl OwnMemory {
    fn new() -> OwnMemory {
        let mut space = AddressSpace::default();
        // Nothing goes where this process may have something.
        space.map(0, ATTACHED.start, Access::ReadWrite);
        space.map(ATTACHED.end, (1 << 47) - ATTACHED.end, Access::ReadWrite);
        OwnMemory { space }
    }
}

impl Memory for OwnMemory {
    fn read(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        if ATTACHED.contains(&from) {
            return self.space.read(from, to);
        }
        let (local, remote) = (part(to.as_mut_ptr() as u64, to.len()), part(from, to.len()));
        // SAFETY: the buffer is writable for its length; what can't be read is an error.
        whole(to.len(), unsafe {
            libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        })
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), Errno> {
        if ATTACHED.contains(&to) {
            return self.space.write(to, bytes);
        }
        let (local, remote) = (part(bytes.as_ptr() as u64, bytes.len()), part(to, bytes.len()));
        // SAFETY: the buffer is readable for its length; what can't be written is an error, and what can is what a
        // program has passed to be written.
        whole(bytes.len(), unsafe {
            libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        })
    }

    fn space(&mut self) -> &mut AddressSpace {
        &mut self.space
    }
}

fn part(at: u64, length: usize) -> libc::iovec {
    libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(at as usize), iov_len: length }
}

fn whole(length: usize, copied: isize) -> Result<(), Errno> {
    match usize::try_from(copied) {
        Ok(copied) if copied == length => Ok(()),
        Ok(_) => Err(Errno::EFAULT),
        Err(_) => {
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "process_vm_readv of this process: {error}");
            Err(Errno::EFAULT)
        }
    }
}
