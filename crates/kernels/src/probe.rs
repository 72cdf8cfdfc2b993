//! The machine's peaks: bytes read per second, and multiply-adds per second with the instructions that the kernels use. An
//! engine's speeds are shares of these.
//!
//! Arithmetic runs in registers in independent chains; reading streams through memory far larger than any cache. Both are the
//! best of many passes, because a disturbed pass does not show the limit.

use crate::memory::{AllocError, Buffer, SharedPtr};
use crate::pool::Pool;
use crate::simd::{Op, Simd};
use crate::table::Isa;
use half::bf16;
use std::hint::black_box;
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zonda_machine::{Peaks, Rate, cpus};

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Numbers of accumulators in flight. With too few the units wait for results, with too many they spill to memory. The best
/// number depends on the CPU, so all are tried.
const CHAINS: [usize; 4] = [4, 5, 8, 12];
/// Vectors in the ring from which an arithmetic loop reads its changing operand: 4 KiB, always in the L1 cache.
const RING: usize = 64;
/// Rounds between two readings of the clock.
const ROUNDS: usize = 4096;
/// Bytes read between two readings of the clock.
const STRETCH: usize = 1 << 20;
/// Minimum size of the memory to stream through; it is also at least eight times the last cache, with a share for every thread.
const READ_BYTES: usize = 512 << 20;
const READ_BYTES_A_THREAD: usize = 32 << 20;
/// A large model's weights: see [`Peaks::read_large_bytes_per_s`].
pub const LARGE_BYTES: usize = 4 << 30;

/// How long [`measure`] spends on each of its eight figures.
pub const EACH: Duration = Duration::from_millis(300);

/// Measures with `threads` threads, pinned like those of the kernels, for about `each` per figure. `large` also measures
/// reading [`LARGE_BYTES`] of memory, which takes that memory and the time to fill it. The calling thread is not pinned.
///
/// # Errors
/// If the memory or the threads are not available.
pub fn measure(isa: Isa, threads: usize, each: Duration, large: bool) -> Result<Peaks, ProbeError> {
    // A pool pins its caller, so it gets a thread of its own.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("zonda-probe".into());
        let measured = thread.spawn_scoped(scope, || measure_here(isa, threads.max(1), each, large));
        measured?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no memory to read.
    #[error(transparent)]
    Memory(#[from] AllocError),
    /// The system does not start the threads.
    #[error("could not start the threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Memory that is read in pieces to measure the *current* bandwidth, between the steps of a measurement that is compared with
/// it, since the bandwidth left by other tenants changes from second to second.
pub struct Stream {
    isa: Isa,
    buffer: Buffer,
    /// The stretch to continue from.
    at: usize,
}

impl Stream {
    /// `bytes` of memory, written once by the threads of `pool`; with [`LARGE_BYTES`] it is like a large model's weights.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(isa: Isa, pool: &Pool, bytes: usize) -> Result<Stream, AllocError> {
        let mut buffer = Buffer::zeroed(bytes.next_multiple_of(STRETCH))?;
        let (stretches, memory) = (buffer.len() / STRETCH, SharedPtr::new(buffer.bytes_mut()));
        pool.for_each(stretches, &|i| {
            // SAFETY: within the buffer, and only one thread uses each stretch.
            unsafe { std::slice::from_raw_parts_mut(memory.at(i * STRETCH), STRETCH).fill(1) };
        });
        Ok(Stream { isa, buffer, at: 0 })
    }

    /// Reads the next `bytes` (whole MiB, wrapping at the end) with all threads of `pool`; returns bytes per second.
    pub fn read(&mut self, pool: &Pool, bytes: usize) -> f64 {
        let (stretches, all) = (bytes.div_ceil(STRETCH), self.buffer.len() / STRETCH);
        let begun = Instant::now();
        // Long ranges, since single stretches are read more slowly than consecutive ones.
        pool.split(stretches, 8, &|range| {
            for i in range {
                let at = (self.at + i) % all * STRETCH;
                black_box(self.isa.run(Read(&self.buffer.bytes()[at..][..STRETCH])));
            }
        });
        self.at = (self.at + stretches) % all;
        (stretches * STRETCH) as f64 / begun.elapsed().as_secs_f64()
    }
}

/// The subject of one pass.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Read,
    ReadLarge,
    Int8,
    Bf16,
    F32,
}

