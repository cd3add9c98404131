//! The harness itself: equal worlds show no difference, an altered one is found out and the story is short.

use std::path::Path;

use differential::{Abilities, Difference, Generator, Kind, Limits, explore};
use world::{Call, Processes, Reply, Start, State, TaskId, World};

const ABILITIES: Abilities = Abilities {
    other_users: false,
    strangers: false,
    files: true,
    queue_files: true,
    wide: true,
    polls: true,
    dups: true,
    mappings: true,
};

fn kernel(_: &Limits) -> Box<dyn World> {
    Box::new(processes())
}

fn processes() -> Processes {
    let start = Start::kernel().worker(Path::new(env!("CARGO_BIN_EXE_differential")));
    Processes::start(&start).expect("the worker's executable")
}

/// The kernel, but for one thing.
struct Liar {
    truth: Processes,
    /// The calls that the tasks are in.
    calls: Vec<(TaskId, Call)>,
    lie: fn(&Call, &mut Reply),
}

impl Liar {
    fn new(lie: fn(&Call, &mut Reply)) -> Liar {
        Liar { truth: processes(), calls: Vec::new(), lie }
    }
}

impl World for Liar {
    fn spawn(&mut self) -> TaskId {
        self.truth.spawn()
    }

    fn start(&mut self, task: TaskId, call: &Call) {
        self.calls.retain(|(of, _)| *of != task);
        self.calls.push((task, call.clone()));
        self.truth.start(task, call);
    }

    fn settle(&mut self) {
        self.truth.settle();
    }

    fn poll(&mut self, task: TaskId) -> State {
        match self.truth.poll(task) {
            State::Done(mut reply) => {
                let (_, call) = self.calls.iter().find(|(of, _)| *of == task).expect("it was started");
                (self.lie)(call, &mut reply);
                State::Done(reply)
            }
            state => state,
        }
    }

    fn kill(&mut self, task: TaskId) {
        self.truth.kill(task);
    }

    fn signal(&mut self, task: TaskId, signal: i32) {
        self.truth.signal(task, signal);
    }

    fn stops_sleepers(&self) -> bool {
        self.truth.stops_sleepers()
    }

    fn task_of(&self, pid: i32) -> Option<TaskId> {
        self.truth.task_of(pid)
    }
}

/// Explores until the lie is found out, and shrinks the way there.
fn find_out(kind: Kind, lie: fn(&Call, &mut Reply)) -> Difference {
    let liar = move |_: &Limits| -> Box<dyn World> { Box::new(Liar::new(lie)) };
    let limits = Limits::new();
    let mut generator = Generator::new(1, &[kind], ABILITIES);
    let run = explore([&kernel, &liar], &limits, &mut generator, 3000);
    assert!(run.differs, "the lie was not found out in {} calls", run.calls);
    Difference::shrunk([&kernel, &liar], &limits, &run.steps).expect("the sequence can be played again")
}

#[test]
fn the_kernel_does_not_differ_from_itself() {
    let mut generator = Generator::new(7, &[Kind::Msg, Kind::Sem], ABILITIES);
    let run = explore([&kernel, &kernel], &Limits::new(), &mut generator, 3000);
    assert!(!run.differs, "{}", run.end(&Limits::new()));
    assert_eq!(run.calls, 3000);
}

#[test]
fn an_altered_value_is_found_and_shrunk() {
    let difference = find_out(Kind::Sem, |call, reply| {
        if matches!(call, Call::Semctl { cmd: libc::GETVAL, .. }) && reply.ret == 2 {
            reply.ret = 3;
        }
    });
    // A process, a set, a value of two, and the look at it; a fork or two may stand between.
    assert!(difference.story.len() <= 8, "{difference}");
    let text = difference.to_string();
    assert!(text.contains("kernel 2") && text.contains("ours   3"), "{text}");
}

#[test]
fn an_altered_text_is_found_and_shrunk() {
    let difference = find_out(Kind::Msg, |call, reply| {
        if let (Call::Msgrcv { .. }, world::Data::Message { text, .. }) = (call, &mut reply.data)
            && let Some(last) = text.last_mut()
        {
            *last ^= 1;
        }
    });
    assert!(difference.story.len() <= 8, "{difference}");
}
