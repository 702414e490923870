//! Repositories in a server that speaks S3, over a socket, with signed requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../common/repositories.rs"]
mod repositories;

use annulus::{BackupRepository, ErrorKind, ObjectStorage, Storage};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use repositories::{CASES, Source, content};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A server with one bucket, until it is dropped.
struct Server {
    _dir: tempfile::TempDir,
    _runtime: Runtime,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("annulus", "secret"));
        let service = service.build();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let served = Builder::new(TokioExecutor::new());
                    // A client that goes away ends it.
                    let _ = served.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Server { _dir: dir, _runtime: runtime, address }
    }

    fn storage(&self, secret: &str) -> ObjectStorage {
        let endpoint = format!("http://{}", self.address);
        let options = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("region", "us-east-1"),
            ("access_key_id", "annulus"),
            ("secret_access_key", secret),
        ];
        ObjectStorage::parse("s3://bucket/backups/orders", options).unwrap()
    }
}

#[test]
fn every_case_holds_in_s3() {
    for (name, case) in CASES {
        eprintln!("{name}");
        let server = Server::start();
        case(&|| Arc::new(server.storage("secret")) as Arc<dyn Storage>);
    }
}

#[test]
fn a_blocking_call_within_a_runtime_is_just_a_call() {
    let server = Server::start();
    let source = Source::new(200);
    let runtimes = [
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
    ];
    for runtime in runtimes {
        runtime.block_on(async {
            let repo = BackupRepository::open_with(Arc::new(server.storage("secret"))).unwrap();
            let id = source.store.checkpoint(&repo).unwrap();
            assert!(repo.verify(id).unwrap().is_whole());
            assert_eq!(source.restored(&repo, id), content(&source.store));
        });
    }
}

#[test]
fn a_wrong_key_is_told_with_what_to_do_and_where() {
    let server = Server::start();
    let error = BackupRepository::open_with(Arc::new(server.storage("wrong"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.path().unwrap().starts_with("s3://bucket/backups/orders"), "{error}");
    assert!(error.advice().unwrap().contains("credentials"), "{error}");
}
