//! How work is spread over the processor's cores, and memory that tasks share without overlap.

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::team::Team;

/// Who does the tasks of a step.
#[derive(Debug, Clone, Copy)]
pub enum Parallel<'a> {
    /// The calling thread: for an image of a batch that is itself spread over the cores.
    Serial,
    /// All threads of the current rayon pool.
    Pool,
    /// The same, awake between the steps of a longer job, which the calling thread leads.
    Team(&'a Team),
}

impl Parallel<'_> {
    /// Threads at work.
    pub fn threads(self) -> usize {
        match self {
            Self::Serial => 1,
            Self::Pool => rayon::current_num_threads(),
            Self::Team(team) => team.threads(),
        }
    }

    /// The number of the thread that asks, less than [`threads`](Self::threads).
    pub(crate) fn thread(self) -> usize {
        match self {
            Self::Serial => 0,
            Self::Pool | Self::Team(_) => rayon::current_thread_index().unwrap_or(0),
        }
    }

    /// Runs `task` for `0..count`.
    pub(crate) fn for_each(self, count: usize, task: impl Fn(usize) + Sync) {
        match self {
            _ if count <= 1 || self.threads() == 1 => (0..count).for_each(task),
            Self::Team(team) => team.for_each(count, &task),
            _ => (0..count).into_par_iter().with_max_len(1).for_each(&task),
        }
    }
}

/// A slice of which each task changes a part of its own.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by an unsafe function whose callers keep them apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: it is a mutable slice.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            lifetime: PhantomData,
        }
    }

    /// The `count` values from `first`.
    ///
    /// # Safety
    /// No value may be in two parts that are in use at the same time.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, first: usize, count: usize) -> &mut [T] {
        assert!(first + count <= self.len, "a part beyond the end");
        // SAFETY: it lies within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), count) }
    }
}
