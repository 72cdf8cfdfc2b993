//! [`Weights`], a source of rows of `f32`, and the way from rows to a tensor's stored bytes, on all cores.

use crate::error::ConvertError;
use crate::output::{Planned, Sink};
use std::ops::Range;
use std::thread;
use zonda_engine::load::TensorRole;
use zonda_kernels::DType;
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::quantize::{quantize, quantize_weighted};

/// Appends the stored bytes of row `r` of a matrix, in Hugging Face's order of rows.
pub(crate) type RawRow<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + Sync + 'a>;

/// Writes row `r` of a matrix as `f32`, in Hugging Face's order of rows.
pub(crate) type Rows<'a> = Box<dyn Fn(usize, &mut [f32]) + Sync + 'a>;

/// A source of weights: another file, or a random generator.
pub(crate) trait Weights {
    /// The rows of a role's tensor. A vector is a single row.
    fn rows(&self, role: TensorRole) -> Result<Rows<'_>, ConvertError>;

    /// A role's tensor as stored; `None` if its type is not one of ours.
    fn raw(&self, _role: TensorRole) -> Result<Option<(DType, RawRow<'_>)>, ConvertError> {
        Ok(None)
    }

    /// Rows of a role's tensor in the stored form of `dtype`, from a source that makes them in this form; `None`: they are made
    /// from [`Weights::rows`].
    fn stored(&self, _role: TensorRole, _dtype: DType) -> Option<RawRow<'_>> {
        None
    }

    /// Tells the source that a role's tensor has been read.
    fn release(&self, _role: TensorRole) {}
}

/// Values per thread and chunk: enough to outweigh starting the thread, few enough to limit memory.
const CHUNK: usize = 1 << 20;

/// Writes row `r` of a matrix as `f32`.
pub(crate) type RowSource<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Streams the rows of `source` in order as a tensor of type `dtype`.
pub(crate) fn stream(
    tensor: &Planned,
    dtype: DType,
    source: RowSource<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
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

/// Streams the stored rows of `source` in order as a tensor.
pub(crate) fn stream_stored(
    tensor: &Planned,
    source: RawSource<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let rows: usize = tensor.shape.iter().rev().skip(1).product();
    let make = |range: Range<usize>| {
        let mut bytes = Vec::new();
        range.for_each(|row| source(row, &mut bytes));
        bytes
    };
    in_chunks(rows, cols, make, |bytes| sink.write(&bytes))
}

/// Values per thread and chunk for quantisation, which takes far longer than starting the thread.
const QUANTIZED_CHUNK: usize = 1 << 17;

/// Appends the stored bytes of row `r` of a matrix.
pub(crate) type RawSource<'a> = &'a (dyn Fn(usize, &mut Vec<u8>) + Sync);

/// A matrix to be quantised.
pub(crate) struct Source<'a> {
    /// Its rows' values.
    pub rows: RowSource<'a>,
    /// Its stored rows, if they already have the new type.
    pub raw: Option<RawSource<'a>>,
    /// The importance of a row's columns, if known.
    pub importance: &'a (dyn Fn(usize) -> Option<&'a [f32]> + Sync),
}

/// Sums of squares over a tensor: of errors and of values, unweighted and weighted by importance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Squares {
    pub error: f64,
    pub value: f64,
    pub weighted_error: f64,
    pub weighted_value: f64,
}

impl Squares {
    fn add_row(&mut self, values: &[f32], back: &[f32], importance: Option<&[f32]>) {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let mut errors = (0.0, 0.0);
        for (i, (&value, &back)) in values.iter().zip(back).enumerate() {
            let (error, value) = (square(value - back), square(value));
            errors = (errors.0 + error, errors.1 + value);
            if let Some(importance) = importance {
                self.weighted_error += f64::from(importance[i]) * error;
                self.weighted_value += f64::from(importance[i]) * value;
            }
        }
        self.error += errors.0;
        self.value += errors.1;
    }

    fn add(&mut self, other: Squares) {
        self.error += other.error;
        self.value += other.value;
        self.weighted_error += other.weighted_error;
        self.weighted_value += other.weighted_value;
    }
}

/// As [`stream`], with weighted columns; returns the sums of squared errors.
pub(crate) fn stream_measured(
    tensor: &Planned,
    dtype: DType,
    source: &Source<'_>,
    threads: Option<usize>,
    sink: &mut Sink<'_>,
) -> Result<Squares, ConvertError> {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let rows: usize = tensor.shape.iter().rev().skip(1).product();
    let make = |range: Range<usize>| {
        let (mut values, mut back) = (vec![0.0; cols], vec![0.0; cols]);
        let mut squares = Squares::default();
        let mut bytes = Vec::new();
        for row in range {
            (source.rows)(row, &mut values);
            let importance = (source.importance)(row);
            let start = bytes.len();
            match source.raw {
                Some(raw) => raw(row, &mut bytes),
                None => quantize_weighted(dtype, &values, importance, &mut bytes),
            }
            dequantize(dtype, &bytes[start..], &mut back);
            squares.add_row(&values, &back, importance);
        }
        (bytes, squares)
    };
    let mut total = Squares::default();
    in_chunks_of(QUANTIZED_CHUNK, threads, rows, cols, make, |(bytes, squares)| {
        total.add(squares);
        sink.write(&bytes)
    })?;
    Ok(total)
}

/// Computes a matrix in chunks of rows, which are passed to `take` in order.
///
/// Several chunks are computed at once, each by its own thread, while earlier ones are written. The result does not depend on
/// the number of threads.
pub(crate) fn in_chunks<T: Send>(
    rows: usize,
    cols: usize,
    make: impl Fn(Range<usize>) -> T + Sync,
    take: impl FnMut(T) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    in_chunks_of(CHUNK, None, rows, cols, make, take)
}

/// As [`in_chunks`], with chunks of about this many values and this many threads (`None`: one per CPU).
fn in_chunks_of<T: Send>(
    chunk: usize,
    threads: Option<usize>,
    rows: usize,
    cols: usize,
    make: impl Fn(Range<usize>) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let rows_per_chunk = chunk.div_ceil(cols.max(1));
    let mut chunks = (0..rows).step_by(rows_per_chunk).map(|r| r..(r + rows_per_chunk).min(rows));
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    if rows <= rows_per_chunk || threads == 1 {
        return chunks.try_for_each(|range| take(make(range)));
    }
    let mut finished: Vec<T> = Vec::new();
    let make = &make;
    loop {
        let batch: Vec<_> = chunks.by_ref().take(threads).collect();
        finished = thread::scope(|scope| {
            let start = |range: Range<usize>| {
                let own = range.clone();
                thread::Builder::new().spawn_scoped(scope, move || make(own)).map_err(|_| range)
            };
            let workers: Vec<_> = batch.into_iter().map(start).collect();
            finished.drain(..).try_for_each(&mut take)?;
            // If the system can't start a thread, this thread does its work.
            let join = |worker: Result<thread::ScopedJoinHandle<'_, T>, Range<usize>>| match worker {
                Ok(worker) => worker.join().expect("row sources don't panic"),
                Err(range) => make(range),
            };
            Ok::<_, ConvertError>(workers.into_iter().map(join).collect())
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
        // Rows of 1024: between five and six chunks.
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
