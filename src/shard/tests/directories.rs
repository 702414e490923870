//! Whose a shard's directory is, and what is left of it.

use super::*;

#[test]
fn a_directory_of_another_shard_of_the_store_is_not_joined() {
    let world = World::new();
    let joins = |store, id| {
        let spec = ShardSpec { store, id, dir: world.spec.dir.clone(), ..world.spec.clone() };
        Shard::check_joinable(world.disk.as_ref(), &spec).map_err(|error| error.kind())
    };
    assert_eq!(joins(5, ID), Ok(()));
    assert_eq!(joins(5, ShardId(4)), Err(ErrorKind::Foreign));
    assert_eq!(joins(6, ID), Err(ErrorKind::Foreign));
    assert_eq!(joins(6, ShardId(4)), Err(ErrorKind::Foreign));
    let elsewhere = ShardSpec { dir: "/mnt/new".into(), id: ShardId(4), ..world.spec.clone() };
    Shard::check_joinable(world.disk.as_ref(), &elsewhere).unwrap();
    // The error says which shard it is, so that it can be found in the plan.
    let taken = ShardSpec { id: ShardId(4), ..world.spec.clone() };
    let error = Shard::check_joinable(world.disk.as_ref(), &taken).unwrap_err();
    assert!(error.to_string().contains("shard 3 of this store"), "{error}");
}

/// While it is open its directory becomes another's, by a seal or an identity that can be read.
#[test]
fn a_directory_that_has_become_anothers_is_told() {
    let (world, other) = (World::new(), World::new());
    let spec = ShardSpec { id: ShardId(4), dir: "/other".into(), ..other.spec.clone() };
    Shard::create(&other.disk, &other.factory, &spec, Seq::ZERO).unwrap();
    let ours = |name: &str| world.spec.dir.join(name);
    let take = |name: &str| {
        let bytes = other.disk.read(&spec.dir.join(name)).unwrap().unwrap();
        world.disk.replace(&ours(name), &bytes).unwrap();
    };
    let checked = || world.shard.check_ours().map_err(|error| error.kind());
    world.disk.remove_file(&ours("IDENTITY")).unwrap();
    assert_eq!(checked(), Ok(()));
    take("IDENTITY");
    assert_eq!(checked(), Ok(()), "its seal is there");
    take("SEAL");
    assert_eq!(checked(), Err(ErrorKind::Foreign));
    world.disk.remove_file(&ours("IDENTITY")).unwrap();
    assert_eq!(checked(), Ok(()), "a seal alone may have been swapped");
    world.disk.remove_file(&ours("SEAL")).unwrap();
    assert_eq!(checked(), Err(ErrorKind::NotFound));
    world.disk.replace(&ours("SEAL"), b"damaged").unwrap();
    assert_eq!(checked(), Ok(()), "it is written anew");
    world.disk.replace(&ours("IDENTITY"), b"damaged").unwrap();
    assert_eq!(checked(), Ok(()), "so are both");
    world.sim.inject(Fault::on(Operation::Read).at(|path| path.ends_with("IDENTITY")));
    assert_eq!(checked(), Err(ErrorKind::Io));
}

#[test]
fn clearing_a_shard_leaves_nothing_but_what_is_not_its_own() {
    let world = World::new();
    world.shard.close().unwrap();
    for name in ["engine-2", "engine-13", "quarantine-1", "quarantine-12", "SEAL.tmp", "notes"] {
        world.disk.replace(&world.spec.dir.join(name), b"here").unwrap();
    }
    let other = ShardSpec { id: ShardId(4), ..world.spec.clone() };
    assert_eq!(Shard::clear(world.disk.as_ref(), &other).unwrap_err().kind(), ErrorKind::Foreign);
    assert!(world.disk.list(&world.spec.dir).unwrap().len() > 6);
    for name in ["SEAL.tmp", "SEAL", "IDENTITY.tmp", "IDENTITY"] {
        // It is not known for what it is any more once the last of these has gone.
        let here = move |path: &Path| path.ends_with(name);
        world.sim.inject(Fault::on(Operation::Remove).at(here).times(1));
        assert_eq!(
            Shard::clear(world.disk.as_ref(), &world.spec).unwrap_err().kind(),
            ErrorKind::Io,
            "{name}"
        );
    }
    Shard::clear(world.disk.as_ref(), &world.spec).unwrap();
    assert_eq!(world.disk.list(&world.spec.dir).unwrap(), ["notes"]);
    Shard::clear(world.disk.as_ref(), &world.spec).unwrap();
}

