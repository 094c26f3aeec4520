//! Foreign files: something else than they were named as, recognised by how they begin, so that a message can
//! call them by their name.

/// Bytes of a file's beginning that are enough to recognise it by.
pub const ENOUGH: usize = 512;

/// The nature of a file that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// Words that go on after "it is".
    pub what: &'static str,
    /// True if someone may want to have it read as text all the same.
    pub is_text: bool,
}

/// First bytes of files, and the nature of such a file.
const BINARY: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "compressed with gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it first (unzstd)"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first (unxz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"GGUF\x03\0", "a GGUF file, which is for llama.cpp"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
];
const POINTERS: [(&str, &str); 2] = [
    (
        "version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file that it stands for: fetch that with `git lfs pull`",
    ),
    (
        "/annex/objects/",
        "a git-annex pointer, not the file that it stands for: fetch that with `git annex get`",
    ),
];
const PAGES: [(&str, &str); 3] = [
    ("<!doctype html", "an HTML page, as a download that failed leaves one"),
    ("<html", "an HTML page, as a download that failed leaves one"),
    ("<?xml", "an XML text, as a download that failed leaves one"),
];

/// The nature of a file that begins so; `None` if nothing is known against it.
pub fn recognise(start: &[u8]) -> Option<Foreign> {
    let is = |what, is_text| Some(Foreign { what, is_text });
    if let Some((_, what)) = BINARY.iter().find(|(magic, _)| start.starts_with(magic)) {
        return is(what, false);
    }
    // A digit between the two.
    if start.starts_with(b"BZh") && start.get(4..10) == Some(b"1AY&SY") {
        return is("compressed with bzip2: unpack it first (bunzip2)", false);
    }
    // Cut within a character at the end, maybe.
    let start = &start[..start.len().min(ENOUGH)];
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if let Some((_, what)) = POINTERS.iter().find(|(words, _)| text.starts_with(words)) {
        return is(what, false);
    }
    let begins = |words: &str| text.get(..words.len()).is_some_and(|text| text.eq_ignore_ascii_case(words));
    PAGES.iter().find(|(words, _)| begins(words)).and_then(|(_, what)| is(what, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkpoint_and_no_text_is_called_what_it_is() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for (bytes, word, is_text) in [
            (&pointer[..], "Git LFS pointer", false),
            (b"/annex/objects/SHA256E-s1--0.pth\n", "git-annex pointer", false),
            (b"\n <!DOCTYPE HTML>\n<title>Log in</title>", "HTML page", true),
            (b"<html lang=\"en\">", "HTML page", true),
            (b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error>", "XML", true),
            (b"\x1f\x8b\x08\x00", "gzip", false),
            (b"BZh91AY&SY", "bzip2", false),
            (b"\xff\xfeh\0i\0", "UTF-16", false),
        ] {
            let found = recognise(bytes).unwrap();
            assert!(found.what.contains(word) && found.is_text == is_text, "{found:?}");
        }
        for bytes in [&b""[..], b"<", b"The <html> tag", b"PK\x03\x04", b"\x80\x02}", "é".as_bytes()] {
            assert_eq!(recognise(bytes), None);
        }
    }
}
