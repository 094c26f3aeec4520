//! The learning rate over a run: a linear warm-up, then half a cosine down.

/// Learning rates of a run, as shares of the highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Steps of the run.
    pub steps: u32,
    /// Steps over which the rate rises from zero to the highest.
    pub warm_up: u32,
    /// Share of the highest rate that is left at the last step.
    pub floor: f64,
}

impl Schedule {
    /// The share of the highest rate at a step, the first being 0.
    pub fn at(&self, step: u32) -> f64 {
        if step < self.warm_up {
            return f64::from(step + 1) / f64::from(self.warm_up);
        }
        let last = self.steps.saturating_sub(1);
        let falling = f64::from(last.saturating_sub(self.warm_up).max(1));
        let progress = (f64::from(step - self.warm_up) / falling).min(1.0);
        self.floor + (1.0 - self.floor) * (1.0 + cosine_of_half_turns(progress)) / 2.0
    }
}

/// `cos(pi x)` for x from 0 to 1, by its series: a library's cosine may differ between platforms in the last bit.
fn cosine_of_half_turns(x: f64) -> f64 {
    if x > 0.5 {
        return -cosine_of_half_turns(1.0 - x);
    }
    let square = (std::f64::consts::PI * x) * (std::f64::consts::PI * x);
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..=12 {
        term *= -square / f64::from((2 * n - 1) * (2 * n));
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_that_of_the_library() {
        for step in 0..=1000 {
            let x = f64::from(step) / 1000.0;
            let expected = (std::f64::consts::PI * x).cos();
            assert!((cosine_of_half_turns(x) - expected).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn the_rate_rises_to_the_highest_and_ends_at_the_floor() {
        let schedule = Schedule { steps: 111, warm_up: 10, floor: 0.02 };
        assert_eq!((schedule.at(0), schedule.at(4), schedule.at(9), schedule.at(10)), (0.1, 0.5, 1.0, 1.0));
        assert!((schedule.at(60) - 0.51).abs() < 1e-12, "half way down");
        assert!((schedule.at(110) - 0.02).abs() < 1e-12);
        assert!((schedule.at(500) - 0.02).abs() < 1e-12);
        assert!((10..110).all(|step| schedule.at(step) > schedule.at(step + 1)));
        let constant = Schedule { steps: 5, warm_up: 0, floor: 1.0 };
        assert!((0..5).all(|step| constant.at(step) == 1.0));
    }
}
