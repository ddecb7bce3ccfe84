//! Threads that stay awake between the short steps of one long job.
//!
//! An image goes through some hundred steps of a tenth of a millisecond. A pool's thread that has
//! nothing to do for a moment goes to sleep, and to wake it takes as long as a step. So a team is
//! borrowed from the pool for the whole job, and its threads watch for the next step. Nobody waits
//! for a thread that is busy elsewhere: whoever is there takes the tasks.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::yield_now;

/// Looks for news before a waiting thread lets others run: a few hundredths of a millisecond.
const PATIENCE: u32 = 1 << 11;

/// One thread that leads, and those that help it.
pub struct Team {
    threads: usize,
    step: UnsafeCell<Step>,
    /// Whether `step` may be worked on.
    open: AtomicBool,
    /// The step's next task, and how many there are.
    next: AtomicUsize,
    count: AtomicUsize,
    /// Helpers that are looking at `step`.
    inside: AtomicUsize,
    /// No step will follow.
    over: AtomicBool,
}

/// A step's tasks: what `call` needs, and the number of the task.
struct Step {
    call: unsafe fn(*const (), usize),
    task: *const (),
}

// SAFETY: `step` is changed by the leader alone, while the step is closed and no helper inside.
unsafe impl Sync for Team {}
// SAFETY: the pointer of a step is only followed while the step is open.
unsafe impl Send for Team {}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Team {
    /// Runs `job` with a team of all threads of the current rayon pool.
    pub fn gather<R: Send>(job: impl FnOnce(&Self) -> R + Send) -> R {
        let threads = rayon::current_num_threads();
        let team = Self {
            threads,
            step: UnsafeCell::new(Step {
                call: |_, _| {},
                task: std::ptr::null(),
            }),
            open: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| team.help());
            }
            let _over = Guard(|| team.over.store(true, SeqCst));
            job(&team)
        })
    }

    /// Threads of the team.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task` for `0..count`; only the leader may call it.
    pub(crate) fn for_each<F: Fn(usize) + Sync>(&self, count: usize, task: &F) {
        /// # Safety
        /// `task` must be the address of an `F`.
        unsafe fn call<F: Fn(usize)>(task: *const (), number: usize) {
            // SAFETY: the caller's.
            unsafe { (*task.cast::<F>())(number) }
        }
        // SAFETY: the step is closed, and nobody inside.
        unsafe {
            *self.step.get() = Step {
                call: call::<F>,
                task: std::ptr::from_ref(task).cast(),
            }
        }
        self.next.store(0, SeqCst);
        self.count.store(count, SeqCst);
        self.open.store(true, SeqCst);
        // Even if a task panics, helpers leave before the task is gone.
        let _closed = Guard(|| {
            self.open.store(false, SeqCst);
            wait_until(|| self.inside.load(SeqCst) == 0);
        });
        self.work(task);
    }

    /// Takes tasks as long as there are any.
    fn work(&self, task: impl Fn(usize)) {
        loop {
            let number = self.next.fetch_add(1, SeqCst);
            if number >= self.count.load(SeqCst) {
                return;
            }
            task(number);
        }
    }

    /// Takes part in every step until the leader is done.
    fn help(&self) {
        let something =
            || self.open.load(SeqCst) && self.next.load(SeqCst) < self.count.load(SeqCst);
        loop {
            wait_until(|| something() || self.over.load(SeqCst));
            if self.over.load(SeqCst) {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            let _outside = Guard(|| {
                self.inside.fetch_sub(1, SeqCst);
            });
            // Either the leader sees this thread inside and waits for it, or this thread sees the
            // step closed: all of these operations have one order.
            if self.open.load(SeqCst) {
                // SAFETY: an open step stays as it is while somebody is inside.
                let Step { call, task } = unsafe { &*self.step.get() };
                // SAFETY: the leader keeps the task until everybody is outside.
                self.work(|number| unsafe { call(*task, number) });
            }
        }
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let mut looks = 0;
    while !done() {
        match looks < PATIENCE {
            true => spin_loop(),
            false => yield_now(),
        }
        looks += 1;
    }
}

/// Calls a function when it is dropped.
struct Guard<F: Fn()>(F);

impl<F: Fn()> Drop for Guard<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn in_pool<R: Send>(threads: usize, job: impl FnOnce(&Team) -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| Team::gather(job))
    }

    #[test]
    fn every_task_is_done_once_in_every_step() {
        for threads in [1, 2, 3, 8] {
            in_pool(threads, |team| {
                assert_eq!(team.threads(), threads);
                for step in 0..2000 {
                    let count = step % 40;
                    let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    team.for_each(count, &|task| {
                        done[task].fetch_add(step + 1, SeqCst);
                    });
                    let done: Vec<_> = done.into_iter().map(AtomicUsize::into_inner).collect();
                    assert_eq!(
                        done,
                        vec![step + 1; count],
                        "{threads} threads, step {step}"
                    );
                }
            });
        }
    }

    #[test]
    fn a_busy_pool_is_not_waited_for() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let (busy, free) = std::sync::mpsc::channel::<()>();
        pool.unwrap().scope(|scope| {
            scope.spawn(move |_| free.recv().unwrap_or_default());
            let sum = AtomicUsize::new(0);
            Team::gather(|team| {
                team.for_each(100, &|task| {
                    sum.fetch_add(task, SeqCst);
                });
            });
            assert_eq!(sum.into_inner(), 4950);
            drop(busy);
        });
    }

    #[test]
    fn a_panic_ends_the_job_and_nothing_else() {
        for threads in [1, 2, 4] {
            let job = || {
                in_pool(threads, |team| {
                    team.for_each(50, &|task| assert_ne!(task, 30))
                })
            };
            assert!(catch_unwind(AssertUnwindSafe(job)).is_err(), "{threads}");
        }
    }
}
