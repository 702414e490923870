//! The tests of repositories on object storage: `tests/s3.rs` against a server that speaks S3, `tests/faults.rs` against storage that fails.
