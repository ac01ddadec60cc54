//! Processes in their places: started, replaced when they die, restarted by the operator whom they call.

use std::time::Duration;

use tokio::time::Instant;

use super::{ANSWER_MAX, World};
use crate::check::Check;
use crate::disturbance::Action;
use crate::faults::Fault;
use crate::node;
use crate::stage::UNEXPECTED_CODE;

impl World {
    pub(crate) fn start(&mut self, place: usize) {
        let place = &mut self.places[place];
        if place.running.is_some() {
            return;
        }
        place.incarnation += 1;
        place.draining = false;
        place.since = Instant::now();
        let options = place.options.clone();
        place.running = Some(node::start(
            &self.stage,
            place.name,
            place.incarnation,
            self.seed,
            options,
        ));
    }

    /// Ends a process and lets the broker know after its session; another is started in its place.
    pub(crate) fn replace(&mut self, place: usize, session: Duration, pause: Duration) {
        if let Some(running) = self.places[place].running.take() {
            running.control.kill("and replaced");
            self.later(session, Action::DropConsumer(running.consumer));
            self.later(pause, Action::Start(place));
        }
    }

    pub(super) fn bury_the_dead(&mut self) {
        for place in 0..self.places.len() {
            let died = self.places[place]
                .running
                .as_ref()
                .is_some_and(|it| it.control.is_killed());
            if died {
                self.stage.count(Fault::Crash);
                let (session, pause) = (self.dice.millis(0, 2_000), self.dice.millis(100, 3_000));
                self.replace(place, session, pause);
            }
        }
    }

    /// The operator restarts a node that raised an alarm, after asking whether anything explains it.
    pub(super) fn operate(&mut self) {
        for place in 0..self.places.len() {
            let Some(running) = &self.places[place].running else {
                continue;
            };
            let drained = running.observed.lock().drained;
            if let Some(report) = drained {
                self.stage.count(Fault::DrainedRestart);
                self.stage.trace(
                    "world",
                    &format!("{} drained: {report:?}", self.places[place].name),
                );
                let pause = self.dice.millis(50, 1_000);
                self.replace(place, Duration::ZERO, pause);
                continue;
            }
            let alarm = running
                .observed
                .alarm()
                .filter(|_| !self.places[place].draining);
            let Some(reason) = alarm else { continue };
            self.stage.trace(
                "world",
                &format!("alarm of {}: {reason}", self.places[place].name),
            );
            if reason.contains(UNEXPECTED_CODE) {
                self.stage.count(Fault::UnexpectedError);
            } else if !explained(&reason) {
                self.stage
                    .violation(Check::Alarm, format!("nothing explains it: {reason}"));
            }
            let pause = self.dice.millis(200, 2_000);
            self.replace(place, Duration::ZERO, pause);
        }
    }

    /// A node that runs answers; otherwise something in it hangs.
    pub(super) fn check_answers(&self) {
        for place in &self.places {
            let Some(running) = &place.running else {
                continue;
            };
            if running.control.is_frozen() || running.control.is_killed() || place.draining {
                continue;
            }
            let last = running
                .observed
                .lock()
                .at
                .map_or(place.since, |at| at.max(place.since));
            if last.elapsed() > ANSWER_MAX {
                self.stage.violation(
                    Check::Answers,
                    format!("node {} was silent for {ANSWER_MAX:?}", place.name),
                );
            }
        }
    }
}

/// Alarms that follow from what the world did.
fn explained(reason: &str) -> bool {
    ["the restart budget is used up", "fenced", "panicked"]
        .iter()
        .any(|text| reason.contains(text))
}
