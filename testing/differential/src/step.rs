//! One step of a sequence, in names of the sequence's own: a step keeps its meaning when others are left out.

use std::fmt;

use world::Call;

/// A name that a sequence gives to a task or an object; never given twice.
pub type Name = u32;

/// How a step names an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// What the `*get` call that made this name has returned.
    Of(Name),
    /// The same place in the table, a generation later.
    Stale(Name),
    /// The bare place in the table, for `*_STAT`.
    Index(Name),
    /// A number.
    Raw(i32),
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The task makes a call.
    Call(Call<Id>),
    /// A new task, child of no other.
    Spawn,
    /// SIGKILL.
    Kill,
    /// A signal that the task has a handler for, or SIGSTOP or SIGCONT.
    Signal(i32),
}

/// One step: after it, both worlds come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Who acts, or is acted upon.
    pub task: Name,
    /// What happens.
    pub action: Action,
    /// The name of the object or task that comes into being, if one does.
    pub makes: Name,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Of(name) => write!(f, "id{name}"),
            Id::Stale(name) => write!(f, "id{name}+32768"),
            Id::Index(name) => write!(f, "id{name}%32768"),
            Id::Raw(id) => write!(f, "{id}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { task, action, makes } = self;
        match action {
            Action::Call(call @ (Call::Msgget { .. } | Call::Semget { .. } | Call::Shmget { .. })) => {
                write!(f, "T{task}: id{makes} = {call}")
            }
            Action::Call(call @ (Call::MqOpen { .. } | Call::Dup { .. })) => {
                write!(f, "T{task}: id{makes} = {call}")
            }
            Action::Call(call @ (Call::Fork | Call::SpawnThread)) => write!(f, "T{task}: T{makes} = {call}"),
            Action::Call(call) => write!(f, "T{task}: {call}"),
            Action::Spawn => write!(f, "T{makes} = a new process"),
            Action::Kill => write!(f, "kill(T{task}, SIGKILL)"),
            Action::Signal(signal) => write!(f, "tgkill(T{task}, {signal})"),
        }
    }
}
