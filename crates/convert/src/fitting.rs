//! [`Fitting`]: quantises tensors as a stream and measures the quantisation error.

use crate::error::ConvertError;
use crate::output::{Planned, Sink};
use crate::rows::{RawRow, RowSource, Source, stream_measured};
use zonda_engine::load::TensorRole;
use zonda_engine::quant::Importance;
use zonda_kernels::DType;

/// How to quantise.
#[derive(Debug, Default)]
pub struct QuantizeOptions<'a> {
    /// Allows quantised inputs. Tensors that already have their new type are copied.
    pub requantize: bool,
    /// The importance of columns, and the name of the calibration text.
    pub importance: Option<(&'a Importance, String)>,
    /// Threads; `None`: one per CPU.
    pub threads: Option<usize>,
}

/// The result for one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Its name in the file.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Its type in the input; `None` if it is not one of our types.
    pub from: Option<DType>,
    /// Its type in the file.
    pub to: DType,
    /// The type in the mix, if another type was used because its rows are not whole blocks of that type.
    pub wanted: Option<DType>,
    /// Its bytes in the file.
    pub bytes: u64,
    /// RMS of the errors relative to the RMS of the values.
    pub error: f64,
    /// The same, weighted by the columns' importance, if known.
    pub weighted_error: Option<f64>,
}

impl Fitted {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }

    /// Bits per value.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.values() as f64
    }
}

/// The options of a quantisation and the results so far.
pub(crate) struct Fitting<'a> {
    pub options: &'a QuantizeOptions<'a>,
    pub fitted: &'a mut Vec<Fitted>,
}

impl Fitting<'_> {
    /// Streams a tensor, which consists of the tensors of `roles` in order, and records the result.
    #[allow(clippy::too_many_arguments)] // one call; a struct would only rename them
    pub(crate) fn stream(
        &mut self,
        tensor: &Planned,
        roles: &[TensorRole],
        raw: Option<Vec<(DType, RawRow<'_>)>>,
        (wanted, dtype): (DType, DType),
        rows: RowSource<'_>,
        place: &(dyn Fn(usize) -> (usize, usize) + Sync),
        sink: &mut Sink<'_>,
    ) -> Result<(), ConvertError> {
        let importance = self.options.importance.as_ref();
        let importance: Option<Vec<_>> =
            importance.map(|(known, _)| roles.iter().map(|&r| known.of(r)).collect());
        let importance =
            importance.filter(|_| dtype.is_quantized()).unwrap_or_else(|| vec![None; roles.len()]);
        let same = raw.as_ref().is_some_and(|parts| parts.iter().all(|(stored, _)| *stored == dtype));
        let copy = |row: usize, out: &mut Vec<u8>| {
            let (part, row) = place(row);
            if let Some(parts) = &raw {
                parts[part].1(row, out);
            }
        };
        let source = Source {
            rows,
            raw: if same { Some(&copy) } else { None },
            importance: &|row| importance[place(row).0].as_deref(),
        };
        let squares = stream_measured(tensor, dtype, &source, self.options.threads, sink)?;
        if !squares.value.is_finite() || !squares.error.is_finite() {
            let overflow = squares.value.is_finite();
            return Err(ConvertError::NotFinite { tensor: tensor.name.clone(), dtype, overflow });
        }
        let relative = |error: f64, value: f64| if value > 0.0 { (error / value).sqrt() } else { 0.0 };
        let weighed = importance.iter().any(Option::is_some);
        self.fitted.push(Fitted {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            from: raw.and_then(|parts| parts.first().map(|(stored, _)| *stored)),
            to: dtype,
            wanted: (wanted != dtype).then_some(wanted),
            bytes: tensor.bytes()?,
            error: relative(squares.error, squares.value),
            weighted_error: weighed.then(|| relative(squares.weighted_error, squares.weighted_value)),
        });
        Ok(())
    }
}
