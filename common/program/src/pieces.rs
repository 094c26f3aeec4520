//! Pieces of a file, as they travel: memory does not grow with the file.

use std::io::{self, Read};

/// Bytes of a piece, of all but the last.
const PIECE: usize = 256 * 1024;

/// Hands a file over in pieces, until its end or until `take` says that nobody wants more. There is one piece at least, so
/// that what is sent with the first goes out with an empty file, too.
///
/// # Errors
/// If it cannot be read.
pub fn in_pieces(mut file: impl Read, mut take: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    for piece in 0.. {
        let mut bytes = Vec::with_capacity(PIECE);
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
        if read == 0 && piece > 0 || !take(bytes) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(bytes: usize, wanted: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        let file = vec![7; bytes];
        in_pieces(&file[..], |piece| {
            sizes.push(piece.len());
            sizes.len() < wanted
        })
        .unwrap();
        sizes
    }

    #[test]
    fn all_pieces_but_the_last_are_of_one_size_and_there_is_one_at_least() {
        assert_eq!(sizes(0, 9), [0]);
        assert_eq!(sizes(PIECE, 9), [PIECE]);
        assert_eq!(sizes(2 * PIECE + 1, 9), [PIECE, PIECE, 1]);
        assert_eq!(sizes(2 * PIECE + 1, 1), [PIECE], "nobody listens any more");
    }
}
