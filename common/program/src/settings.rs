//! Settings in layers: defaults < file < environment < flags.
//!
//! Every program has one struct of settings with `#[serde(deny_unknown_fields)]`, so that a key that
//! nobody reads is refused by name wherever it comes from. A variable is text, and is read as what its setting is: a name
//! of digits only stays a name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, anyhow};
use config::{Config, File, FileFormat};
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
    load_from(file, prefix, std::env::vars_os(), flags)
}

/// A file's text, without the byte-order mark that some editors write before it.
fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn load_from<T>(
    file: Option<&Path>,
    prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &impl Serialize,
) -> anyhow::Result<T>
where
    T: Default + Serialize + DeserializeOwned,
{
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
    for (key, (variable, value)) in environment::<T>(prefix, variables)? {
        // Alone first, so that a mistake is told with the variable's name.
        let alone = Config::builder().add_source(Config::try_from(&T::default())?);
        let alone = alone.set_override(&key, value.as_str())?.build().and_then(Config::try_deserialize::<T>);
        alone.map_err(|error| one_line(&error)).with_context(|| format!("{variable} = {value:?}"))?;
        layers = layers.add_source(Config::builder().set_override(&key, value)?.build()?);
    }
    let settings = layers.add_source(Config::try_from(flags)?).build();
    settings.and_then(Config::try_deserialize).map_err(|error| one_line(&error))
}

/// The variables that begin with `prefix` and an underscore, with their values, by the setting that they are for.
fn environment<T: Default + Serialize>(
    prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let start = format!("{prefix}_").to_lowercase();
    let known = serde_json::to_value(T::default())?;
    let known: Vec<&String> = known.as_object().into_iter().flat_map(|known| known.keys()).collect();
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        // A name that is no text is none of ours.
        let Ok(name) = name.into_string() else { continue };
        let lower = name.to_lowercase();
        let Some(key) = lower.strip_prefix(&start) else { continue };
        if !known.iter().any(|known| *known == key) {
            return Err(unknown(&name, prefix, key, &known));
        }
        let value = value.into_string().map_err(|value| anyhow!("{name} = {value:?}: not UTF-8"))?;
        found.insert(key.to_owned(), (name, value));
    }
    Ok(found)
}

/// Tells of a variable that no setting has, and which one may be meant.
fn unknown(name: &str, prefix: &str, key: &str, known: &[&String]) -> anyhow::Error {
    let nearest = known.iter().map(|known| (strsim::damerau_levenshtein(key, known), known)).min();
    // As many letters wrong as make a third of the word.
    match nearest.filter(|(distance, _)| *distance <= key.len().div_ceil(3)) {
        Some((_, nearest)) => {
            anyhow!("{name}: no such setting; did you mean {prefix}_{}?", nearest.to_uppercase())
        }
        None => {
            let all = known.iter().map(|known| format!("{prefix}_{}", known.to_uppercase()));
            anyhow!("{name}: no such setting; expected one of {}", all.collect::<Vec<_>>().join(", "))
        }
    }
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

/// The settings that [`load`] would give without flags, each with its origin.
///
/// # Errors
/// As [`load`].
pub fn explain<T>(file: Option<&Path>, prefix: &str) -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    explain_from::<T>(file, prefix, std::env::vars_os())
}

/// Every setting with its default.
///
/// # Errors
/// If a default cannot be written down.
pub fn defaults<T>() -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    explain_from::<T>(None, "", [])
}

