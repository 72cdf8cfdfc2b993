//! From rows of `f32` to a tensor's stored bytes, on all cores.

use super::MakeError;
use super::output::{Planned, Sink};
use std::ops::Range;
use std::thread;
use zonda_kernels::DType;
use zonda_kernels::quantize::quantize;

/// Values that one thread makes at a time: large enough to outweigh the start of a thread, small enough for memory.
const CHUNK: usize = 1 << 20;

/// Gives row `r` of a matrix as `f32`.
pub(super) type RowSource<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Streams a tensor of the type `dtype` whose rows `source` gives, in order.
pub(super) fn stream(
    tensor: &Planned,
    dtype: DType,
    source: RowSource<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), MakeError> {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let rows: usize = tensor.shape.iter().rev().skip(1).product();
    let make = |range: Range<usize>| {
        let mut values = vec![0.0; cols];
        let mut bytes = Vec::new();
        for row in range {
            source(row, &mut values);
            quantize(dtype, &values, &mut bytes);
        }
        bytes
    };
    in_chunks(rows, cols, make, |bytes| sink.write(&bytes))
}

/// Makes a matrix in chunks of rows, each given to `take` in order.
///
/// Several chunks are made at once, each by a thread of its own, while the ones before are taken. What is made does not
/// depend on the number of threads.
pub(super) fn in_chunks<T: Send>(
    rows: usize,
    cols: usize,
    make: impl Fn(Range<usize>) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), MakeError>,
) -> Result<(), MakeError> {
    let rows_per_chunk = CHUNK.div_ceil(cols.max(1));
    let mut chunks = (0..rows).step_by(rows_per_chunk).map(|r| r..(r + rows_per_chunk).min(rows));
    if rows <= rows_per_chunk {
        return chunks.try_for_each(|range| take(make(range)));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut finished: Vec<T> = Vec::new();
    let make = &make;
    loop {
        let batch: Vec<_> = chunks.by_ref().take(threads).collect();
        finished = thread::scope(|scope| {
            let workers: Vec<_> = batch.into_iter().map(|range| scope.spawn(move || make(range))).collect();
            finished.drain(..).try_for_each(&mut take)?;
            let join = |w: thread::ScopedJoinHandle<'_, _>| w.join().expect("row sources don't panic");
            Ok::<_, MakeError>(workers.into_iter().map(join).collect())
        })?;
        if finished.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn many_chunks_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        // Rows of 1024: five chunks and a bit.
        let rows = 5 * (CHUNK / 1024) + 3;
        let tensor = Planned { name: "t".to_owned(), holds: DType::F32.into(), shape: vec![rows, 1024] };
        let mut written = 0;
        let mut wrote = |bytes| written += bytes;
        let mut sink = Sink::create(&path, &mut wrote).unwrap();
        stream(&tensor, DType::F32, &|row, out| out.fill(row as f32), &mut sink).unwrap();
        sink.finish().unwrap();
        assert_eq!(written, tensor.bytes().unwrap());
        let bytes = fs::read(&path).unwrap();
        for (row, values) in bytes.chunks_exact(4096).enumerate() {
            assert!(values.chunks_exact(4).all(|v| v == (row as f32).to_le_bytes()), "row {row}");
        }
    }
}
