//! Places at which a coordinator can be told to die, so that tests see what it leaves behind.

use std::str::FromStr;

/// A place in the life of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A stored experiment was read, before the coordinator serves anyone.
    Starting,
    /// A batch is about to be committed.
    BeforeCommit,
    /// A batch is on disk and nobody was answered.
    AfterCommit,
    /// A measured trial is about to enter the front.
    UpdatingFront,
}

/// Crash plan: dies at the n-th pass of a point, or never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrashPlan {
    at: Option<(CrashPoint, u32)>,
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?}: expected starting:N, before-commit:N, after-commit:N or updating-front:N with N of at least 1, or nothing"
)]
pub struct InvalidPlan(String);

impl CrashPlan {
    /// Passes a point. Ends the process without any goodbye if this is where the plan says so.
    pub fn pass(&mut self, point: CrashPoint) {
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

impl FromStr for CrashPlan {
    type Err = InvalidPlan;

    fn from_str(text: &str) -> Result<Self, InvalidPlan> {
        let invalid = || InvalidPlan(text.to_owned());
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (point, pass) = text.split_once(':').ok_or_else(invalid)?;
        let point = match point {
            "starting" => CrashPoint::Starting,
            "before-commit" => CrashPoint::BeforeCommit,
            "after-commit" => CrashPoint::AfterCommit,
            "updating-front" => CrashPoint::UpdatingFront,
            _ => return Err(invalid()),
        };
        let pass = pass.parse().ok().filter(|pass| *pass > 0).ok_or_else(invalid)?;
        Ok(Self { at: Some((point, pass)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_a_point_and_a_pass() {
        let plan: CrashPlan = "after-commit:3".parse().unwrap();
        assert_eq!(plan.at, Some((CrashPoint::AfterCommit, 3)));
        assert_eq!("".parse(), Ok(CrashPlan::default()));
        for wrong in ["after-commit", "after-commit:0", "later:1", "starting:x"] {
            assert!(wrong.parse::<CrashPlan>().unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn other_points_and_earlier_passes_are_survived() {
        let mut plan: CrashPlan = "starting:3".parse().unwrap();
        plan.pass(CrashPoint::BeforeCommit);
        plan.pass(CrashPoint::Starting);
        plan.pass(CrashPoint::Starting);
        assert_eq!(plan.at, Some((CrashPoint::Starting, 1)));
    }
}
