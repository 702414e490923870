#[test] fn x() { let _ = s3s_fs::FileSystem::new("/tmp"); }