fn explain_from<T>(
    file: Option<&Path>,
    prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> anyhow::Result<Vec<Setting>>
where
    T: Default + Serialize + DeserializeOwned,
{
    let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let in_force: T = load_from(file, prefix, variables.clone(), &serde_json::json!({}))?;
    let variables = environment::<T>(prefix, variables)?;
    let text = file.map(read);
    let in_file = Config::builder()
        .add_source(File::from_str(&text.transpose()?.unwrap_or_default(), FileFormat::Toml))
        .build()
        .map_err(|error| one_line(&error))?;
    let values = serde_json::to_value(in_force)?;
    let setting = |(key, value): (&String, &serde_json::Value)| {
        let origin = match (variables.get(key), file) {
            (Some((variable, _)), _) => variable.clone(),
            (None, Some(path)) if in_file.get::<config::Value>(key).is_ok() => path.display().to_string(),
            _ => "default".to_owned(),
        };
        let value = match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
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
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load_from(file, prefix, variables, flags)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn every_value_says_where_it_comes_from() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "slots = 4\nlisten = \"from the file\"").unwrap();
        let variables = [("QSLM_TEST_LISTEN".into(), "from outside".into())];
        let settings = explain_from::<Settings>(Some(file.path()), "QSLM_TEST", variables).unwrap();
        let found: Vec<_> =
            settings.iter().map(|s| (s.key.as_str(), s.value.as_str(), s.origin.as_str())).collect();
        let path = file.path().display().to_string();
        let expected = [
            ("cache_dir", "", "default"),
            ("listen", "from outside", "QSLM_TEST_LISTEN"),
            ("slots", "4", path.as_str()),
            ("until_done", "false", "default"),
        ];
        assert_eq!(found, expected);
        std::fs::write(file.path(), "slotz = 4").unwrap();
        assert!(explain_from::<Settings>(Some(file.path()), "QSLM_TEST", []).is_err());
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        listen: String,
        slots: u32,
        cache_dir: Option<String>,
        until_done: bool,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { listen: "default".to_owned(), slots: 1, cache_dir: None, until_done: false }
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
        let meant = "QSLM_TEST_SLOTZ: no such setting; did you mean QSLM_TEST_SLOTS?";
        assert_eq!(error("", &[("QSLM_TEST_SLOTZ", "3")]), meant);
        let all = "QSLM_TEST_CACHE_DIR, QSLM_TEST_LISTEN, QSLM_TEST_SLOTS, QSLM_TEST_UNTIL_DONE";
        let none = format!("QSLM_TEST_PORT_80_TCP: no such setting; expected one of {all}");
        assert_eq!(error("", &[("QSLM_TEST_PORT_80_TCP", "3")]), none);
        let many = error("", &[("QSLM_TEST_SLOTS", "many")]);
        assert!(many.starts_with("QSLM_TEST_SLOTS = \"many\": "), "{many}");
        assert!(error("", &[("QSLM_TEST_SLOTS", "")]).starts_with("QSLM_TEST_SLOTS = \"\": "));
        let wrong = error("slots = \"many\"", &[]);
        assert!(wrong.contains("slots") && !wrong.contains('\n'), "{wrong}");
        assert!(error("slots =", &[]).contains("line 1"));
    }

    #[test]
    fn a_variable_is_read_as_what_its_setting_is() {
        for text in ["0012", "5e8730912345", "007", "1.0", "true", "inf", "nan", "0x10", "+1", "", " a "] {
            let variables = [("QSLM_TEST_LISTEN", text), ("QSLM_TEST_CACHE_DIR", text)];
            let settings = load("", &variables, None).unwrap();
            assert_eq!((settings.listen.as_str(), settings.cache_dir.as_deref()), (text, Some(text)));
        }
        let settings =
            load("", &[("QSLM_TEST_SLOTS", "12"), ("QSLM_TEST_UNTIL_DONE", "true")], None).unwrap();
        assert_eq!((settings.slots, settings.until_done), (12, true));
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let strange = OsString::from_vec(b"/tmp/\xff".to_vec());
        let load = |name: &str| {
            load_from::<Settings>(None, "QSLM_TEST", [(name.into(), strange.clone())], &Flags::default())
        };
        let error = format!("{:#}", load("QSLM_TEST_CACHE_DIR").unwrap_err());
        assert_eq!(error, "QSLM_TEST_CACHE_DIR = \"/tmp/\\xFF\": not UTF-8");
        assert_eq!(load("QSLM_OTHER").unwrap(), Settings::default());
    }
}
