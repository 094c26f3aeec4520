//! Settings of fetching: the variables by which all programs of the Hub are told the same things.

use std::path::PathBuf;

/// Place of the Hub where none is named.
const HUB: &str = "https://huggingface.co";

/// Where files come from, where they are kept, and who asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the Hub (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Folder of files of the Hub (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub hub_cache: PathBuf,
    /// Folder of files of the web.
    pub web_cache: PathBuf,
    /// Token for the Hub and nobody else (`HF_TOKEN`, or the file that `hf auth login` writes).
    pub token: Option<Token>,
    /// True if nothing is to be loaded (`HF_HUB_OFFLINE`).
    pub offline: bool,
}

/// A token, which no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Settings {
    /// The settings of this process.
    // Variables of all programs of the Hub, and no settings of this one.
    #[allow(clippy::disallowed_methods)]
    pub fn from_env() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Settings of variables that `variable` tells.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let user = || dirs::home_dir().unwrap_or_else(std::env::temp_dir).join(".cache");
        let home = variable("HF_HOME").map(PathBuf::from);
        let home = home.unwrap_or_else(|| cache.clone().unwrap_or_else(user).join("huggingface"));
        let hub_cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let is_on = |name| {
            variable(name)
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&*value.to_ascii_lowercase()))
        };
        let of_file = || {
            let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            std::fs::read_to_string(path).ok()
        };
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| (!is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")).then(of_file)?);
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| HUB.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            hub_cache: hub_cache.map_or_else(|| home.join("hub"), PathBuf::from),
            web_cache: dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("qslm").join("fetched"),
            token: token.map(Token),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Settings::of(|name| found(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn folders_are_those_of_all_programs_of_the_hub() {
        let cache = |variables: &[(&str, &str)]| of(variables).hub_cache;
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")]), PathBuf::from("/h/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), PathBuf::from("/c"));
        assert!(cache(&[]).ends_with(".cache/huggingface/hub"));
        assert_eq!(of(&[]).endpoint, "https://huggingface.co");
        assert_eq!(of(&[("HF_ENDPOINT", "https://hf-mirror.com/")]).endpoint, "https://hf-mirror.com");
        assert!(of(&[("HF_HUB_OFFLINE", "1")]).offline && !of(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn a_token_is_that_of_the_variable_or_of_the_file_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_of_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).token, Some(Token("hf_of_file".to_owned())));
        assert_eq!(
            of(&[("HF_HOME", home), ("HF_TOKEN", "hf_said")]).token,
            Some(Token("hf_said".to_owned()))
        );
        assert_eq!(of(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        assert!(!format!("{:?}", of(&[("HF_TOKEN", "hf_said")])).contains("hf_said"));
    }
}
