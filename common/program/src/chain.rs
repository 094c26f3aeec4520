//! An error with its causes on one line, none of them said twice.

use std::error::Error;

/// The line of an error: its words and those of its causes, joined by colons. A cause with whose words the line ends already
/// is left out: an error that is read alone says its cause itself, and still keeps it as its source.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).fold(error.to_string(), |line, cause| match line.ends_with(&cause) {
        true => line,
        false => format!("{line}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Says {
        #[error("file: {0}")]
        All(#[source] io::Error),
        #[error("file")]
        ItsOwnPart(#[source] io::Error),
        #[error(transparent)]
        Nothing(Box<Says>),
    }

    #[test]
    fn a_cause_is_said_once_whoever_says_it() {
        let full = || io::Error::other("disk full");
        for error in [Says::All(full()), Says::ItsOwnPart(full()), Says::Nothing(Says::All(full()).into())] {
            assert_eq!(chain(&error), "file: disk full");
            let error = Err::<(), _>(error).context("store").unwrap_err();
            assert_eq!(chain(error.as_ref()), "store: file: disk full");
        }
    }
}
