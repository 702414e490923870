//! Damage that is met by an older placement, and put right when another has taken its place.

use super::*;
use crate::state::transfer::verify_and_mend;

fn internal(key: &[u8]) -> Vec<u8> {
    [&0_u32.to_be_bytes()[..], key].concat()
}

/// What a shard that still serves has lost by the change is no longer flushed to it: a page of another is not put right with that.
#[test]
fn a_page_is_not_mended_from_one_that_owned_it_before() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    let new = ShardOptions::new("/mnt/new").weight(2.0);
    store.apply(store.plan().add_shard(new).preview().unwrap()).unwrap();
    let before = state(&store).layout();
    step_to(&store, Phase::Cleaning);
    let after = state(&store).layout();
    let owners =
        |ring: &crate::ring::Ring, key: &[u8]| -> Vec<ShardId> { ring.preference_list(key).to_vec() };
    let has_left = |n: &u32| {
        let (old, new) = (owners(&before.ring, &key(*n)), owners(&after.ring, &key(*n)));
        old.iter().filter(|shard| new.contains(shard)).count() == 1
    };
    let n = (0..KEYS).find(has_left).unwrap();
    let (old, new) = (owners(&before.ring, &key(n)), owners(&after.ring, &key(n)));
    let stays = *old.iter().find(|shard| new.contains(shard)).unwrap();
    let left = *old.iter().find(|shard| **shard != stays).unwrap();
    assert!(after.ring.members().iter().any(|member| member.id == left));
    remove(&store, &mut content, n);
    store.flush().unwrap();
    assert!(held(&store, left).iter().any(|(held, _)| *held == key(n)), "it is yet to be removed there");
    world.factory.corrupt(stays, &internal(&key(n)));
    let index = before.index_of(stays).unwrap();
    let mended = verify_and_mend(state(&store), &before, index, &[]).unwrap();
    assert_eq!((mended.repaired, mended.left), (1, 0));
    assert_eq!(store.get(key(n)).unwrap(), None);
    drop((before, after));
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// The same where the shard itself gains what its page holds, by a change that has begun since.
#[test]
fn a_page_that_is_mended_keeps_what_its_shard_has_gained_meanwhile() {
    let world = World::new();
    let (store, content) = world.filled(2);
    let before = state(&store).layout();
    drain(&store, LAST);
    while !state(&store).change.mover.lock().compared {
        assert!(testing::change_step(&store).unwrap());
    }
    let layout = state(&store).layout();
    let gains = |n: u32, index: usize| layout.gains(index, layout.ring.position(key(n)));
    let found = (0..KEYS).find_map(|n| (0..3).find(|index| gains(n, *index)).map(|index| (n, index)));
    let (n, index) = found.unwrap();
    let gaining = layout.shards[index].id;
    world.factory.corrupt(gaining, &internal(&key(n)));
    verify_and_mend(state(&store), &before, index, &[]).unwrap();
    drop((before, layout));
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A reader that has taken its bearings and is held up, while its shard loses the record by a change and a damaged page of it is put right: that
/// page has only what the shard still owns then.
#[test]
fn a_reader_by_an_older_placement_finds_what_a_mended_page_no_longer_has() {
    let world = World::new();
    let (store, content) = world.filled(2);
    let plan = store.plan().add_shard(ShardOptions::new("/mnt/new").weight(20.0)).preview().unwrap();
    let plan = plan.accept_problems();
    let leaves = |n: &u32| {
        let node = store.ring().virtual_node(key(*n));
        store.ring().preference_list(key(*n))[0] == LAST
            && plan.moves().iter().any(|m| m.virtual_node == node && m.lost.contains(&LAST))
    };
    let n = (0..KEYS).find(leaves).unwrap();
    store.apply(plan.clone()).unwrap();
    world.gates.shut(LAST, At::Get);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| store.get(key(n)).unwrap());
        world.gates.arrived(LAST, At::Get);
        step_to(&store, Phase::Cleaning);
        world.factory.corrupt(LAST, &internal(&key(n)));
        let layout = state(&store).layout();
        let index = layout.index_of(LAST).unwrap();
        assert_eq!(verify_and_mend(state(&store), &layout, index, &[]).unwrap().repaired, 1);
        world.gates.open(LAST, At::Get);
        assert_eq!(reader.join().unwrap().as_deref(), Some(&b"first"[..]));
    });
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}
