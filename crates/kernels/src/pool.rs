//! The worker pool: threads pinned to cores that spin between the ~200 fork/joins of a token and sleep when idle.
//!
//! Work items are numbered, and threads take ranges of them from a shared counter: large ranges at first and small ones at the
//! end, so that a slow core doesn't delay a step. The caller is worker 0.

use crate::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard, Ordering,
    UnsafeCell, fence, spin_loop, yield_now,
};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use zonda_machine::cpus;

/// How many times a worker polls for work before it sleeps: a few hundred µs, longer than the gap between two tokens.
const SPINS_BEFORE_SLEEP: u32 = if cfg!(loom) { 1 } else { 20_000 };
/// A thread takes the rest of a loop divided by this number and the number of threads, so that threads finish together with few
/// ranges.
const PARTS: usize = 2;
/// How many times a thread polls before it yields its core between polls.
const SPINS_BEFORE_YIELD: u32 = 4_000;

/// A fixed set of threads that run one parallel loop at a time. Dropping it stops and joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    pinned: bool,
}

/// The loop in progress, type-erased. Valid while `Pool::split` is on the caller's stack.
#[derive(Clone, Copy)]
struct Task {
    body: *const (dyn Fn(Range<usize>) + Sync),
    items: usize,
    /// Minimum number of items that a thread takes at a time.
    grain: usize,
    /// A thread takes the remaining items divided by this; `None`: it takes `grain`.
    parts: Option<usize>,
}

impl Task {
    /// How many items a thread takes when `left` remain.
    fn take(self, left: usize) -> usize {
        let share = self.parts.map_or(0, |parts| left / parts);
        (share - share % self.grain).max(self.grain).min(left)
    }
}

struct Shared {
    /// Incremented to start a loop; workers wait for it to change.
    epoch: AtomicU64,
    /// The loop to run. The caller writes it before `epoch` changes; workers read it afterwards, until `running` is 0.
    task: UnsafeCell<Option<Task>>,
    /// The next item to take.
    next: AtomicUsize,
    /// Workers that haven't finished the loop in progress.
    running: AtomicUsize,
    /// Whether a loop is in progress.
    busy: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The first panic of a loop's body, rethrown by the caller.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written only while no worker reads it (see the field), and points to a `Sync` closure that `split` keeps
// alive until every worker is done with it.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it is bound to a thread; for `task` see `Sync`.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, including the caller, pinned one per core if that many cores are allowed.
    ///
    /// # Panics
    /// If the system does not start that many threads.
    pub fn new(threads: usize) -> Pool {
        Pool::start_threads(threads).expect("the system starts threads")
    }

    /// As [`Pool::new`], for a number that the system may not allow.
    ///
    /// # Errors
    /// What the system says; the threads that it did start have ended then.
    pub fn start_threads(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        let pins = if cfg!(loom) { Vec::new() } else { cpus::pins(threads) };
        let pinned = !pins.is_empty();
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        if pinned {
            cpus::pin_current_thread(pins[0]);
        }
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads - 1), pinned };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = pins.get(i).copied();
            let worker = Builder::new().name(format!("zonda-worker-{i}")).spawn(move || {
                if let Some(core) = core {
                    cpus::pin_current_thread(core);
                }
                shared.work();
            });
            pool.workers.push(worker?); // dropping the pool ends those that run
        }
        Ok(pool)
    }

    /// The number of threads, including the caller.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(i)` for every `i < items`, distributed over all threads one by one; returns when all are done.
    ///
    /// # Panics
    /// With the first panic of `body`, after all threads have stopped.
    pub fn for_each(&self, items: usize, body: &(dyn Fn(usize) + Sync)) {
        self.start(items, 1, false, &|range| range.for_each(body));
    }

    /// Calls `body` with ranges that cover `0..items`, distributed over all threads: large ones first, then smaller ones, in
    /// multiples of `grain`. Returns when all are done.
    ///
    /// # Panics
    /// With the first panic of `body`, after all threads have stopped.
    pub fn split(&self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        self.start(items, grain, true, body);
    }

    fn start(&self, items: usize, grain: usize, guided: bool, body: &(dyn Fn(Range<usize>) + Sync)) {
        let shared = &*self.shared;
        if items <= grain || self.workers.is_empty() {
            if items > 0 {
                body(0..items);
            }
            return;
        }
        assert!(!shared.busy.swap(true, Ordering::Acquire), "a pool runs one loop at a time");
        // SAFETY: only the lifetime is erased; this function returns only after every worker is done with `body`.
        let body: &'static (dyn Fn(Range<usize>) + Sync) = unsafe { std::mem::transmute(body) };
        let task = Task { body, items, grain, parts: guided.then(|| PARTS * self.threads()) };
        // SAFETY: `busy` keeps other loops out, and the last one ended with no worker left in it.
        shared.task.with_mut(|at| unsafe { *at = Some(task) });
        shared.next.store(0, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        // Pairs with the fence of a worker about to sleep: the worker sees the new epoch, or it is seen here and woken.
        fence(Ordering::SeqCst);
        if shared.sleepers.load(Ordering::Relaxed) > 0 {
            drop(lock(&shared.sleep));
            shared.wake.notify_all();
        }
        shared.run(task);
        let mut spins = 0;
        while shared.running.load(Ordering::Acquire) > 0 {
            pause(&mut spins);
        }
        // Taken before the next loop can begin, and unlocked before unwinding.
        let panic = lock(&shared.panic).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).field("pinned", &self.pinned).finish()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches its body's panics
        }
    }
}

