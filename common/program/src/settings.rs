//! Settings in layers: defaults < file < environment < flags.
//!
//! Every program has one struct of settings with `#[serde(deny_unknown_fields)]`, so that a key that
//! nobody reads is refused by name wherever it comes from.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use config::{Config, Environment, File, FileFormat, Map};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads settings: the type's defaults, then the TOML `file`, then variables that start with `prefix` and an
/// underscore, then `flags` (a struct whose absent flags are skipped when serialized).
///
/// # Errors
/// One line that names the file or variable's key and what is wrong.
pub fn load<T>(file: Option<&Path>, prefix: &str, flags: &impl Serialize) -> anyhow::Result<T>
where
    T: Default + Serialize + DeserializeOwned,
{
    load_from(file, Environment::with_prefix(prefix), flags)
}

/// A file's text, without the byte-order mark that some editors write before it.
fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn load_from<T>(file: Option<&Path>, environment: Environment, flags: &impl Serialize) -> anyhow::Result<T>
where
    T: Default + Serialize + DeserializeOwned,
{
    let environment = environment.prefix_separator("_").try_parsing(true);
    let mut layers = Config::builder().add_source(Config::try_from(&T::default())?);
    if let Some(path) = file {
        let text = read(path)?;
        let layer = File::from_str(&text, FileFormat::Toml);
        // Alone first, so that a mistake in the file is told with the file's name.
        let known = Config::builder().add_source(Config::try_from(&T::default())?).add_source(layer.clone());
        let alone = known.build().and_then(Config::try_deserialize::<T>);
        alone.map_err(|error| one_line(&error)).with_context(|| path.display().to_string())?;
        layers = layers.add_source(layer);
    }
    let settings = layers.add_source(environment).add_source(Config::try_from(flags)?).build();
    settings.and_then(Config::try_deserialize).map_err(|error| one_line(&error))
}

/// A setting with what is in force and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// `default`, the file, or the variable.
    pub origin: String,
}

/// What [`load`] would give without flags, and where each value comes from.
///
/// # Errors
/// As [`load`].
pub fn explain<T>(file: Option<&Path>, prefix: &str) -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    explain_from::<T>(file, prefix, &std::env::vars_os().filter_map(text).collect())
}

/// Every setting with its default.
///
/// # Errors
/// If a default cannot be written down.
pub fn defaults<T>() -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    explain_from::<T>(None, "", &HashMap::new())
}

fn explain_from<T>(
    file: Option<&Path>,
    prefix: &str,
    variables: &HashMap<String, String>,
) -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    let environment =
        Environment::with_prefix(prefix).source(Some(variables.clone().into_iter().collect::<Map<_, _>>()));
    let in_force: T = load_from(file, environment, &serde_json::json!({}))?;
    let text = file.map(read);
    let in_file = Config::builder()
        .add_source(File::from_str(&text.transpose()?.unwrap_or_default(), FileFormat::Toml))
        .build()
        .map_err(|error| one_line(&error))?;
    let values = serde_json::to_value(in_force)?;
    let setting = |(key, value): (&String, &serde_json::Value)| {
        let variable = format!("{prefix}_{}", key.to_uppercase());
        let origin = match file {
            _ if variables.contains_key(&variable) => variable,
            Some(path) if in_file.get::<config::Value>(key).is_ok() => path.display().to_string(),
            _ => "default".to_owned(),
        };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Setting { key: key.clone(), value, origin }
    };
    Ok(values.as_object().into_iter().flatten().map(setting).collect())
}

fn one_line(error: &config::ConfigError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

/// For tests: variables from a map instead of the process.
#[doc(hidden)]
pub fn load_from_map<T>(
    file: Option<&Path>,
    prefix: &str,
    variables: &[(&str, &str)],
    flags: &impl Serialize,
) -> anyhow::Result<T>
where
    T: Default + Serialize + DeserializeOwned,
{
    let variables: Map<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load_from(file, Environment::with_prefix(prefix).source(Some(variables)), flags)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn every_value_says_where_it_comes_from() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "slots = 4\nlisten = \"from the file\"").unwrap();
        let variables = HashMap::from([("QSLM_TEST_LISTEN".to_owned(), "from outside".to_owned())]);
        let settings = explain_from::<Settings>(Some(file.path()), "QSLM_TEST", &variables).unwrap();
        let found: Vec<_> =
            settings.iter().map(|s| (s.key.as_str(), s.value.as_str(), s.origin.as_str())).collect();
        let path = file.path().display().to_string();
        let expected = [
            ("cache_dir", "null", "default"),
            ("listen", "from outside", "QSLM_TEST_LISTEN"),
            ("slots", "4", path.as_str()),
        ];
        assert_eq!(found, expected);
        std::fs::write(file.path(), "slotz = 4").unwrap();
        assert!(explain_from::<Settings>(Some(file.path()), "QSLM_TEST", &HashMap::new()).is_err());
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        listen: String,
        slots: u32,
        cache_dir: Option<String>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { listen: "default".to_owned(), slots: 1, cache_dir: None }
        }
    }

    #[derive(Default, Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        slots: Option<u32>,
    }

    fn load(file: &str, variables: &[(&str, &str)], slots: Option<u32>) -> anyhow::Result<Settings> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        load_from_map(Some(path.path()), "QSLM_TEST", variables, &Flags { slots })
    }

    #[test]
    fn later_layers_win() {
        let of = |file, variables, slots| load(file, variables, slots).unwrap();
        assert_eq!(of("", &[], None), Settings::default());
        assert_eq!(of("slots = 2", &[], None).slots, 2);
        assert_eq!(of("\u{feff}slots = 2", &[], None).slots, 2, "a byte-order mark is no key");
        assert_eq!(of("slots = 2", &[("QSLM_TEST_SLOTS", "3")], None).slots, 3);
        assert_eq!(of("slots = 2", &[("QSLM_TEST_SLOTS", "3")], Some(4)).slots, 4);
        assert_eq!(
            of("", &[("QSLM_TEST_CACHE_DIR", "x"), ("QSLM_OTHER", "y")], None).cache_dir.unwrap(),
            "x"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = |file, variables: &[_]| format!("{:#}", load(file, variables, None).unwrap_err());
        let in_file = error("slotz = 2", &[]);
        assert!(in_file.contains("slotz") && in_file.contains("slots"), "{in_file}");
        assert!(error("", &[("QSLM_TEST_SLOTZ", "3")]).contains("slotz"));
        let wrong = error("slots = \"many\"", &[]);
        assert!(wrong.contains("slots") && !wrong.contains('\n'), "{wrong}");
        assert!(error("slots =", &[]).contains("line 1"));
    }
}
