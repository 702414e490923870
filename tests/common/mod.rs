//! What several tests need.

use std::path::Path;

/// Puts a copy of the directory `from` in the place of `to`. Of an open store without the files that go or get another name meanwhile, as
/// its journal's spare segments do.
pub fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            match std::fs::copy(&path, &target) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                done => _ = done.unwrap(),
            }
        }
    }
}
