//! The thread primitives that the pool is made of: those of `std`, or `loom`'s in the model test of its protocol.

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

/// Lets the other hyper-thread of the core go first; in the model, any other thread.
pub(crate) fn spin_loop() {
    #[cfg(loom)]
    yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

#[cfg(not(loom))]
mod cell {
    /// As `std`'s, with the interface of `loom`'s, which sees accesses begin and end.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        /// Hands out the address to read. Reading it is the caller's unsafe code.
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// Hands out the address to write. Writing to it is the caller's unsafe code.
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}
