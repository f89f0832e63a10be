//! Numbers with units, printed as pprof prints them.

use std::borrow::Cow;

struct Unit {
    name: &'static str,
    aliases: &'static [&'static str],
    factor: f64,
}

/// Units that convert into each other.
struct Family {
    units: &'static [Unit],
    /// Where no unit fits, that is below 1 of the smallest.
    default: (&'static str, f64),
}

const fn unit(name: &'static str, aliases: &'static [&'static str], factor: f64) -> Unit {
    Unit { name, aliases, factor }
}

const KI: f64 = 1024.0;

static FAMILIES: [Family; 3] = [
    Family {
        units: &[
            unit("B", &["b", "byte"], 1.0),
            unit("kB", &["kb", "kbyte", "kilobyte"], KI),
            unit("MB", &["mb", "mbyte", "megabyte"], KI * KI),
            unit("GB", &["gb", "gbyte", "gigabyte"], KI * KI * KI),
            unit("TB", &["tb", "tbyte", "terabyte"], KI * KI * KI * KI),
            unit("PB", &["pb", "pbyte", "petabyte"], KI * KI * KI * KI * KI),
        ],
        default: ("B", 1.0),
    },
    Family {
        units: &[
            unit("ns", &["ns", "nanosecond"], 1.0),
            unit("us", &["μs", "us", "microsecond"], 1e3),
            unit("ms", &["ms", "millisecond"], 1e6),
            unit("s", &["s", "sec", "second"], 1e9),
            unit("hrs", &["hour", "hr"], 3600e9),
        ],
        default: ("s", 1e9),
    },
    Family {
        units: &[
            unit("n*GCU", &["nanogcu"], 1e-9),
            unit("u*GCU", &["microgcu"], 1e-6),
            unit("m*GCU", &["milligcu"], 1e-3),
            unit("GCU", &["gcu"], 1.0),
            unit("k*GCU", &["kilogcu"], 1e3),
            unit("M*GCU", &["megagcu"], 1e6),
            unit("G*GCU", &["gigagcu"], 1e9),
            unit("T*GCU", &["teragcu"], 1e12),
            unit("P*GCU", &["petagcu"], 1e15),
        ],
        default: ("GCU", 1.0),
    },
];

impl Family {
    fn find(&self, name: &str) -> Option<&'static Unit> {
        let lower = name.to_lowercase();
        let singular = if lower.len() > 2 { lower.strip_suffix('s').unwrap_or(&lower) } else { &lower };
        self.units.iter().find(|unit| unit.aliases.contains(&singular))
    }

    /// The largest unit of which there is at least one.
    fn fitting(&self, value: f64) -> (&'static str, f64) {
        let fits = self.units.iter().filter(|unit| value / unit.factor >= 1.0).max_by(|a, b| a.factor.total_cmp(&b.factor));
        fits.map(|unit| (unit.name, unit.factor)).unwrap_or(self.default)
    }
}

/// Asks [`scale`] to choose the unit.
pub(super) const AUTO: &str = "auto";

/// Converts; the unit that comes back is empty where it says nothing, as with counts.
pub(super) fn scale<'a>(value: i64, from: &str, to: &'a str) -> (f64, Cow<'a, str>) {
    if value < 0 && value != i64::MIN {
        let (scaled, unit) = scale(-value, from, to);
        return (-scaled, unit);
    }
    for family in &FAMILIES {
        let Some(unit) = family.find(from) else { continue };
        let value = value as f64 * unit.factor;
        let (name, factor) = match to {
            AUTO => family.fitting(value),
            to => family.find(to).map(|unit| (unit.name, unit.factor)).unwrap_or(family.default),
        };
        return (value / factor, Cow::Borrowed(name));
    }
    match to {
        "count" | "sample" | "unit" | "minimum" | AUTO => (value as f64, Cow::Borrowed("")),
        to => (value as f64, Cow::Borrowed(to)),
    }
}

/// `12.34MB`; two decimals, none where both are zero.
pub(super) fn label(value: i64, from: &str, to: &str) -> String {
    let (scaled, unit) = scale(value, from, to);
    let number = format!("{scaled:.2}");
    match number.strip_suffix(".00").unwrap_or(&number) {
        "0" | "-0" => "0".to_owned(),
        number => format!("{number}{unit}"),
    }
}

/// Whether two units measure the same thing.
pub(super) fn convertible(a: &str, b: &str) -> bool {
    a == b || FAMILIES.iter().any(|family| family.find(a).is_some() && family.find(b).is_some())
}

/// A share of `total` in six columns; a sign is not shown.
pub(super) fn percentage(value: i64, total: i64) -> String {
    let ratio = if total == 0 { 0.0 } else { (value as f64 / total as f64).abs() * 100.0 };
    if (99.95..=100.05).contains(&ratio) {
        "  100%".to_owned()
    } else if ratio >= 1.0 {
        format!("{ratio:5.2}%")
    } else {
        format!("{:>5}%", two_digits(ratio))
    }
}

/// C's `%.2g` for 0 <= ratio < 1.
fn two_digits(ratio: f64) -> String {
    let scientific = format!("{ratio:.1e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |number: &str| match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => number.to_owned(),
    };
    match exponent {
        ..-4 => format!("{}e-{:02}", trim(mantissa), -exponent),
        _ => trim(&format!("{ratio:.*}", (1 - exponent).max(0) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_choose_their_unit() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1B"),
            (1023, "1023B"),
            (1536, "1.50kB"),
            (1 << 20, "1MB"),
            (1_179_648, "1.12MB"),
            (-3 << 30, "-3GB"),
            (5 << 50, "5PB"),
        ] {
            assert_eq!(label(bytes, "bytes", AUTO), text);
        }
        assert_eq!(label(512, "bytes", "MB"), "0");
        assert_eq!(label(-512, "bytes", "MB"), "0");
        assert_eq!(label(8192, "KBytes", "MB"), "8MB");
    }

    #[test]
    fn times_and_counts_do_too() {
        assert_eq!(label(1_500_000, "nanoseconds", AUTO), "1.50ms");
        assert_eq!(label(7_200_000_000_000, "nanoseconds", AUTO), "2hrs");
        assert_eq!(label(12, "count", AUTO), "12");
        assert_eq!(label(12, "count", "count"), "12");
        assert_eq!(label(12, "widgets", "widgets"), "12widgets");
        assert_eq!(label(i64::MIN, "bytes", "B"), "-9223372036854775808B");
    }

    #[test]
    fn percentages_take_six_columns() {
        for (value, total, text) in [
            (0, 0, "    0%"),
            (0, 7, "    0%"),
            (1, 3, "33.33%"),
            (-1, 3, "33.33%"),
            (9_996, 10_000, "  100%"),
            (1, 100, " 1.00%"),
            (996, 100_000, "    1%"),
            (5, 1_000, "  0.5%"),
            (46, 10_000, " 0.46%"),
            (996, 1_000_000, "  0.1%"),
            (1234, 10_000_000_000, "1.2e-05%"),
            (3, 2, "150.00%"),
        ] {
            assert_eq!(percentage(value, total), text, "{value}/{total}");
        }
    }
}
