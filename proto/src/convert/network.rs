//! The shape of a network on the wire, and what it does between its linear layers.

use qslm_common::network::{Comparison, Constant, Dynamics, Network, Neuron, Parameter, Placement, Reset};

use super::Invalid;
use crate::v1;

/// A network of SpikeGPT; `None` if it is of another member.
pub(super) fn plain(network: &Network) -> Option<v1::Network> {
    network.dynamics.is_default().then(|| sizes(network))
}

/// A network of another member than SpikeGPT; `None` if it is of that.
pub(super) fn member(network: &Network) -> Option<v1::Member> {
    let dynamics = Some(write(&network.dynamics));
    (!network.dynamics.is_default()).then(|| v1::Member { network: Some(sizes(network)), dynamics })
}

/// The network of one of the two.
///
/// # Errors
/// [`Invalid`] if there is none, or it is none.
pub(super) fn read(plain: Option<v1::Network>, member: Option<v1::Member>) -> Result<Network, Invalid> {
    let missing = |field| move || Invalid::new(field, "missing");
    let (sizes, dynamics) = match member {
        Some(member) => {
            let dynamics = dynamics(&member.dynamics.ok_or_else(missing("dynamics"))?)?;
            (member.network, dynamics)
        }
        None => (plain, Dynamics::SPIKEGPT),
    };
    let v1::Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding } =
        sizes.ok_or_else(missing("network"))?;
    let network = Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding, dynamics };
    network.validate().map_err(|error| Invalid::new("network", error))?;
    Ok(network)
}

fn sizes(network: &Network) -> v1::Network {
    let Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding, dynamics: _ } = *network;
    v1::Network { vocabulary, channels, hidden, blocks, outputs, binary_embedding }
}

fn write(dynamics: &Dynamics) -> v1::Dynamics {
    let neuron = |neuron: &Neuron| v1::Neuron {
        leak: neuron.leak.fixed(),
        gain: neuron.gain.value(),
        threshold: neuron.threshold.fixed(),
        reset: match neuron.reset {
            Reset::Hard => v1::Reset::Hard,
            Reset::Soft => v1::Reset::Soft,
            Reset::None => v1::Reset::None,
        }
        .into(),
        above: neuron.comparison == Comparison::Above,
        initial: neuron.initial.value(),
    };
    v1::Dynamics {
        neuron: dynamics.neuron.as_ref().map(neuron),
        before: dynamics.placement == Placement::Before,
        rescale_every: dynamics.rescale_every,
    }
}

fn dynamics(message: &v1::Dynamics) -> Result<Dynamics, Invalid> {
    let placement = if message.before { Placement::Before } else { Placement::After };
    let neuron = message.neuron.as_ref().map(neuron).transpose()?;
    Ok(Dynamics { neuron, placement, rescale_every: message.rescale_every })
}

fn neuron(message: &v1::Neuron) -> Result<Neuron, Invalid> {
    let constant = |field, value: f32| {
        Constant::new(value).ok_or_else(|| Invalid::new(field, format!("{value}: expected a finite number")))
    };
    let parameter = |field, value: Option<f32>| match value {
        Some(value) => constant(field, value).map(Parameter::Fixed),
        None => Ok(Parameter::Learned),
    };
    Ok(Neuron {
        leak: parameter("leak", message.leak)?,
        gain: constant("gain", message.gain)?,
        threshold: parameter("threshold", message.threshold)?,
        reset: match message.reset() {
            v1::Reset::Hard => Reset::Hard,
            v1::Reset::Soft => Reset::Soft,
            v1::Reset::None => Reset::None,
            v1::Reset::Unspecified => return Err(Invalid::new("reset", message.reset)),
        },
        comparison: if message.above { Comparison::Above } else { Comparison::AtLeast },
        initial: constant("initial", message.initial)?,
    })
}

#[cfg(test)]
mod tests {
    use qslm_common::network::Family;

    use super::*;

    #[test]
    fn a_neuron_that_means_nothing_is_refused_by_field() {
        let member = Family::SpikeRuGpt.member();
        let refused = |change: fn(&mut v1::Neuron)| {
            let mut message = write(&member.dynamics);
            change(message.neuron.as_mut().unwrap());
            dynamics(&message).unwrap_err().to_string()
        };
        assert_eq!(refused(|neuron| neuron.gain = f32::NAN), "gain: NaN: expected a finite number");
        assert!(refused(|neuron| neuron.leak = Some(f32::INFINITY)).starts_with("leak: "));
        assert!(refused(|neuron| neuron.reset = 9).starts_with("reset: "));
        assert_eq!(read(None, None).unwrap_err().to_string(), "network: missing");
        let absurd = v1::Member { network: None, dynamics: Some(write(&member.dynamics)) };
        assert_eq!(read(None, Some(absurd)).unwrap_err().to_string(), "network: missing");
    }
}
