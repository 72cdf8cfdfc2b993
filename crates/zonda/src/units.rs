//! Formats numbers for people.

/// `1536` → `1.50 KiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.2} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn binary_units() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_bytes(98_362_432), "93.81 MiB");
        assert_eq!(human_bytes(u64::MAX), "16.00 EiB");
    }
}
