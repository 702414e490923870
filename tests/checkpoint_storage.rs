//! The same repository wherever it lies. A server that speaks S3, and storages that fail: tests/objects, a package of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/repositories.rs"]
mod repositories;

use annulus::testing::RealDisk;
use annulus::{BackupRepository, DirStorage, ErrorKind, Storage};
use repositories::CASES;
use std::sync::Arc;

#[test]
fn in_a_directory() {
    for (name, case) in CASES {
        eprintln!("{name}");
        let dir = tempfile::tempdir().unwrap();
        case(&|| Arc::new(DirStorage::new(Arc::new(RealDisk), dir.path().join("repo"))) as Arc<dyn Storage>);
    }
}

#[test]
fn an_address_is_not_taken_for_a_directory() {
    for address in ["s3://bucket/orders", "hdfs://namenode/orders", "file:///tmp/orders"] {
        let error = BackupRepository::open(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.advice().is_some(), "{error}");
    }
    assert!(!std::path::Path::new("s3:").exists());
}

mod object_store {
    use super::*;
    use annulus::ObjectStorage;
    use annulus::object_store::ObjectStore;
    use annulus::object_store::local::LocalFileSystem;
    use annulus::object_store::memory::InMemory;

    fn run(new: impl Fn() -> Arc<dyn ObjectStore>) {
        for (name, case) in CASES {
            for prefix in ["", "backups/orders"] {
                eprintln!("{name} in {prefix:?}");
                let store = new();
                let beside = ObjectStorage::new(store.clone(), "backups/orders2").unwrap();
                beside.write("objects/a/1", b"beside").unwrap();
                // Where it begins at the top, the other is below it and not to be seen.
                case(&|| Arc::new(ObjectStorage::new(store.clone(), prefix).unwrap()) as Arc<dyn Storage>);
                assert_eq!(beside.read("objects/a/1").unwrap().as_deref(), Some(&b"beside"[..]));
                assert_eq!(beside.list("objects/a/").unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn in_memory() {
        run(|| Arc::new(InMemory::new()));
    }

    #[test]
    fn in_a_directory_by_the_same_way() {
        let dir = tempfile::tempdir().unwrap();
        run(|| {
            let dir = tempfile::tempdir_in(dir.path()).unwrap().keep();
            Arc::new(LocalFileSystem::new_with_prefix(dir).unwrap().with_fsync(true))
        });
    }
}
