//! Backends: what computes the products of matrices, by name.
//!
//! One line below makes a backend known to specs, workers, help texts and references; what it computes with is one arm
//! of `library` in the engine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Makes the enum and its table out of one entry per backend: variant, name, whether it is a graphics card's, and what it
/// is. The first is the default.
macro_rules! backends {
    ($($(#[$default:meta])? $variant:ident = $name:literal, gpu: $gpu:literal, $about:literal;)*) => {
        /// Backend: what computes the products of matrices. The last bits of a result depend on it.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Backend {
            $(
                #[doc = $about]
                $(#[$default])?
                #[serde(rename = $name)]
                $variant,
            )*
        }

        /// Backends, in the order of the reference.
        const TABLE: &[Entry] = &[$(Entry { backend: Backend::$variant, name: $name, is_gpu: $gpu, about: $about }),*];
    };
}

backends! {
    #[default] Native = "native", gpu: false,
        "qslm's own: the same bits on every processor; exact integers where weights and activations are both quantized";
    Integer = "integer", gpu: false,
        "qslm's own, in exact integers wherever weights are quantized: activations that are not become 24 bits below the \
         largest of their row; the same bits on every processor, and faster on those with AMX";
    Flex = "flex", gpu: false, "burn-flex";
    Ndarray = "ndarray", gpu: false, "burn-ndarray, the second opinion";
    Cuda = "cuda", gpu: true, "burn-cuda, NVIDIA's graphics cards: in programs built with `--features cuda`";
    Wgpu = "wgpu", gpu: true,
        "burn-wgpu, graphics cards by Vulkan, Metal or DirectX: in programs built with `--features wgpu`";
}

/// A line of the table.
struct Entry {
    backend: Backend,
    name: &'static str,
    is_gpu: bool,
    about: &'static str,
}

impl Backend {
    /// Every backend, whether this program was built with it or not.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.backend)
    }

    fn entry(self) -> &'static Entry {
        // The macro makes one entry per variant, in their order.
        &TABLE[self as usize]
    }

    /// Name, as specs and workers write it.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Description in a few words without a full stop.
    pub fn about(self) -> &'static str {
        self.entry().about
    }

    /// True if a graphics card computes: the last bits of products differ between cards and drivers then, and
    /// so may the last digits of what two workers measure of the same shard.
    pub fn is_gpu(self) -> bool {
        self.entry().is_gpu
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownBackend(String);

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = TABLE.iter().map(|entry| entry.name).collect();
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        write!(f, "backend {:?}: expected {} or {last}", self.0, others.join(", "))
    }
}

impl std::error::Error for UnknownBackend {}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = TABLE.iter().find(|entry| entry.name == text);
        named.map(|entry| entry.backend).ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_read_by_the_name_that_it_is_written_with() {
        for backend in Backend::all() {
            assert_eq!(backend.name().parse(), Ok(backend));
            assert_eq!(serde_json::to_string(&backend).unwrap(), format!("{:?}", backend.name()));
        }
        let words = "backend \"x\": expected native, integer, flex, ndarray, cuda or wgpu";
        assert_eq!("x".parse::<Backend>().unwrap_err().to_string(), words);
        assert_eq!(Backend::default(), Backend::Native);
    }
}
