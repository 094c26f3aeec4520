//! Values as people read them, the same on pages, in plots and in tables of a terminal.

use chrono::{DateTime, Utc};
use qslm_common::cost::Cost;
use qslm_common::front_document::{FrontRow, TaskRow};
use qslm_common::quality::Quality;

/// A share in percent: `88.96 %`.
pub fn percent(value: f64) -> String {
    format!("{} %", hundredths(value))
}

/// A share in hundredths, of which a table's heading says that it is in percent: `88.96`.
pub fn hundredths(value: f64) -> String {
    format!("{:.2}", without_minus_zero(value * 100.0))
}

/// A change in hundredths with its sign: `+2.72`. What rounds to nothing is `+0.00`: half a hundredth below is no gain.
pub fn signed(value: f64) -> String {
    format!("{:+.2}", without_minus_zero(value * 100.0))
}

/// The number as it is; 0 for one that two decimals would write as `-0.00`.
fn without_minus_zero(value: f64) -> f64 {
    if value.abs() < 0.005 { 0.0 } else { value }
}

/// Whole number with a comma between thousands: `563,200`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (first, rest) = digits.split_at(first);
    let thousands = rest.as_bytes().chunks(3).map(|three| String::from_utf8_lossy(three).into_owned());
    let parts: Vec<String> =
        std::iter::once(first.to_owned()).filter(|first| !first.is_empty()).chain(thousands).collect();
    parts.join(",")
}

/// Tokens that go through the network per second: `17,800 tokens/s`.
pub fn speed(tokens_per_second: f64) -> String {
    format!("{} tokens/s", rate(tokens_per_second))
}

/// The same where a heading names the unit: `17,800`.
pub fn rate(per_second: f64) -> String {
    grouped(per_second.round() as u64)
}

/// Number of bytes: `563,200 B`.
pub fn bytes(number: u64) -> String {
    format!("{} B", grouped(number))
}

/// SI prefixes with the powers of ten that they stand for, the largest first.
const PREFIXES: [(&str, f64); 9] = [
    ("T", 1e12),
    ("G", 1e9),
    ("M", 1e6),
    ("k", 1e3),
    ("", 1.0),
    ("m", 1e-3),
    ("u", 1e-6),
    ("n", 1e-9),
    ("p", 1e-12),
];

/// Value in a unit with four significant digits and an SI prefix: `84.12 uJ`, `1.234 ms`; without a unit a number of
/// the same size, whole ones as they are.
pub fn with_unit(value: f64, unit: &str) -> String {
    let size = value.abs();
    if size == 0.0 || !value.is_finite() {
        return format!("{value} {unit}").trim_end().to_owned();
    }
    let (prefix, scale) = PREFIXES
        .into_iter()
        .find(|(_, scale)| size >= *scale * 0.99995)
        .unwrap_or(PREFIXES[PREFIXES.len() - 1]);
    let scaled = value / scale;
    let digits = if scaled.abs() >= 1000.0 {
        0
    } else {
        3 - (scaled.abs() * 1.00005).log10().floor().max(0.0) as usize
    };
    format!("{scaled:.digits$} {prefix}{unit}").trim_end().to_owned()
}

/// Value of a cost in its unit, for people: `563,200 B`, `84.12 uJ/token`, `0.3125 mm2`.
pub fn cost(cost: Cost, value: f64) -> String {
    match cost.unit() {
        "bytes" => bytes(value.round() as u64),
        // A thousandth of a square millimetre is no millisquare.
        unit if unit.starts_with("mm2") => format!("{value:.4} {unit}"),
        "bytes per token" => with_unit(value, "B per token"),
        "per token" => format!("{} per token", with_unit(value, "")),
        unit => with_unit(value, unit),
    }
}

/// Perplexity or accuracy, whichever was measured.
pub fn quality(row: &FrontRow) -> String {
    row.quality_value().map_or(String::new(), |value| row.quality().label(value))
}

/// Quality of a row on a further task.
pub fn task_quality(task: &TaskRow) -> String {
    task.quality_value().map_or(String::new(), |value| task.quality().label(value))
}

/// Loss of a quality: `+2.72 %` of perplexity; accuracy is lost or gained in points: `1.50 points lost`.
pub fn lost(quality: Quality, loss: f64) -> String {
    match quality {
        Quality::Perplexity => format!("{} %", signed(loss)),
        Quality::Accuracy if loss <= -0.000_05 => format!("{:.2} points gained", -loss * 100.0),
        Quality::Accuracy => format!("{} points lost", hundredths(loss)),
    }
}

/// Loss of a quality where a heading says that it is one: `+2.72 %`, `+1.50 pt` for points of accuracy.
pub fn lost_briefly(quality: Quality, loss: f64) -> String {
    let unit = if quality == Quality::Accuracy { "pt" } else { "%" };
    format!("{} {unit}", signed(loss))
}

/// Bound on the loss of a quality: `+3.00 %`, `1.00 points`.
pub fn lost_at_most(quality: Quality, loss: f64) -> String {
    match quality {
        Quality::Perplexity => lost(quality, loss),
        Quality::Accuracy => format!("{:.2} points", loss * 100.0),
    }
}

/// Heading of a column of losses, in hundredths: `loss %`, `points lost`.
pub fn lost_heading(quality: Quality) -> &'static str {
    match quality {
        Quality::Perplexity => "loss %",
        Quality::Accuracy => "points lost",
    }
}