/// One pass: its subject, the number of chains, and whether all threads take part.
struct Pass {
    what: What,
    chains: usize,
    all: bool,
}

/// Passes per figure; those of arithmetic try each number of chains in turn. They are many and short, so that on a busy
/// machine at least one is undisturbed.
const PASSES: usize = 8 * CHAINS.len();

fn passes(isa: Isa, large: bool) -> Vec<Pass> {
    let mut passes = Vec::new();
    for what in [What::Read, What::ReadLarge, What::Int8, What::Bf16, What::F32] {
        if (what == What::Bf16 && !isa.bf16_dot()) || (what == What::ReadLarge && !large) {
            continue;
        }
        for all in [false, true] {
            passes.extend((0..PASSES).map(|i| Pass { what, chains: CHAINS[i % CHAINS.len()], all }));
        }
    }
    passes
}

/// One parallel region for everything: each thread keeps the part of memory that it touched first, and threads that a pass
/// doesn't need sleep at the barrier.
fn measure_here(isa: Isa, threads: usize, each: Duration, large: bool) -> Result<Peaks, ProbeError> {
    let small = (READ_BYTES.max(8 * cpus::last_cache_bytes()) / threads).max(READ_BYTES_A_THREAD);
    let small = small.next_multiple_of(STRETCH);
    let part = if large { small.max((LARGE_BYTES / threads).next_multiple_of(STRETCH)) } else { small };
    let mut buffer = Buffer::zeroed(part * threads)?;
    let memory = SharedPtr::new(buffer.bytes_mut());
    let passes = passes(isa, large);
    let pass_time = each / PASSES as u32;
    let barrier = Barrier::new(threads);
    // Units per second of each pass, summed over the threads.
    let rates = Mutex::new(vec![0.0; passes.len()]);
    Pool::start_threads(threads)?.for_each(threads, &|i| {
        // SAFETY: thread `i` writes only its own part, before the barrier that precedes all reads.
        unsafe { std::slice::from_raw_parts_mut(memory.at(i * part), part).fill(1) };
        // A pass continues where the last one stopped, since each is shorter than a walk through the whole memory.
        let mut stretch = 0;
        for (n, pass) in passes.iter().enumerate() {
            barrier.wait();
            if !pass.all && i > 0 {
                continue;
            }
            let part = if pass.what == What::ReadLarge { part } else { small };
            let (start, len) = if pass.all { (i * part, part) } else { (0, threads * part) };
            // SAFETY: within the buffer, which is no longer written.
            let bytes = unsafe { std::slice::from_raw_parts(memory.at(start), len) };
            let rate = run_pass(isa, pass, bytes, &mut stretch, pass_time);
            rates.lock().unwrap_or_else(PoisonError::into_inner)[n] += rate;
        }
    });
    let rates = rates.into_inner().unwrap_or_else(PoisonError::into_inner);
    let best = |what: What, all: bool| {
        let these = passes.iter().zip(&rates).filter(|(p, _)| p.what == what && p.all == all);
        these.map(|(_, &rate)| rate).fold(0.0, f64::max)
    };
    let rate = |what| Rate { one_core: best(what, false), all_threads: best(what, true) };
    let bf16 = isa.bf16_dot().then(|| rate(What::Bf16));
    let read_large = large.then(|| rate(What::ReadLarge));
    Ok(Peaks {
        threads,
        instruction_set: isa.describe().to_owned(),
        read_bytes_per_s: rate(What::Read),
        read_large_bytes_per_s: read_large,
        int8_ops_per_s: rate(What::Int8),
        bf16_ops_per_s: bf16,
        f32_ops_per_s: rate(What::F32),
    })
}

