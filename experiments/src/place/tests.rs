use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// A folder with files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.at(name), bytes).unwrap();
        self.at(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn refused(path: &Path, made: Made, inputs: &[&Path], force: bool) -> String {
    OutputPlace::new(path, made, inputs, force).unwrap_err().to_string()
}

#[test]
fn what_is_read_is_not_written_to_by_whatever_name() {
    let folder = Folder::new();
    let input = folder.file("input", "stage,candidate,");
    symlink(&input, folder.at("link")).unwrap();
    symlink(folder.at("link"), folder.at("link-to-link")).unwrap();
    std::fs::hard_link(&input, folder.at("hard")).unwrap();
    for name in ["input", "link", "link-to-link", "hard", "./input"] {
        let words = refused(&folder.at(name), Made::Csv, &[&input], true);
        assert!(words.contains(": is read by this command (") && words.contains("/input)"), "{words}");
    }
    // Not there yet, and by way of a linked folder.
    std::fs::create_dir(folder.at("sub")).unwrap();
    symlink(folder.at("sub"), folder.at("sub-link")).unwrap();
    let new = folder.at("sub/new");
    assert!(
        refused(&folder.at("sub-link/new"), Made::Csv, &[&new], true).contains("is read by this command")
    );
    assert!(OutputPlace::new(&folder.at("other"), Made::Csv, &[&input, &new], false).is_ok());
}

#[test]
fn a_file_that_is_kept_is_replaced_by_force_alone() {
    let folder = Folder::new();
    let packed = folder.file("p", b"\x20\0\0\0\0\0\0\0{\"__metadata__\":{\"qslm.manifest\":\"{}\"}");
    let words = OutputPlace::kept(&packed, Made::Packed, &[], false).unwrap_err().to_string();
    assert!(words.ends_with("/p: is there already; --force replaces it"), "{words}");
    assert!(OutputPlace::kept(&packed, Made::Packed, &[], true).is_ok());
    assert!(OutputPlace::kept(&folder.at("new"), Made::Packed, &[], false).is_ok());
    assert!(OutputPlace::kept(&folder.file("empty", ""), Made::Packed, &[], false).is_ok());
}

#[test]
fn a_file_that_was_put_in_the_place_of_the_unfinished_one_has_the_permissions_of_any_new_file() {
    let folder = Folder::new();
    let usual = folder.file("usual", "");
    let place = OutputPlace::new(&folder.at("out"), Made::Front, &[], false).unwrap();
    let unfinished = place.start().unwrap();
    // As writers do that write beside and rename.
    let private = folder.file("private", "{}");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(private, unfinished.path()).unwrap();
    unfinished.finish().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&folder.at("out")), mode(&usual));
}

#[test]
fn only_what_a_command_wrote_before_is_replaced_and_inputs_of_anybody_never() {
    let folder = Folder::new();
    let store = folder.file("s", b"redb\x1A\x0A\xA9\x0D\x0A...");
    let model = folder.file("m", b"\x20\0\0\0\0\0\0\0{\"emb.weight\":");
    let zip = folder.file("z", b"PK\x03\x04...");
    let study = folder.file("d", b"SQLite format 3\0...");
    for (path, what) in
        [(&store, "a store"), (&model, "a checkpoint"), (&zip, "a checkpoint"), (&study, "a database")]
    {
        for force in [false, true] {
            assert!(
                refused(path, Made::Page, &[], force).contains(&format!("is {what}; write somewhere else"))
            );
        }
    }
    let text = folder.file("t", "name = \"x\"");
    let words = refused(&text, Made::Page, &[], false);
    assert!(words.ends_with("t: is there already and is no report; --force replaces it"), "{words}");
    assert!(OutputPlace::new(&text, Made::Page, &[], true).is_ok());
    for (made, start) in [
        (Made::Page, &b"<!doctype html>"[..]),
        (Made::Packed, b"\x20\0\0\0\0\0\0\0{\"__metadata__\":{\"qslm.manifest\":\"{}\"}"),
        (Made::Csv, b""),
    ] {
        let path = folder.file("made", start);
        OutputPlace::new(&path, made, &[], false).unwrap().write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
    assert!(refused(folder.0.path(), Made::Page, &[], true).ends_with(": is a folder"));
}

#[test]
fn links_and_modes_stay_and_nothing_is_left_beside() {
    let folder = Folder::new();
    let file = folder.file("file", "<!doctype html>old");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    symlink("file", folder.at("link")).unwrap();
    symlink("new", folder.at("dangling")).unwrap();
    OutputPlace::new(&folder.at("link"), Made::Page, &[], false).unwrap().write(b"new").unwrap();
    OutputPlace::new(&folder.at("dangling"), Made::Page, &[], false).unwrap().write(b"newer").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"new");
    assert_eq!(std::fs::read(folder.at("new")).unwrap(), b"newer");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    // A new file is what the process makes of new files.
    let usual = folder.file("usual", "");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
    assert_eq!(mode(&folder.at("new")), mode(&usual));
    // One that is not finished is as if it had never been.
    let place = OutputPlace::new(&file, Made::Page, &[], true).unwrap();
    let (mut to, unfinished) = place.writer().unwrap();
    to.write_all(b"half").unwrap();
    drop(unfinished);
    assert_eq!(std::fs::read(&file).unwrap(), b"new");
    assert_eq!(folder.names(), ["dangling", "file", "link", "new", "usual"]);
}

#[test]
fn a_vacant_place_is_one_where_nothing_is_when_the_file_is_finished_either() {
    let folder = Folder::new();
    symlink("nowhere", folder.at("link")).unwrap();
    for name in ["link", "file"] {
        if name == "file" {
            folder.file(name, "mine");
        }
        let words = OutputPlace::vacant(&folder.at(name), Made::Spec, &[], false).unwrap_err().to_string();
        assert!(words.ends_with(": is there already"), "{words}");
    }
    let place = OutputPlace::vacant(&folder.at("new"), Made::Spec, &[], false).unwrap();
    folder.file("new", "somebody else's");
    assert!(place.write(b"ours").unwrap_err().to_string().ends_with("new: is there already"));
    assert_eq!(std::fs::read(folder.at("new")).unwrap(), b"somebody else's");
    OutputPlace::vacant(&folder.at("new"), Made::Spec, &[], true).unwrap().write(b"ours").unwrap();
    assert_eq!(std::fs::read(folder.at("new")).unwrap(), b"ours");
}