/// Loss of quality of a row; nothing where it is not known. See [`lost`].
pub fn loss(row: &FrontRow) -> String {
    row.quality_loss.map_or(String::new(), |loss| lost(row.quality(), loss))
}

/// 95 % interval of a loss in hundredths: `+2.31 to +3.14`; nothing where it is not known.
pub fn interval(interval: Option<(f64, f64)>) -> String {
    interval.map_or(String::new(), |(low, high)| format!("{} to {}", signed(low), signed(high)))
}

/// Loss with its interval, if that is known: `+2.72 % (+2.31 to +3.14)`.
pub fn loss_with_interval(quality: Quality, loss: f64, known: Option<(f64, f64)>) -> String {
    let sure = known.map_or(String::new(), |_| format!(" ({})", interval(known)));
    format!("{}{sure}", lost(quality, loss))
}

/// Clause about the interval of a loss, if that is known: `, 95 % interval +2.31 to +3.14`.
pub fn interval_clause(known: Option<(f64, f64)>) -> String {
    known.map_or(String::new(), |_| format!(", 95 % interval {}", interval(known)))
}

/// Costs of a candidate beside the float model, a line per cost: its name, the value for float, the value for
/// the candidate, the change.
pub fn costs(float: Option<&FrontRow>, candidate: &FrontRow) -> Vec<[String; 4]> {
    let line = |(name, value): (&Cost, &f64)| {
        let before = float.and_then(|float| float.costs.get(name)).copied();
        let change = before.filter(|before| *before > 0.0).map(|before| value / before - 1.0);
        [
            name.to_string(),
            before.map_or(String::new(), |before| cost(*name, before)),
            cost(*name, *value),
            change.map_or(String::new(), |change| format!("{} %", signed(change))),
        ]
    };
    candidate.costs.iter().map(line).collect()
}

/// A time in milliseconds since 1970 as `2026-11-22 22:40:44`, in UTC; nothing for one beyond the calendar.
pub fn date(unix_ms: u64) -> String {
    let date = i64::try_from(unix_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    date.map_or(String::new(), |date| date.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// Time of day alone: `22:40:44`.
pub fn time(unix_ms: u64) -> String {
    date(unix_ms).split(' ').next_back().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_said_where_it_is_known() {
        assert_eq!(interval(Some((-0.00123, 0.02))), "-0.12 to +2.00");
        assert_eq!(interval(None), "");
        let known = Some((0.01, 0.03));
        let of = |known| loss_with_interval(Quality::Perplexity, 0.02, known);
        assert_eq!((of(known), of(None)), ("+2.00 % (+1.00 to +3.00)".to_owned(), "+2.00 %".to_owned()));
        assert_eq!(interval_clause(known), ", 95 % interval +1.00 to +3.00");
        assert_eq!(interval_clause(None), "");
    }

    #[test]
    fn times_are_read_in_utc_and_absurd_ones_not_at_all() {
        assert_eq!(date(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(time(1_700_000_000_123), "22:13:20");
        assert_eq!((date(u64::MAX), time(u64::MAX)), (String::new(), String::new()));
    }

    #[test]
    fn what_rounds_to_nothing_has_no_minus() {
        for nothing in [0.0, -0.0, -0.000_04, 0.000_04] {
            assert_eq!((percent(nothing), signed(nothing)), ("0.00 %".to_owned(), "+0.00".to_owned()));
            assert_eq!(lost(Quality::Accuracy, nothing), "0.00 points lost");
            assert_eq!(lost_briefly(Quality::Perplexity, nothing), "+0.00 %");
        }
        assert_eq!((percent(-0.000_06), signed(-0.000_06)), ("-0.01 %".to_owned(), "-0.01".to_owned()));
        assert_eq!(lost(Quality::Accuracy, -0.000_06), "0.01 points gained");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(percent(0.88964), "88.96 %");
        for (number, words) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (563_200, "563,200"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), words);
        }
    }

    #[test]
    fn values_have_prefixes_and_four_digits() {
        for (value, words) in [
            (84.123e-6, "84.12 uJ"),
            (0.001_234_56, "1.235 mJ"),
            (0.999_99, "1.000 J"),
            (12.0, "12.00 J"),
            (999.96e-6, "1.000 mJ"),
            (3e-14, "0.030 pJ"),
            (5e15, "5000 TJ"),
            (0.0, "0 J"),
        ] {
            assert_eq!(with_unit(value, "J"), words);
        }
        assert_eq!(cost(Cost::Footprint, 563_200.0), "563,200 B");
        assert_eq!(cost(Cost::Energy, 84.123e-6), format!("84.12 u{}", Cost::Energy.unit()));
    }

    #[test]
    fn accuracy_is_lost_and_gained_in_points() {
        assert_eq!(lost(Quality::Accuracy, 0.015), "1.50 points lost");
        assert_eq!(lost(Quality::Accuracy, -0.015), "1.50 points gained");
        assert_eq!(lost(Quality::Perplexity, -0.015), "-1.50 %");
        assert_eq!(lost_briefly(Quality::Accuracy, -0.015), "-1.50 pt");
        assert_eq!(lost_at_most(Quality::Accuracy, 0.01), "1.00 points");
    }
}
