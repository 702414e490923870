//! Hands the versions of the engines that were built to the program, for its report.

fn main() {
    // That of the workspace.
    let lock = "../../Cargo.lock";
    println!("cargo::rerun-if-changed={lock}");
    let lock = std::fs::read_to_string(lock).expect("Cargo.lock, which cargo writes before it builds");
    for name in ["annulus", "sled", "fjall", "redb", "heed", "rocksdb"] {
        let entry = lock.split("[[package]]").find(|p| p.contains(&format!("\nname = \"{name}\"\n")));
        let version = entry
            .and_then(|e| e.lines().find_map(|l| l.strip_prefix("version = ")))
            .map_or("?", |v| v.trim_matches('"'));
        println!("cargo::rustc-env=VERSION_OF_{}={version}", name.to_uppercase());
    }
}
