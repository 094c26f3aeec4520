//! Places at which a program can be told to die, so that tests see what it leaves behind.

use std::str::FromStr;

/// The places in the life of a program.
pub trait CrashPoints: Copy + PartialEq + 'static {
    /// Every place, by the name that a plan gives it.
    const ALL: &'static [(&'static str, Self)];
}

/// Crash plan: dies at the n-th pass of a point, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPlan<P> {
    at: Option<(P, u32)>,
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: expected one of {points}, with N of at least 1, or nothing")]
pub struct InvalidPlan {
    text: String,
    points: String,
}

impl<P> Default for CrashPlan<P> {
    fn default() -> Self {
        Self { at: None }
    }
}

impl<P: CrashPoints> CrashPlan<P> {
    /// Passes a point. Ends the process without any goodbye if this is where the plan says so.
    pub fn pass(&mut self, point: P) {
        if let Some((at, left)) = &mut self.at
            && *at == point
        {
            *left -= 1;
            if *left == 0 {
                std::process::abort();
            }
        }
    }
}

impl<P: CrashPoints> FromStr for CrashPlan<P> {
    type Err = InvalidPlan;

    fn from_str(text: &str) -> Result<Self, InvalidPlan> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let plan = || {
            let (name, pass) = text.split_once(':')?;
            let (_, point) = P::ALL.iter().find(|(known, _)| *known == name)?;
            Some((*point, pass.parse().ok().filter(|pass| *pass > 0)?))
        };
        let at = plan().ok_or_else(|| {
            let points: Vec<String> = P::ALL.iter().map(|(name, _)| format!("{name}:N")).collect();
            InvalidPlan { text: text.to_owned(), points: points.join(", ") }
        })?;
        Ok(Self { at: Some(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Point {
        Early,
        Late,
    }

    impl CrashPoints for Point {
        const ALL: &'static [(&'static str, Self)] = &[("early", Self::Early), ("late", Self::Late)];
    }

    #[test]
    fn a_plan_names_a_point_and_a_pass() {
        let plan: CrashPlan<Point> = "late:3".parse().unwrap();
        assert_eq!(plan.at, Some((Point::Late, 3)));
        assert_eq!("".parse(), Ok(CrashPlan::<Point>::default()));
        for wrong in ["late", "late:0", "later:1", "early:x"] {
            let error = wrong.parse::<CrashPlan<Point>>().unwrap_err().to_string();
            let expected = "expected one of early:N, late:N, with N of at least 1, or nothing";
            assert_eq!(error, format!("{wrong:?}: {expected}"));
        }
    }

    #[test]
    fn other_points_and_earlier_passes_are_survived() {
        let mut plan: CrashPlan<Point> = "early:3".parse().unwrap();
        plan.pass(Point::Late);
        plan.pass(Point::Early);
        plan.pass(Point::Early);
        assert_eq!(plan.at, Some((Point::Early, 1)));
    }
}
