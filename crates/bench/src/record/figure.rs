//! The format of figures in text.

/// A figure with three significant digits, never in exponents: `0.0123`, `5.61`, `17.9`, `179`, `2461`.
pub fn figure(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6);
    format!("{value:.*}", digits as usize)
}
