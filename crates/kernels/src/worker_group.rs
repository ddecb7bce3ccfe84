//! Threads that stay awake between the short steps of one long job.
//!
//! An image goes through some hundred steps of a tenth of a millisecond. A pool's thread that has
//! nothing to do for a moment goes to sleep, and to wake it takes as long as a step. So a group of
//! workers is borrowed from the pool for the job, and its threads watch for the next step. Nobody
//! waits for a thread that is busy elsewhere: whoever is there takes the tasks.

use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::yield_now;

/// Looks for news before a waiting thread lets others run: a few hundredths of a millisecond.
const PATIENCE: u32 = 1 << 11;

/// What the leader and its helpers share.
struct WorkerGroup {
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

// SAFETY: `step` is written by the one `Leader` alone, which stays on its thread, and only while
// the step is closed and no helper is inside; helpers read it only while it is open and they are
// counted as inside. The task that it points to is `Sync`, and outlives the open step.
unsafe impl Sync for WorkerGroup {}

/// The one thread that starts steps. It is not `Sync`, so that neither a task nor another thread
/// can start a second step while one is open.
pub(crate) struct Leader<'a> {
    group: &'a WorkerGroup,
    here: PhantomData<Cell<()>>,
}

/// Runs `job` with all threads of the current rayon pool; the thread that runs it leads them.
pub(crate) fn lead<R: Send>(job: impl FnOnce(&Leader) -> R + Send) -> R {
    let threads = rayon::current_num_threads();
    let group = WorkerGroup {
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
    // Borrowed outside, so that helpers share the group and not the reference to it.
    let group = &group;
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| group.help());
        }
        let _over = Guard(|| group.over.store(true, SeqCst));
        job(&Leader {
            group,
            here: PhantomData,
        })
    })
}

impl Leader<'_> {
    /// Threads of the group, this one included.
    pub(crate) fn threads(&self) -> usize {
        self.group.threads
    }

    /// Runs `task` for `0..count` on whatever threads are free.
    pub(crate) fn for_each<F: Fn(usize) + Sync>(&self, count: usize, task: &F) {
        /// # Safety
        /// `task` must be the address of an `F` that lives during the call.
        unsafe fn call<F: Fn(usize)>(task: *const (), number: usize) {
            // SAFETY: `for_each` stores this function together with the address of its own `F`,
            // and does not return before nobody uses it any more.
            unsafe { (*task.cast::<F>())(number) }
        }
        let group = self.group;
        // SAFETY: every earlier step was closed by the guard below and left by all helpers, so
        // that nobody reads the step; and this leader is the only one, on this thread alone.
        unsafe {
            *group.step.get() = Step {
                call: call::<F>,
                task: std::ptr::from_ref(task).cast(),
            }
        }
        group.next.store(0, SeqCst);
        group.count.store(count, SeqCst);
        group.open.store(true, SeqCst);
        // Even if a task panics, helpers leave before the task is gone.
        let _closed = Guard(|| {
            group.open.store(false, SeqCst);
            wait_until(|| group.inside.load(SeqCst) == 0);
        });
        group.work(task);
    }
}

impl WorkerGroup {
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
                // SAFETY: this thread is counted as inside and has seen the step open: the leader
                // writes it again only after it was closed and everybody has left.
                let Step { call, task } = unsafe { &*self.step.get() };
                // SAFETY: `call` and `task` were stored together, and the leader keeps the task
                // until everybody has left.
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
    use crate::parallel::Shared;

    fn in_pool<R: Send>(threads: usize, job: impl FnOnce(&Leader) -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| lead(job))
    }

    #[test]
    fn every_task_is_done_once_in_every_step() {
        for threads in [1, 2, 3, 8] {
            in_pool(threads, |leader| {
                assert_eq!(leader.threads(), threads);
                for step in 0..2000 {
                    let count = step % 40;
                    let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    leader.for_each(count, &|task| {
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

    /// Numbers that are no atomics: under ThreadSanitizer this also shows that each step happens
    /// after the one before.
    #[test]
    fn every_step_sees_what_the_one_before_wrote() {
        for threads in [2, 4] {
            in_pool(threads, |leader| {
                let mut numbers = vec![1_u64; 64];
                for step in 0..2000 {
                    let before = numbers.clone();
                    let shared = Shared::new(&mut numbers);
                    leader.for_each(64, &|task| {
                        // SAFETY: each number is one task's.
                        let number = unsafe { &mut shared.part(task, 1)[0] };
                        *number = before[task].wrapping_mul(3) + before[(task + step) % 64];
                    });
                    let expected = (0..64).map(|task| {
                        before[task]
                            .wrapping_mul(3)
                            .wrapping_add(before[(task + step) % 64])
                    });
                    numbers.iter_mut().for_each(|x| *x %= 1 << 32);
                    assert!(expected.map(|x| x % (1 << 32)).eq(numbers.iter().copied()));
                }
            });
        }
    }

    #[test]
    fn groups_that_share_a_pool_do_not_disturb_each_other() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build();
        let pool = pool.unwrap();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    pool.install(|| {
                        lead(|leader| {
                            for step in 0..500 {
                                let sum = AtomicUsize::new(0);
                                leader.for_each(seed + 10, &|task| {
                                    sum.fetch_add(task * step, SeqCst);
                                });
                                let count = seed + 10;
                                assert_eq!(sum.into_inner(), step * count * (count - 1) / 2);
                            }
                        });
                    });
                });
            }
        });
    }

    #[test]
    fn a_busy_pool_is_not_waited_for() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let (busy, free) = std::sync::mpsc::channel::<()>();
        pool.unwrap().scope(|scope| {
            scope.spawn(move |_| free.recv().unwrap_or_default());
            let sum = AtomicUsize::new(0);
            lead(|leader| {
                leader.for_each(100, &|task| {
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
                in_pool(threads, |leader| {
                    leader.for_each(50, &|task| assert_ne!(task, 30))
                })
            };
            assert!(catch_unwind(AssertUnwindSafe(job)).is_err(), "{threads}");
        }
    }
}
