//! Names of a network's tensors, from those of a file: what training tools put around them is taken off.
//!
//! A trainer saves its weights beside an optimizer's, under `model` or `state_dict`; DDP, `torch.compile` and
//! their like put a word before every name or into it; a file in which two tensors were one has the second in
//! its metadata. Nothing here guesses: what two readings would fit is refused.

mod dialect;

use std::collections::{BTreeMap, BTreeSet};

use super::CheckpointError;
pub(super) use dialect::Dialect;

/// Words that wrappers of PyTorch put before a name or into it; no tensor of a network has one in its name.
const WRAPPERS: [&str; 5] =
    ["module", "_forward_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Tensors that tell where the network of a file is, by turns: one may be missing.
const ANCHORS: [&str; 3] = ["blocks.0.ffn.key.weight", "emb.weight", "ln_out.weight"];

/// The map between the names of a file and those of its network.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// Names in the file, by the network's names.
    names: BTreeMap<String, String>,
    /// The prefix of every name, wrappers left out.
    prefix: String,
    /// Wrappers that were left out, and of how many names.
    wrappers: BTreeSet<&'static str>,
    wrapped: usize,
    /// The program whose names the file has, if they are not ours.
    dialect: Option<Dialect>,
    /// Tensors that stand beside the network.
    aside: Vec<String>,
    /// Names of the network that stand for the tensor of another.
    ties: Vec<(String, String)>,
}