/// Units per second of one thread; reading continues from stretch `from`.
fn run_pass(isa: Isa, pass: &Pass, bytes: &[u8], from: &mut usize, time: Duration) -> f64 {
    let ring = black_box(ring(pass.what));
    let stretches = bytes.len() / STRETCH;
    let (mut units, mut sum) = (0, 0.0);
    let start = Instant::now();
    loop {
        match pass.what {
            What::Read | What::ReadLarge => {
                sum += isa.run(Read(&bytes[*from % stretches * STRETCH..][..STRETCH]));
                *from += 1;
                units += STRETCH;
            }
            what => {
                sum += multiply_add(isa, what, pass.chains, ROUNDS, &ring);
                units += ROUNDS * pass.chains * what.operations();
            }
        }
        let elapsed = start.elapsed();
        if elapsed >= time {
            black_box(sum);
            return units as f64 / elapsed.as_secs_f64();
        }
    }
}

impl What {
    /// Operations per instruction: a multiply-add of two vectors counts as two per element.
    fn operations(self) -> usize {
        match self {
            What::Read | What::ReadLarge => 0,
            What::Int8 => 2 * VECTOR,
            What::Bf16 => 2 * VECTOR / 2,
            What::F32 => 2 * VECTOR / 4,
        }
    }
}

/// The operand that changes from round to round; if both were constant, the compiler would multiply only once. It has
/// vectors of ones with alternating sign, so that sums stay small.
fn ring(what: What) -> [u8; RING * VECTOR] {
    let mut ring = [0; RING * VECTOR];
    for (i, vector) in ring.chunks_exact_mut(VECTOR).enumerate() {
        let sign = if i % 2 == 0 { 1i8 } else { -1 };
        match what {
            What::Read | What::ReadLarge | What::Int8 => vector.fill(sign as u8),
            What::Bf16 => fill(vector, &bf16::from_f32(sign.into()).to_ne_bytes()),
            What::F32 => fill(vector, &f32::from(sign).to_ne_bytes()),
        }
    }
    ring
}

fn fill(vector: &mut [u8], element: &[u8]) {
    vector.chunks_exact_mut(element.len()).for_each(|e| e.copy_from_slice(element));
}

/// In each round, accumulator `c` of `chains` adds the products of the ring's next vector with one of elements `c + 1`.
/// Returns the sum of all accumulators' lanes.
fn multiply_add(isa: Isa, what: What, chains: usize, rounds: usize, ring: &[u8; RING * VECTOR]) -> f32 {
    match chains {
        4 => isa.run(MultiplyAdd::<4> { what, rounds, ring }),
        5 => isa.run(MultiplyAdd::<5> { what, rounds, ring }),
        8 => isa.run(MultiplyAdd::<8> { what, rounds, ring }),
        _ => isa.run(MultiplyAdd::<12> { what, rounds, ring }),
    }
}

struct MultiplyAdd<'a, const N: usize> {
    what: What,
    rounds: usize,
    ring: &'a [u8; RING * VECTOR],
}

