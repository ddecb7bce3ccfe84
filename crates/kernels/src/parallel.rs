//! How work is spread over the processor's cores, and memory that tasks share without overlap.

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::worker_group::Leader;

/// Who does the work of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// The calling thread: for an image of a batch that is itself spread over the cores.
    Serial,
    /// All threads of the current rayon pool.
    Pool,
}

/// Who does the tasks of a step.
#[derive(Clone, Copy)]
pub(crate) enum Workers<'a> {
    /// As in [`Parallel`].
    Serial,
    /// As in [`Parallel`].
    Pool,
    /// The pool's threads, awake between the steps of a longer job, which the calling thread leads.
    Group(&'a Leader<'a>),
}

impl From<Parallel> for Workers<'_> {
    fn from(parallel: Parallel) -> Self {
        match parallel {
            Parallel::Serial => Self::Serial,
            Parallel::Pool => Self::Pool,
        }
    }
}

impl Workers<'_> {
    /// Threads at work.
    pub(crate) fn threads(self) -> usize {
        match self {
            Self::Serial => 1,
            Self::Pool => rayon::current_num_threads(),
            Self::Group(leader) => leader.threads(),
        }
    }

    /// Runs `task` for `0..count`.
    pub(crate) fn for_each(self, count: usize, task: impl Fn(usize) + Sync) {
        match self {
            _ if count <= 1 || self.threads() == 1 => (0..count).for_each(task),
            Self::Group(leader) => leader.for_each(count, &task),
            _ => (0..count).into_par_iter().with_max_len(1).for_each(&task),
        }
    }

    /// The same with the number of the thread that does the task, less than
    /// [`threads`](Self::threads).
    pub(crate) fn for_each_on(self, count: usize, task: impl Fn(usize, usize) + Sync) {
        let serial = matches!(self, Self::Serial);
        self.for_each(count, |number| {
            let thread = match serial {
                true => 0,
                false => rayon::current_thread_index().unwrap_or(0),
            };
            task(number, thread);
        });
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

    /// Where the value `first` is, with `count` values from there on; whoever writes some of them
    /// keeps them apart from what others use.
    pub(crate) fn place(&self, first: usize, count: usize) -> *mut T {
        let inside = first.checked_add(count).is_some_and(|end| end <= self.len);
        assert!(inside, "a part beyond the end");
        self.start.wrapping_add(first)
    }

    /// The `count` values from `first`.
    ///
    /// # Safety
    /// No value may be in two parts that are in use at the same time.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, first: usize, count: usize) -> &mut [T] {
        let inside = first.checked_add(count).is_some_and(|end| end <= self.len);
        assert!(inside, "a part beyond the end");
        // SAFETY: it lies within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), count) }
    }
}