#[test]
fn a_directory_is_claimed_where_nothing_can_be_lost() {
    let claim = |files: &[(&str, &[u8])], empty: bool| {
        let world = World::new();
        world.shard.close().unwrap();
        for name in world.disk.list(&world.spec.dir).unwrap() {
            world.disk.remove_file(&world.spec.dir.join(name)).unwrap();
        }
        for (name, bytes) in files {
            world.disk.replace(&world.spec.dir.join(name), bytes).unwrap();
        }
        let claimed = world.shard.claim(empty).map_err(|error| (error.kind(), error.to_string()));
        let identity = crate::shard::identity::Identity::load(world.disk.as_ref(), &world.spec.dir);
        assert_eq!(claimed.is_ok(), matches!(identity, Ok(Some(found)) if found.shard == ID));
        claimed
    };
    // Two damaged small files, or one of them.
    claim(&[("SEAL", b"damaged"), ("IDENTITY", b"damaged")], false).unwrap();
    claim(&[("SEAL", b"damaged")], false).unwrap();
    claim(&[("SEAL", b"damaged"), ("lost+found", b"")], false).unwrap();
    // A disk that is not mounted leaves an empty directory, which may be meant.
    assert_eq!(claim(&[], false).unwrap_err().0, ErrorKind::NotFound);
    assert_eq!(claim(&[("lost+found", b"")], false).unwrap_err().0, ErrorKind::NotFound);
    claim(&[], true).unwrap();
    for empty in [false, true] {
        let (kind, text) = claim(&[("SEAL", b"damaged"), ("notes", b"mine")], empty).unwrap_err();
        assert!(kind == ErrorKind::Foreign && text.contains("it holds notes"), "{text}");
    }
}

/// What a newer version has written, whenever it is found.
#[test]
fn an_identity_of_a_version_that_is_not_known_is_not_written_over() {
    use crate::manifest::{Manifest, ShardEntry};
    use crate::ring::{Member, Partitioner, Topology};
    let world = World::new();
    let path = world.spec.dir.join("IDENTITY");
    let topology = Topology::first(vec![Member::new(ID)], 1, 16, Partitioner::Whole).unwrap();
    let manifest = Manifest {
        store: world.spec.store,
        generation: 1,
        engine: "sled-0.34".into(),
        page_bytes: 4096,
        next_shard: 4,
        shards: vec![ShardEntry::new(ID, world.spec.dir.clone())],
        keyspaces: Vec::new(),
        next_keyspace: 1,
        topology,
        change: None,
        journals: Vec::new(),
        given_up: None,
    };
    let mut newer = world.disk.read(&path).unwrap().unwrap();
    newer[8] = 9;
    let crc = crc32fast::hash(&[&newer[8..16], &newer[20..]].concat());
    newer[16..20].copy_from_slice(&crc.to_le_bytes());
    world.disk.replace(&path, &newer).unwrap();
    assert_eq!(world.shard.renew(&manifest).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(world.disk.read(&path).unwrap(), Some(newer.clone()));
    world.shard.close().unwrap();
    let shard = Shard::open(&world.disk, &world.factory, &world.spec);
    assert!(matches!(shard.health(), Health::Offline(_)), "{}", shard.health());
    assert_eq!(world.disk.read(&path).unwrap(), Some(newer));
    // Only what is damaged is.
    world.disk.replace(&path, b"damaged").unwrap();
    let shard = Shard::open(&world.disk, &world.factory, &world.spec);
    assert_eq!(shard.health(), Health::Online);
    world.disk.replace(&path, b"damaged").unwrap();
    shard.renew(&manifest).unwrap();
    assert!(crate::shard::identity::Identity::load(world.disk.as_ref(), &world.spec.dir).unwrap().is_some());
}
