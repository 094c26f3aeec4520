//! Unmet constraints in sentences: what is nearest to each bound, so that people know which one to loosen.

use qslm_common::unmet::{Bound, Unmet};

use crate::words::{bytes, cost, lost, lost_at_most, percent};

/// Sentences such as `Within 560,000 B the smallest loss is +11.90 % (ad8398355c1d). Within +3.00 % the smallest is
/// 600,064 B (2d2862ecabc5). Loosen one.`; empty where nothing is unmet.
pub fn sentences(unmet: &[Unmet]) -> String {
    let told = |(at, one): (usize, &Unmet)| {
        let others: Vec<String> = unmet
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, other)| within(other))
            .collect();
        let nearest = nearest(one)?;
        Some(match &others[..] {
            [] => format!("The {nearest}; the bound is {}.", limit(one)),
            others => format!("Within {} the {nearest}.", others.join(" and ")),
        })
    };
    let told: Vec<String> = unmet.iter().enumerate().filter_map(told).collect();
    match (unmet.len(), &told[..]) {
        (0, _) => String::new(),
        (_, []) => {
            "Nothing that was measured meets all of the bounds but one. Loosen more than one.".to_owned()
        }
        (1, told) => format!("{} Loosen it.", told.join(" ")),
        (_, told) => format!("{} Loosen one.", told.join(" ")),
    }
}

/// `smallest loss is +11.90 % (ad8398355c1d)`; `None` where nothing is near.
fn nearest(unmet: &Unmet) -> Option<String> {
    let (value, candidate) = unmet.nearest.zip(unmet.candidate)?;
    let words = match unmet.constraint {
        Bound::Loss(quality) => format!("smallest loss is {}", lost(quality, value)),
        Bound::Kl => format!("smallest divergence is {value:.4} nats"),
        Bound::Task(name) => format!("smallest loss on {name} is {}", percent(value)),
        Bound::Footprint => format!("smallest is {}", bytes(value.round() as u64)),
        Bound::Saving => format!("most that is saved is {}", percent(value)),
        Bound::Cost(of) => format!("least {of} is {}", cost(of, value)),
    };
    Some(format!("{words} ({})", candidate.short()))
}

fn limit(unmet: &Unmet) -> String {
    match unmet.constraint {
        Bound::Loss(quality) => lost_at_most(quality, unmet.limit),
        Bound::Kl => format!("{} nats", unmet.limit),
        Bound::Footprint => bytes(unmet.limit.round() as u64),
        Bound::Saving | Bound::Task(_) => percent(unmet.limit),
        Bound::Cost(of) => cost(of, unmet.limit),
    }
}

/// The limit where it stands without its name: `+3.00 %`, `a saving of 90.00 %`.
fn within(unmet: &Unmet) -> String {
    match unmet.constraint {
        Bound::Loss(_) | Bound::Footprint => limit(unmet),
        Bound::Kl => format!("a divergence of {}", limit(unmet)),
        Bound::Saving => format!("a saving of {}", limit(unmet)),
        Bound::Task(name) => format!("{} on {name}", limit(unmet)),
        Bound::Cost(of) => format!("{of} {}", limit(unmet)),
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::candidate::CandidateId;
    use qslm_common::cost::Cost;
    use qslm_common::quality::Quality;

    use super::*;

    fn unmet(constraint: Bound, limit: f64, nearest: Option<f64>) -> Unmet {
        Unmet { constraint, limit, nearest, candidate: nearest.map(|_| CandidateId::of(b"one")) }
    }

    #[test]
    fn every_bound_is_told_with_what_the_others_leave() {
        let id = CandidateId::of(b"one").short();
        let loss = unmet(Bound::Loss(Quality::Perplexity), 0.03, Some(0.119));
        let size = unmet(Bound::Footprint, 560_000.0, Some(600_064.0));
        let both = format!(
            "Within 560,000 B the smallest loss is +11.90 % ({id}). Within +3.00 % the smallest is 600,064 B ({id}). \
             Loosen one."
        );
        assert_eq!(sentences(&[loss.clone(), size.clone()]), both);
        let alone = format!("The smallest loss is +11.90 % ({id}); the bound is +3.00 %. Loosen it.");
        assert_eq!(sentences(std::slice::from_ref(&loss)), alone);
        let energy = unmet(Bound::Cost(Cost::Energy), 1e-6, None);
        let more = sentences(&[loss, size, energy]);
        assert!(
            more.starts_with("Within 560,000 B and energy 1.000 uJ per token the smallest loss"),
            "{more}"
        );
        assert_eq!(sentences(&[]), "");
    }

    #[test]
    fn points_of_accuracy_and_shares_are_called_so() {
        let accuracy = unmet(Bound::Loss(Quality::Accuracy), 0.01, Some(0.025));
        let saving = unmet(Bound::Saving, 0.9, Some(0.881));
        let told = sentences(&[accuracy, saving]);
        assert!(told.contains("Within a saving of 90.00 % the smallest loss is 2.50 points lost"), "{told}");
        assert!(told.contains("Within 1.00 points the most that is saved is 88.10 %"), "{told}");
        let books = unmet(Bound::Task("books".parse().unwrap()), 0.05, Some(0.08));
        let told = sentences(&[books, unmet(Bound::Footprint, 1000.0, Some(1200.0))]);
        assert!(told.contains("Within 1,000 B the smallest loss on books is 8.00 %"), "{told}");
        assert!(told.contains("Within 5.00 % on books the smallest is 1,200 B"), "{told}");
        let neither = [unmet(Bound::Footprint, 1.0, None), unmet(Bound::Saving, 0.9, None)];
        assert!(
            sentences(&neither).starts_with("Nothing that was measured meets all of the bounds but one.")
        );
    }
}