impl Shared {
    /// A worker's loop: waits for an epoch, runs its loop, decrements the count.
    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_epoch_after(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: written before the epoch changed, and not again until this worker has decremented `running`.
            let task = self.task.with(|at| unsafe { *at });
            if let Some(task) = task {
                self.run(task);
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }

    /// Takes items until none remain.
    fn run(&self, task: Task) {
        // SAFETY: `start` keeps the closure alive until `running` is 0 and the calling thread has left this function.
        let body = unsafe { &*task.body };
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut next = self.next.load(Ordering::Relaxed);
            while next < task.items {
                let end = next + task.take(task.items - next);
                next = match self.next.compare_exchange_weak(next, end, Ordering::Relaxed, Ordering::Relaxed)
                {
                    Ok(_) => {
                        body(next..end);
                        self.next.load(Ordering::Relaxed)
                    }
                    Err(newer) => newer,
                };
            }
        }));
        if let Err(panic) = done {
            self.next.store(task.items, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    fn wait_for_epoch_after(&self, seen: u64) -> u64 {
        let mut spins = 0;
        while spins < SPINS_BEFORE_SLEEP {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            pause(&mut spins);
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence of a caller that starts a loop.
        fence(Ordering::SeqCst);
        let epoch = loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                break epoch;
            }
            guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        epoch
    }
}

/// Waits between two polls: spins at first, then yields the core to other threads.
fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD {
        spin_loop();
    } else {
        yield_now();
    }
}

/// Locks, ignoring poisoning: a panic elsewhere does not harm the data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(items, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {items} items"
                );
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(100, &|i| assert!(i != 42, "item 42"));
        }));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        pool.for_each(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}

/// Checks the protocol in loom's model, which tries every order of the threads' steps up to a number of preemptions
/// (`make test-loom`).
#[cfg(all(test, loom))]
mod model {
    use super::*;

    /// Runs `test` in every order with at most `preemptions` preemptions.
    fn in_every_order(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.max_branches = 10_000;
        model.check(test);
    }

    /// Loops over cells that are written without synchronisation: `loom` fails if an item runs twice, if two threads access
    /// it at once, or if the caller reads before a worker's write is visible.
    fn loops(threads: usize, lens: &[usize]) {
        let pool = Pool::new(threads);
        for &items in lens {
            let cells: Vec<_> = (0..items).map(|_| UnsafeCell::new(0)).collect();
            let cells = Cells(&cells);
            pool.for_each(items, &|i| {
                // SAFETY: only one thread accesses each item, as the model checks.
                cells.get(i).with_mut(|at| unsafe { *at += 1 });
            });
            for i in 0..items {
                // SAFETY: the loop has ended, as the model checks.
                assert_eq!(cells.get(i).with(|at| unsafe { *at }), 1);
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Cells<'a>(&'a [UnsafeCell<u32>]);

    // SAFETY: the model checks every access.
    unsafe impl Sync for Cells<'_> {}

    impl<'a> Cells<'a> {
        fn get(self, i: usize) -> &'a UnsafeCell<u32> {
            &self.0[i]
        }
    }

    #[test]
    fn two_loops_and_the_end_with_a_worker() {
        in_every_order(2, || loops(2, &[2, 3]));
    }

    #[test]
    fn a_loop_and_the_end_with_two_workers() {
        in_every_order(1, || loops(3, &[2]));
    }

    #[test]
    fn a_pool_that_never_ran_ends() {
        in_every_order(4, || drop(Pool::new(2)));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_loop_runs() {
        in_every_order(2, || {
            let pool = Pool::new(2);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(2, &|i| {
                    if i == 1 {
                        // Unlike `panic!`, `resume_unwind` prints nothing: it runs thousands of times.
                        resume_unwind(Box::new("item 1"));
                    }
                });
            }));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"item 1"));
            let done = AtomicUsize::new(0);
            pool.for_each(2, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 2);
        });
    }
}
