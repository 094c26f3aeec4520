//! Position of a mistake in the text of a spec: its line, and the key that it was given to.

/// Key path of the value at an offset: the last key before it, within the last header of a table. `None` where a table
/// begins, or nothing is set.
pub(super) fn key_at(text: &str, offset: usize) -> Option<String> {
    let (mut table, mut key) = (String::new(), None);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if start > offset {
            break;
        }
        start += line.len();
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            // A list of lists has lines that begin like headers.
            let name = header.0.trim_start_matches('[').trim();
            if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
                (table, key) = (name.to_owned(), None);
                continue;
            }
        }
        let set = line.split_once('=').map(|(left, _)| left.trim());
        let is_key = |left: &&str| left.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
        key = set.filter(is_key).map(str::to_owned).or(key);
    }
    let key = key.filter(|key| !key.is_empty())?;
    Some(if table.is_empty() { key } else { format!("{table}.{key}") })
}

/// Words about a value of the wrong type or range with the key that it was given to; other words name theirs.
pub(super) fn with_key(key: Option<&str>, words: String) -> String {
    let names_it =
        words.contains("field `") || words.contains("duplicate key") || words.contains("variant `");
    match key.filter(|key| !names_it && !words.starts_with(*key)) {
        Some(key) => format!("{key}: {words}"),
        None => words,
    }
}

/// The number of the line at an offset, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_last_key_before_it_in_the_last_table() {
        let text = "a = 1\n[b.c]\nd = [\n  [1, 2],\n  3,\n]\n[[e]]\nf = 1\n";
        let at = |part: &str| key_at(text, text.find(part).unwrap());
        assert_eq!(at("1\n").as_deref(), Some("a"));
        assert_eq!([at("3,"), at("2]")], [Some("b.c.d".to_owned()), Some("b.c.d".to_owned())]);
        assert_eq!((at("f = 1").as_deref(), at("[b.c]")), (Some("e.f"), None));
    }

    #[test]
    fn words_that_name_a_key_are_left_as_they_are() {
        let with = |words: &str| with_key(Some("a.b"), words.to_owned());
        assert_eq!(with("invalid type: map"), "a.b: invalid type: map");
        for words in ["unknown field `c`", "missing field `c`", "a.b = 3: expected 4"] {
            assert_eq!(with(words), words);
        }
    }
}
