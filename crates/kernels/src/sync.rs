//! The thread primitives of the pool: those of `std`, or `loom`'s in the model test of its protocol.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{Builder, JoinHandle, yield_now},
};
#[cfg(not(loom))]
pub(crate) use {
    cell::UnsafeCell,
    std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    std::sync::{Arc, Condvar, Mutex, MutexGuard},
    std::thread::{Builder, JoinHandle, yield_now},
};

/// Yields to the other hyper-thread of the core; in the model, to any other thread.
pub(crate) fn spin_loop() {
    #[cfg(loom)]
    yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

#[cfg(not(loom))]
mod cell {
    /// `std`'s cell with the interface of `loom`'s, which tracks the beginning and end of accesses.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        /// Passes on the address to read. The caller reads it in unsafe code.
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// Passes on the address to write. The caller writes to it in unsafe code.
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}
