//! Form of a file, told by the end of its name.

use std::path::Path;

use crate::exit::{Exit, Failure, Outcome};

/// The form of a file: as it was asked for, else by the end of its name, in small letters or capital ones. A file without an
/// ending, and what is no file, have the usual form.
pub fn choose<T: Copy>(wanted: Option<T>, path: Option<&Path>, known: &[(&str, T)], usual: T) -> Outcome<T> {
    let ending = path.and_then(Path::extension).map(|ending| ending.to_string_lossy().to_lowercase());
    let (Some(path), Some(ending), None) = (path, ending, wanted) else { return Ok(wanted.unwrap_or(usual)) };
    known.iter().find(|(name, _)| *name == ending).map(|(_, form)| *form).ok_or_else(|| {
        let known: Vec<String> = known.iter().map(|(name, _)| format!(".{name}")).collect();
        let words = format!(
            "--out {}: nothing is known of .{ending}: expected {}, or give --format",
            path.display(),
            known.join(", ")
        );
        Failure::new(Exit::Usage, words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_honoured_in_any_case_and_unknown_ones_are_refused_with_the_known_ones() {
        let known = [("csv", 1), ("parquet", 2)];
        let choose = |path: &str| choose(None, Some(Path::new(path)), &known, 1).map_err(|e| e.to_string());
        assert_eq!(choose("x.PARQUET"), Ok(2));
        assert_eq!(choose("x.tar.Csv"), Ok(1));
        assert_eq!((choose("x"), choose("/dev/fd/63"), choose(".parquet")), (Ok(1), Ok(1), Ok(1)));
        let words = "--out x.csv.gz: nothing is known of .gz: expected .csv, .parquet, or give --format";
        assert_eq!(choose("x.csv.gz"), Err(words.to_owned()));
        assert!(choose("x.xlsx").is_err());
        assert_eq!(super::choose(Some(2), Some(Path::new("x.xlsx")), &known, 1).ok(), Some(2));
    }
}