impl<const N: usize> Op for MultiplyAdd<'_, N> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (mut floats, mut ints) = ([s.splat(0.0); N], [s.isplat(0); N]);
        match self.what {
            What::Int8 => {
                let mut own = [s.isplat(0); N];
                for c in 0..N {
                    own[c] = s.isplat((c as i32 + 1) * 0x0101_0101);
                }
                for round in 0..self.rounds {
                    // SAFETY: one of the ring's vectors.
                    let changing = unsafe { s.load_bytes(self.ring.as_ptr().add(round % RING * VECTOR)) };
                    for c in 0..N {
                        ints[c] = s.dot7(ints[c], own[c], changing);
                    }
                }
            }
            What::Bf16 => {
                let mut own = [s.isplat(0); N];
                for c in 0..N {
                    own[c] = s.isplat(i32::from(bf16::from_f32(c as f32 + 1.0).to_bits()) * 0x0001_0001);
                }
                for round in 0..self.rounds {
                    // SAFETY: one of the ring's vectors.
                    let changing = unsafe { s.load_bytes(self.ring.as_ptr().add(round % RING * VECTOR)) };
                    for c in 0..N {
                        floats[c] = s.dot_bf16(floats[c], own[c], changing);
                    }
                }
            }
            What::Read | What::ReadLarge | What::F32 => {
                let mut own = [s.splat(0.0); N];
                for c in 0..N {
                    own[c] = s.splat(c as f32 + 1.0);
                }
                for round in 0..self.rounds {
                    // SAFETY: one of the ring's vectors.
                    let changing = unsafe { s.load(self.ring.as_ptr().add(round % RING * VECTOR).cast()) };
                    for c in 0..N {
                        floats[c] = s.fma(own[c], changing, floats[c]);
                    }
                }
            }
        }
        let mut sum = 0.0;
        for c in 0..N {
            sum += s.sum(s.add(floats[c], s.to_f(ints[c])));
        }
        sum
    }
}

/// Reads whole vectors and adds them up, so that the compiler can't skip any.
struct Read<'a>(&'a [u8]);

impl Op for Read<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        const AT_ONCE: usize = 8;
        let mut sums = [s.splat(0.0); AT_ONCE];
        for vectors in self.0.chunks_exact(AT_ONCE * VECTOR) {
            for i in 0..AT_ONCE {
                // SAFETY: the chunk has `AT_ONCE` vectors.
                sums[i] = s.add(sums[i], unsafe { s.load(vectors.as_ptr().add(i * VECTOR).cast()) });
            }
        }
        let mut sum = 0.0;
        for i in 0..AT_ONCE {
            sum += s.sum(sums[i]);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loops' sums match the formula, so no work was skipped or hoisted out of the loop.
    #[test]
    fn every_multiply_add_is_done() {
        for isa in Isa::all() {
            for what in [What::Int8, What::Bf16, What::F32] {
                for chains in CHAINS {
                    for rounds in [0usize, 1, 2, 63, 127] {
                        // Pairs of rounds cancel out; the rest is lanes × products per lane × (1 + 2 + … + chains).
                        let products = what.operations() / 2;
                        let expected = (rounds % 2) * products * chains * (chains + 1) / 2;
                        let found = multiply_add(isa, what, chains, rounds, &ring(what));
                        assert_eq!(found, expected as f32, "{isa:?}, {chains} chains, {rounds} rounds");
                    }
                }
            }
            let mut bytes = vec![0; 2048];
            fill(&mut bytes, &3f32.to_ne_bytes());
            assert_eq!(isa.run(Read(&bytes)), 3.0 * 512.0);
        }
    }

    #[test]
    fn a_stream_wraps_around() {
        let pool = Pool::new(2);
        let mut stream = Stream::new(Isa::best(), &pool, 3 << 20).unwrap();
        assert!(stream.buffer.bytes().iter().all(|&b| b == 1));
        for at in [2, 1, 0] {
            let rate = stream.read(&pool, (2 << 20) - 1);
            assert!(rate.is_normal() && rate > 0.0);
            assert_eq!(stream.at, at);
        }
    }

    #[test]
    fn every_figure_is_measured() {
        for (isa, threads) in [(Isa::best(), 2), (Isa::named("scalar").unwrap(), 1)] {
            let peaks = measure(isa, threads, Duration::from_millis(6), false).unwrap();
            assert_eq!((peaks.read_large_bytes_per_s, &peaks.instruction_set[..]), (None, isa.describe()));
            assert_eq!((peaks.threads, peaks.bf16_ops_per_s.is_some()), (threads, isa.bf16_dot()));
            let always = [peaks.read_bytes_per_s, peaks.int8_ops_per_s, peaks.f32_ops_per_s];
            for rate in always.into_iter().chain(peaks.bf16_ops_per_s) {
                assert!([rate.one_core, rate.all_threads].iter().all(|r| r.is_normal() && *r > 0.0));
            }
        }
    }
}
