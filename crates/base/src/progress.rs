//! How a long run reports what happens, and how its caller cancels it.

use std::ops::ControlFlow;

/// Receives the events of a run; `Break` cancels the run at the next place where nothing is lost.
pub type Progress<'a, Event> = dyn FnMut(Event) -> ControlFlow<()> + 'a;
