//! Panics of other people's code that are expected on broken input: caught, and no line of the log.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// True while a panic of this thread is caught by [`quietly`].
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `body`; the words of its panic, on one line, if it panics. Nothing of what it worked on may be used after that.
///
/// # Errors
/// The words of the panic.
pub fn quietly<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    EXPECTED.set(before);
    outcome.map_err(|panic| {
        panic_words(&*panic).unwrap_or("no message").split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Words of a panic, if it has any.
pub fn panic_words(panic: &(dyn Any + Send)) -> Option<&str> {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied())
}

/// True if this thread is within [`quietly`].
pub(crate) fn is_expected() -> bool {
    EXPECTED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_words_and_the_next_one_is_loud_again() {
        assert_eq!(quietly(|| 7), Ok(7));
        assert_eq!(
            quietly(|| -> u8 { panic!("two\n lines of {}", "it") }),
            Err("two lines of it".to_owned())
        );
        assert!(!is_expected());
        // One within another leaves the outer one as it was.
        assert_eq!(quietly(|| quietly(|| ()).map(|()| is_expected())), Ok(Ok(true)));
    }
}
