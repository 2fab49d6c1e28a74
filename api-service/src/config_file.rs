//! Settings from a YAML file, under the names of their flags. A flag or an environment variable goes before the file, the
//! file before the default. It never guesses: an unknown name or a bad value is refused with its line.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::Config;

/// The largest file: far above what all settings take, so that a wrong path (a device, a database) is noticed at once.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Flags that a file cannot give: they are for a person, or name the file itself.
const FLAGS_ONLY: [&str; 3] = ["config", "help", "version"];

/// Why the settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A flag or variable is wrong, or help was asked for; prints as clap's own message.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The file is not there, or not for us.
    #[error("read the settings in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than any that could be meant.
    #[error("{path} has more than {FILE_BYTES_MAX} bytes: it is no file of settings")]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// The file is no YAML mapping, or a name or value in it is wrong.
    #[error("{path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: serde_yaml::Error,
    },
}

/// Reads `arguments` (the program's name first), the environment, and the file that `--config` or `PLIMSOLL_CONFIG` names.
///
/// # Errors
/// [`LoadError`] for what cannot be read or is not a setting.
pub fn load(arguments: impl IntoIterator<Item = OsString>) -> Result<Config, LoadError> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut given = Config::command().try_get_matches_from(&arguments)?;
    let path = given.get_one::<PathBuf>("config").filter(|path| !path.as_os_str().is_empty());
    let Some(path) = path else { return Ok(Config::from_arg_matches_mut(&mut given)?) };
    let settings = parse(&read(path)?).map_err(|source| LoadError::Content { path: path.clone(), source })?;
    // As flags, but only where neither a flag nor a variable is: so the file's values pass the same checks.
    for (name, value) in settings {
        let from = given.value_source(&name.replace('-', "_"));
        if !matches!(from, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            arguments.push(format!("--{name}={value}").into());
        }
    }
    let mut all = Config::command().try_get_matches_from(arguments)?;
    Ok(Config::from_arg_matches_mut(&mut all)?)
}

fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let about = fs::metadata(path).map_err(failed)?;
    if about.is_file() && about.len() > FILE_BYTES_MAX {
        return Err(LoadError::Large { path: path.to_owned() });
    }
    if !about.is_file() {
        return Err(failed(std::io::Error::other("it is not a file")));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The names and values in `text`, each checked on its own.
fn parse(text: &str) -> Result<Vec<(String, String)>, serde_yaml::Error> {
    // A file of comments only is a file without settings.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let command = Config::command();
    let names = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned));
    let names: Vec<String> = names.filter(|name| !FLAGS_ONLY.contains(&name.as_str())).collect();
    Settings(&names).deserialize(serde_yaml::Deserializer::from_str(text))
}

struct Settings<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Settings<'_> {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Settings<'_> {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings, such as `drain: 5s`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut settings: Vec<(String, String)> = Vec::new();
        while let Some(name) = map.next_key_seed(Name { known: self.0, before: &settings })? {
            let value = map.next_value_seed(Value(&name))?;
            settings.push((name, value));
        }
        Ok(settings)
    }
}

/// Refused here, so that the error has the line of the name.
struct Name<'a> {
    known: &'a [String],
    before: &'a [(String, String)],
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a setting, as of its flag")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<String, E> {
        if !self.known.iter().any(|known| known == name) {
            return Err(E::custom(format!("there is no setting `{name}`; see --help")));
        }
        if self.before.iter().any(|(before, _)| before == name) {
            return Err(E::custom(format!("the setting `{name}` is there twice")));
        }
        Ok(name.to_owned())
    }
}

/// A value as the text that its flag would have; also refused here, for the line.
struct Value<'a>(&'a str);

impl Value<'_> {
    fn check<E: serde::de::Error>(&self, value: String) -> Result<String, E> {
        let flag = format!("--{}={value}", self.0);
        match Config::command().ignore_errors(false).try_get_matches_from(["plimsoll-api", &flag]) {
            Ok(_) => Ok(value),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(value),
            // The first line says what is wrong; the rest points at --help.
            Err(error) => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                Err(E::custom(line.to_owned()))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text, a number, or a list of them for `{}`", self.0)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        self.check(value.to_owned())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<String, E> {
        self.check(value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<String, E> {
        self.check(value.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<String, E> {
        self.check(value.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
        let mut values: Vec<String> = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        self.check(values.join(","))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn loaded(text: &str, flags: &[&str]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let config = format!("--config={}", file.path().display());
        let arguments = ["plimsoll-api", &config].into_iter().chain(flags.iter().copied());
        load(arguments.map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_goes_before_the_default_and_a_flag_before_the_file() {
        let text = "# ours\ndrain: 7s\ncpu-queue: 9\nlatency-targets: [100ms, 250ms]\nlog-format: text\n";
        let config = loaded(text, &["--cpu-queue=10"]).unwrap();
        assert_eq!(config.drain, Duration::from_secs(7));
        assert_eq!(config.cpu_queue.get(), 10, "the flag");
        assert_eq!(config.latency_targets.0.len(), 2);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(20), "the default");
    }

    #[test]
    fn a_file_without_settings_changes_nothing() {
        for text in ["", "# nothing\n", "{}"] {
            assert_eq!(loaded(text, &[]).unwrap().drain, Duration::from_secs(5), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, said) in [
            ("drain: 5s\ndrian: 5s\n", &["no setting `drian`", "line 2"][..]),
            ("drain: 5s\n\ncpu-queue: none\n", &["'none'", "--cpu-queue", "line 3"]),
            ("drain: 5\n", &["'5'", "--drain", "line 1"]),
            ("drain: 5s\ndrain: 6s\n", &["`drain` is there twice", "line 2"]),
            ("drain: {a: b}\n", &["a text, a number, or a list"]),
            ("- drain\n", &["a mapping of settings"]),
            ("config: other.yaml\n", &["no setting `config`"]),
            ("drain: 5s\nx: [\n", &["line"]),
            ("drain: !!binary x\n\"", &["line"]),
        ] {
            let error = loaded(text, &[]).unwrap_err();
            for part in said {
                assert!(error.contains(part), "{text:?} should say {part:?}: {error}");
            }
        }
        assert!(load(["x", "--config=/nonexistent"].map(OsString::from)).is_err());
        assert!(load(["x", "--config=/dev/zero"].map(OsString::from)).is_err(), "no file");
        assert!(loaded(&"#".repeat(70_000), &[]).is_err(), "too large");
    }

    #[test]
    fn every_setting_can_be_in_the_file() {
        for argument in Config::command().get_arguments() {
            let Some(name) = argument.get_long().filter(|name| !FLAGS_ONLY.contains(name)) else { continue };
            let default = argument.get_default_values().first().and_then(|value| value.to_str());
            let Some(default) = default else { continue };
            let text = format!("{name}: \"{default}\"\n");
            assert!(loaded(&text, &[]).is_ok(), "{text}");
            // Read back by the id that the precedence goes by.
            assert_eq!(argument.get_id().as_str(), name.replace('-', "_"));
        }
    }

    #[test]
    fn an_error_holds_no_secret() {
        let error = loaded("auth-jwt-secret: hunter2\ncpu-queue: x\n", &[]).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_value_makes_it_panic_or_reads_as_another_setting(value in "[ -~]{0,20}") {
            let text = format!("drain: {value:?}\n");
            if let Ok(settings) = parse(&text) {
                prop_assert_eq!(settings.len(), 1);
                prop_assert!(crate::duration::parse(&settings[0].1).is_ok(), "{:?}", settings);
            }
        }
    }
}
