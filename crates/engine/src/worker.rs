//! The worker: schedule → forward → sample → stream, on the one thread that owns the backend.