impl Naming {
    /// Reads the names of a file, and its metadata for tensors that were one.
    ///
    /// # Errors
    /// If the file holds several networks, or one tensor twice.
    pub(super) fn read(
        names: &[String],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, CheckpointError> {
        let there: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let tied =
            |(name, of): &(&String, &String)| !there.contains(name.as_str()) && there.contains(of.as_str());
        let ties: Vec<_> = metadata.iter().filter(tied).collect();
        let mut naming = Self::default();
        let mut plain: BTreeMap<String, String> = BTreeMap::new();
        let all = names.iter().map(|name| (name, name)).chain(ties.iter().copied());
        for (name, of) in all {
            let kept = naming.bare(name);
            if let Some(other) = plain.insert(kept.clone(), of.clone()) {
                let reason = format!("tensors {other} and {name} are both {kept}");
                return Err(CheckpointError::Ambiguous(reason));
            }
        }
        let (plain, dialect) = dialect::translate(plain);
        naming.dialect = dialect;
        naming.prefix = prefix(&plain)?;
        for (name, of) in plain {
            match name.strip_prefix(&naming.prefix) {
                Some(name) => drop(naming.names.insert(name.to_owned(), of)),
                None => naming.aside.push(name),
            }
        }
        let of_network = |name: &str| without_wrappers(name).strip_prefix(&naming.prefix).map(str::to_owned);
        let both = |(name, of): &(&String, &String)| Some((of_network(name)?, of_network(of)?));
        naming.ties = ties.iter().filter_map(both).collect();
        Ok(naming)
    }

    /// A name without its wrappers, which are noted.
    fn bare(&mut self, name: &str) -> String {
        let wrapper = |part: &&str| WRAPPERS.iter().find(|wrapper| *wrapper == part);
        let found: BTreeSet<&'static str> =
            name.split('.').filter_map(|part| wrapper(&part).copied()).collect();
        if found.is_empty() {
            return name.to_owned();
        }
        self.wrapped += 1;
        self.wrappers.extend(found);
        without_wrappers(name)
    }

    /// The program whose names the file has; `None` if they are ours.
    pub(super) fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Leaves tensors aside that are no parameters, by the names that they would have in the network.
    pub(super) fn leave_aside(&mut self, names: &[String]) {
        let theirs = names.iter().filter_map(|name| self.names.remove(name)).collect::<Vec<_>>();
        self.aside.extend(theirs);
    }

    /// The network's names.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// The file's name of a tensor of the network; its own if there is none.
    pub(super) fn in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// The name that a tensor would have in the file, if it were there.
    pub(super) fn would_be(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The shapes by the network's names.
    pub(super) fn shapes(&self, of: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Vec<usize>> {
        let shape = |(name, file): (&String, &String)| Some((name.clone(), of.get(file)?.clone()));
        self.names.iter().filter_map(shape).collect()
    }

    /// The changes made to the names, a sentence each; none if the file has them as they should be.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.wrappers.is_empty() {
            let words: Vec<_> = self.wrappers.iter().map(|word| format!("`{word}.`")).collect();
            notes.push(format!("{} was taken out of {} names", words.join(", "), self.wrapped));
        }
        if !self.prefix.is_empty() {
            notes.push(format!("`{}` was taken off {} names", self.prefix, self.names.len()));
        }
        notes.extend(self.dialect.map(|dialect| format!("names are {dialect}'s")));
        if let Some(first) = self.aside.first() {
            notes.push(format!("{} other tensors were left aside, such as {first}", self.aside.len()));
        }
        notes.extend(
            self.ties.iter().map(|(name, of)| format!("{name} is {of}, as the file's metadata says")),
        );
        notes
    }
}

fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// The prefix of the names of the one network; empty if they stand at the top, or there is none.
fn prefix(names: &BTreeMap<String, String>) -> Result<String, CheckpointError> {
    for anchor in ANCHORS {
        let before = |name: &String| {
            let prefix = name.strip_suffix(anchor)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        };
        let found: Vec<String> = names.keys().filter_map(before).collect();
        match &found[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            // At the top stands what the file is about; the rest is refused as extra.
            several if several.iter().any(String::is_empty) => return Ok(String::new()),
            several => {
                let reason = format!("it holds {} networks, under {}", several.len(), several.join(" and "));
                return Err(CheckpointError::Ambiguous(reason));
            }
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [&str; 4] = ["blocks.0.ffn.key.weight", "emb.weight", "head.weight", "ln_out.weight"];

    fn read(names: &[String]) -> Result<Naming, CheckpointError> {
        Naming::read(names, &BTreeMap::new())
    }

    fn under(prefix: &str) -> Vec<String> {
        PLAIN.iter().map(|name| format!("{prefix}{name}")).collect()
    }

    #[test]
    fn prefixes_and_nesting_are_taken_off_and_told() {
        for (prefix, note) in [
            ("", ""),
            ("model.", "`model.` was taken off 4 names"),
            ("state_dict.model.", "`state_dict.model.` was taken off 4 names"),
            ("module.", "`module.` was taken out of 4 names"),
            ("_forward_module.", "`_forward_module.` was taken out of 4 names"),
            (
                "state_dict._orig_mod.",
                "`_orig_mod.` was taken out of 4 names; `state_dict.` was taken off 4 names",
            ),
        ] {
            let naming = read(&under(prefix)).unwrap();
            assert_eq!(naming.names().collect::<Vec<_>>(), PLAIN);
            assert_eq!(naming.in_file("emb.weight"), format!("{prefix}emb.weight"));
            assert_eq!(naming.notes().join("; "), note);
        }
    }

    #[test]
    fn what_stands_beside_the_network_is_left_aside() {
        let mut names = under("model.");
        names.push("optimizer.state.0.step".to_owned());
        let naming = read(&names).unwrap();
        assert_eq!(naming.names().count(), 4);
        assert!(naming.notes()[1].starts_with("1 other tensors were left aside, such as optimizer.state.0"));
        // At the top nothing is left aside: whatever else is there is refused as extra.
        let mut names = under("");
        names.push("optimizer.emb.weight".to_owned());
        assert_eq!(read(&names).unwrap().names().count(), 5);
    }

    #[test]
    fn what_two_readings_would_fit_is_refused() {
        let error = read(&[under("model."), under("ema.")].concat()).unwrap_err().to_string();
        assert_eq!(error, "ambiguous checkpoint: it holds 2 networks, under ema. and model.");
        let error = read(&[under("module."), under("")].concat()).unwrap_err().to_string();
        assert!(error.contains("are both "), "{error}");
    }

    #[test]
    fn a_tensor_that_was_one_with_another_is_found() {
        let mut names = under("model.");
        names.retain(|name| !name.ends_with("head.weight"));
        let metadata = [("model.head.weight", "model.emb.weight"), ("format", "pt")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let naming = Naming::read(&names, &metadata).unwrap();
        assert_eq!(naming.in_file("head.weight"), "model.emb.weight");
        assert_eq!(naming.notes()[1], "head.weight is emb.weight, as the file's metadata says");
    }
}
