//! Text that fits: words on lines of a width, and names that are shortened where nobody needs all of them.

/// Letters that stay of the end of a shortened name: the last of an id tell it from others of its name.
const END: usize = 5;

/// The text in at most `width` letters: without its middle if it is longer, so that the name and the end of an id stay.
pub fn shorten(text: &str, width: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= width {
        return text.to_owned();
    }
    let end = END.min(width.saturating_sub(1) / 2);
    let begin = width.saturating_sub(end + 1);
    letters[..begin]
        .iter()
        .chain(&['\u{2026}'][..width.min(1)])
        .chain(&letters[letters.len() - end..])
        .collect()
}

/// The words on lines of at most `width` letters; a word that is longer goes on in the next line.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let room = width.saturating_sub(line.chars().count() + usize::from(!line.is_empty()));
        let letters: Vec<char> = word.chars().collect();
        if letters.len() <= room {
            line.extend((!line.is_empty()).then_some(' '));
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        let mut pieces = letters.chunks(width).map(String::from_iter);
        line = pieces.next_back().unwrap_or_default();
        lines.extend(pieces);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_loses_its_middle_and_nothing_else() {
        assert_eq!(shorten("plain-1a2b3c4d5e6f", 18), "plain-1a2b3c4d5e6f");
        assert_eq!(shorten("a-very-long-name-1a2b3c4d5e6f", 18), "a-very-long-\u{2026}d5e6f");
        for width in 0..20 {
            assert_eq!(shorten("a-very-long-name-1a2b3c4d5e6f", width).chars().count(), width);
        }
    }

    #[test]
    fn words_go_on_in_the_next_line_and_none_is_lost() {
        assert_eq!(wrap("best so far: 88.10 % saved", 12), ["best so far:", "88.10 %", "saved"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("an abcdefghijkl b", 5), ["an", "abcde", "fghij", "kl b"]);
        for width in 1..30 {
            let lines = wrap("no worker for 3 minutes; 2 leases ran out on workers that vanished", width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
        }
    }
}
