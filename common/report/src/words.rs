//! Values as people read them, the same on pages, in plots and in tables of a terminal.

use chrono::{DateTime, Utc};
use qslm_common::cost::Cost;
use qslm_common::front_document::FrontRow;

/// A share in percent: `88.96 %`.
pub fn percent(value: f64) -> String {
    format!("{:.2} %", value * 100.0)
}

/// Number: whole ones as they are, others with four significant digits.
pub fn significant(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.3e}") }
}

/// Perplexity or accuracy, whichever was measured.
pub fn quality(row: &FrontRow) -> String {
    row.quality_value().map_or(String::new(), |value| row.quality().label(value))
}

/// Loss of quality in percent: `+2.72 %`; nothing where it is not known.
pub fn loss(row: &FrontRow) -> String {
    row.quality_loss.map_or(String::new(), |loss| format!("{:+.2} %", loss * 100.0))
}

/// 95 % interval of a loss in percent: `+2.31 to +3.14`; nothing where it is not known.
pub fn interval(interval: Option<(f64, f64)>) -> String {
    interval.map_or(String::new(), |(low, high)| format!("{:+.2} to {:+.2}", low * 100.0, high * 100.0))
}

/// Loss with its interval, if that is known: `+2.72 % (+2.31 to +3.14)`.
pub fn loss_with_interval(loss: f64, known: Option<(f64, f64)>) -> String {
    let sure = known.map_or(String::new(), |_| format!(" ({})", interval(known)));
    format!("{:+.2} %{sure}", loss * 100.0)
}

/// Clause about the interval of a loss, if that is known: `, 95 % interval +2.31 to +3.14`.
pub fn interval_clause(known: Option<(f64, f64)>) -> String {
    known.map_or(String::new(), |_| format!(", 95 % interval {}", interval(known)))
}

/// Costs of a candidate beside the float model, a line per cost: its name, the value for float, the value for
/// the candidate, the change, the unit.
pub fn costs(float: Option<&FrontRow>, candidate: &FrontRow) -> Vec<[String; 5]> {
    let line = |(cost, value): (&Cost, &f64)| {
        let before = float.and_then(|float| float.costs.get(cost)).copied();
        let change = before.filter(|before| *before > 0.0).map(|before| (value / before - 1.0) * 100.0);
        [
            cost.to_string(),
            before.map_or(String::new(), significant),
            significant(*value),
            change.map_or(String::new(), |change| format!("{change:+.2} %")),
            cost.unit().to_owned(),
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
        assert_eq!(loss_with_interval(0.02, known), "+2.00 % (+1.00 to +3.00)");
        assert_eq!(loss_with_interval(0.02, None), "+2.00 %");
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
    fn numbers_are_short() {
        assert_eq!(percent(0.88964), "88.96 %");
        assert_eq!((significant(12.0).as_str(), significant(0.001_234_56).as_str()), ("12", "1.235e-3"));
    }
}
