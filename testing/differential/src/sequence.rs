//! One sequence: made up as it goes, or played again.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::generate::Generator;
use crate::lockstep::{Limits, Lockstep, Make, Observation, Outcome};
use crate::shrink::shrink;
use crate::step::{Action, Step};

/// Two worlds that did not do the same, and the shortest way there.
#[derive(Debug)]
pub struct Difference {
    /// The limits to begin with.
    pub limits: Limits,
    /// Each step with what was seen; the last is the difference.
    pub story: Vec<(Step, Vec<Observation>)>,
    /// A world broke down altogether.
    pub breakdown: Option<String>,
}

/// How a sequence went.
#[derive(Debug)]
pub struct Run {
    /// The steps that were taken.
    pub steps: Vec<Step>,
    /// How many of them were calls.
    pub calls: u64,
    /// [`Lockstep::without_rss`] of them.
    pub without_rss: u64,
    /// The worlds are not the same after the last of them.
    pub differs: bool,
    /// What was seen after the last of them.
    pub last: Vec<Observation>,
}

/// Longest time that the search for a shorter sequence takes.
const SHRINKING: Duration = Duration::from_secs(60);

/// Makes up to `calls` calls, until the worlds differ.
pub fn explore(make: [Make<'_>; 2], limits: &Limits, generator: &mut Generator, calls: u64) -> Run {
    let mut run = Run { steps: Vec::new(), calls: 0, without_rss: 0, differs: false, last: Vec::new() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Lockstep::new(make, limits);
        while run.calls < calls && !run.differs {
            let step = generator.step(&pair);
            run.steps.push(step);
            let step = run.steps.last().expect("just pushed");
            match pair.step(step) {
                Outcome::Skipped => drop(run.steps.pop()),
                Outcome::Ran(observations) => {
                    run.calls += u64::from(matches!(step.action, Action::Call(_)));
                    run.differs = differ(&observations);
                    run.last = observations;
                    run.without_rss = pair.without_rss;
                }
            }
        }
    }));
    run.differs |= result.is_err();
    run
}

fn differ(observations: &[Observation]) -> bool {
    observations.iter().any(|observation| observation.seen[0] != observation.seen[1])
}

/// Plays the steps in fresh worlds, up to the first difference; None if there is none.
pub fn replay(make: [Make<'_>; 2], limits: &Limits, steps: &[Step]) -> Option<Difference> {
    let mut story = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Lockstep::new(make, limits);
        steps.iter().any(|step| {
            story.push((step.clone(), Vec::new()));
            match pair.step(step) {
                Outcome::Skipped => {
                    story.pop();
                    false
                }
                Outcome::Ran(observations) => {
                    let differs = differ(&observations);
                    story.last_mut().expect("just pushed").1 = observations;
                    differs
                }
            }
        })
    }));
    let limits = limits.clone();
    match played {
        Ok(false) => None,
        Ok(true) => Some(Difference { limits, story, breakdown: None }),
        Err(panic) => Some(Difference { limits, story, breakdown: Some(text(panic.as_ref())) }),
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
}

impl Difference {
    /// The shortest part of `steps` that can be found to differ; None if they do not when played again.
    pub fn shrunk(make: [Make<'_>; 2], limits: &Limits, steps: &[Step]) -> Option<Difference> {
        replay(make, limits, steps)?;
        let shortest = shrink(steps, SHRINKING, |steps| replay(make, limits, steps).is_some());
        let difference = replay(make, limits, &shortest)?;
        // Limits that do not matter are noise.
        Some(replay(make, &Limits::new(), &shortest).unwrap_or(difference))
    }
}

impl Run {
    /// The end of a run that differed, and did not when played again.
    pub fn end(self, limits: &Limits) -> Difference {
        const STEPS: usize = 12;
        let first = self.steps.len().saturating_sub(STEPS);
        let mut story: Vec<_> = self.steps.into_iter().skip(first).map(|step| (step, Vec::new())).collect();
        if let Some(end) = story.last_mut() {
            end.1 = self.last;
        }
        Difference { limits: limits.clone(), story, breakdown: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.limits {
            writeln!(f, "  limit {name}='{value}'")?;
        }
        for (step, observations) in &self.story {
            writeln!(f, "  {step}")?;
            for Observation { task, seen: [kernel, ours] } in observations {
                if kernel == ours {
                    writeln!(f, "      T{task}: {kernel}")?;
                } else {
                    writeln!(f, "  !   T{task}: kernel {kernel}")?;
                    writeln!(f, "  !   T{task}: ours   {ours}")?;
                }
            }
        }
        match &self.breakdown {
            Some(text) => writeln!(f, "  !   {text}"),
            None => Ok(()),
        }
    }
}
