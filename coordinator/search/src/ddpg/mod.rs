//! DDPG: an actor that answers a state with one number from 0 to 1, and a critic that learns what comes of it.
//!
//! The one idea is plain loops over `f64`, each sum in one fixed order: the same episodes teach the same agent on every
//! machine, whatever its libraries. An agent knows nothing of quantization; `strategies/haq.rs` says what states and
//! rewards are.
//!
//! Sources: Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016 (arXiv 1509.02971), in the
//! form of Wang et al., "HAQ: hardware-aware automated quantization with mixed precision", CVPR 2019 (arXiv 1811.08886):
//! both networks with two hidden layers of rectified units, the reward of a whole episode for each of its steps, less a
//! moving average. Adam: Kingma and Ba, ICLR 2015 (arXiv 1412.6980).

mod adam;
mod agent;
mod mlp;
mod noise;
mod replay;

pub(crate) use agent::{Agent, products_of_update};
pub(crate) use noise::explore;
pub(crate) use replay::Episode;
