//! Which tokens of which sequences go into the next step. Pure: no I/O, no clock, no async.
