//! What was to be given up, and came to nothing since the copies turned up again before it counted: it never comes to count after that.

use super::losing::{come_back, lost, remove};
use super::*;

fn operations(world: &World, options: &Options) -> u64 {
    let undisturbed = world.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(options));
    undisturbed.disk.operations() - before
}

/// Each opening with the copies stops at one operation after the other; the next one has all that was acknowledged, and its numbers go on.
fn nothing_comes_to_count(world: &World, all: &World, when: &str) {
    for again in 0..operations(world, &world.options) {
        let mut twice = world.fork();
        twice.disk.stop_after(again);
        let opened = twice.open(&twice.options);
        twice.kill(opened);
        let when = format!("{when}, and at {again}");
        let store = twice.open(&twice.options).unwrap_or_else(|e| panic!("{when}: {e}"));
        for (key, value) in &all.model {
            assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_bytes()), "{when}: {key}");
        }
        let next = store.insert_with("next", "one", Durability::Sync).unwrap();
        assert!(next < Seq(1 << 32), "{when}: {next}");
    }
}

#[test]
fn a_loss_that_came_to_nothing_never_comes_to_count_wherever_an_opening_stops() {
    let (lost, all, away) = lost(&["/a", "/b"], 2);
    let accepted = lost.options.clone().accept_journal_loss(true);
    let mut passed_over = 0;
    for stop in 0..operations(&lost, &accepted) {
        let mut world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&accepted);
        world.kill(opened);
        come_back(&world.disk, &away);
        world.disk = world.disk.kill();
        let is_back = |store: Store| store.get("59").unwrap().is_some();
        if world.fork().open(&world.options).is_ok_and(is_back) {
            passed_over += 1;
            // Of those in between each is as another before.
            if stop % 8 == 0 || openings::more() > 1 {
                nothing_comes_to_count(&world, &all, &format!("stopped at {stop}"));
            }
        }
    }
    assert!(passed_over > 8, "{passed_over}");
}

#[test]
fn an_acceptance_that_came_to_nothing_never_comes_to_count_wherever_an_opening_stops() {
    let (lost, all, away) = given_up();
    let mut passed_over = 0;
    for stop in 0..operations(&lost, &lost.accepted()) {
        let mut world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&lost.accepted());
        world.kill(opened);
        // The one that was accepted, which may have a word of it, is away in its turn.
        put_back(&world.disk, &away);
        remove(&world.disk, "/b");
        world.disk = world.disk.kill();
        let alone = world.fork();
        let Ok(store) = alone.open(&alone.options) else { break };
        let next = store.insert_with("next", "one", Durability::Sync).unwrap();
        if next >= Seq(1 << 32) {
            break;
        }
        passed_over += 1;
        if stop % 4 == 0 || openings::more() > 1 {
            nothing_comes_to_count(&world, &all, &format!("stopped at {stop}"));
        }
    }
    assert!(passed_over > 4, "{passed_over}");
}

/// The store's directory does not say any more that something was accepted before: what the copies say of it is no sign of this loss.
#[test]
fn the_words_of_an_earlier_acceptance_do_not_make_a_loss_count() {
    let (mut world, store) = World::new(2);
    world.fill(&store, 0..50, "flushed");
    store.flush().unwrap();
    world.leave_b_behind();
    store.insert_with("given up", "on one alone", Durability::Sync).unwrap();
    world.kill(store);
    world.take_a_away();
    let store = world.open(&world.accepted()).unwrap();
    testing::mend(&store);
    assert_eq!(good(&store.stats().unwrap()), [true, true]);
    world.fill(&store, 50..60, "in the journal alone");
    world.kill(store);
    let all = world.fork();
    let of_copies = |path: &Path| path.starts_with("/a") || path.starts_with("/b");
    let away: Vec<_> = world.disk.files().into_iter().filter(|(path, _)| of_copies(path)).collect();
    ["/a", "/b"].iter().for_each(|dir| remove(&world.disk, dir));
    world.disk.remove_file(Path::new("/store/MIRRORS")).unwrap();
    world.disk.sync_dir(Path::new("/store")).unwrap();
    world.disk = world.disk.kill();
    let accepted = world.options.clone().accept_journal_loss(true);
    let mut not_begun = 0;
    for stop in 0..operations(&world, &accepted) {
        let mut world = world.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&accepted);
        world.kill(opened);
        come_back(&world.disk, &away);
        world.disk = world.disk.kill();
        // From the word there on what was accepted counts.
        if world.disk.exists(Path::new("/store/MIRRORS")).unwrap() {
            continue;
        }
        not_begun += 1;
        let store = world.open(&world.options).unwrap_or_else(|e| panic!("stopped at {stop}: {e}"));
        for (key, value) in &all.model {
            assert_eq!(
                store.get(key).unwrap().as_deref(),
                Some(value.as_bytes()),
                "stopped at {stop}: {key}"
            );
        }
    }
    assert!(not_begun > 8, "{not_begun}");
}

/// What an opening that passed the acceptance over has left there is of a later age: words above it would be those of another such opening.
#[test]
fn an_acceptance_that_is_gone_on_with_takes_in_no_directory_with_a_later_word() {
    let (lost, _, away) = given_up();
    let (named, word) = (lost.options.clone().journal_dirs([PathBuf::from("/e")]), Path::new("/e/MIRRORS"));
    let mut gone_on = 0;
    for stop in 0..operations(&lost, &lost.accepted()) {
        let mut world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&world.accepted());
        world.kill(opened);
        // Only while a word says that it goes on, and what it keeps is not yet begun.
        let segments = |name: &String| name.ends_with(".seg");
        let before = lost.disk.list(Path::new("/b")).unwrap().into_iter().filter(segments).count();
        let now = world.disk.list(Path::new("/b")).unwrap().into_iter().filter(segments).count();
        if gone_on == 2 || now != before || world.fork().open(&world.options).is_err() {
            continue;
        }
        let passing = world.fork();
        put_back(&passing.disk, &away);
        remove(&passing.disk, "/b");
        let mut later = Vec::new();
        for again in 0..operations(&passing, &named) {
            let mut passing = passing.fork();
            passing.disk.stop_after(again);
            let opened = passing.open(&named);
            passing.kill(opened);
            if passing.disk.exists(word).unwrap() {
                let of_e = passing.disk.files().into_iter().filter(|(path, _)| path.starts_with("/e"));
                later = of_e.collect();
                break;
            }
        }
        if later.is_empty() {
            continue;
        }
        world.disk.create_dir_durably(Path::new("/e")).unwrap();
        later.iter().for_each(|(path, bytes)| world.disk.replace(path, bytes).unwrap());
        let when = format!("stopped at {stop}");
        let error = world.fork().open(&named).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{when}: {error}");
        gone_on += 1;
        let store = world.open(&world.options).unwrap_or_else(|e| panic!("{when}: {e}"));
        world.check(&store, &when);
        world.kill(store);
        world.options = named.clone();
        let store = world.open(&named).unwrap_or_else(|e| panic!("{when}, named again: {e}"));
        world.check(&store, &when);
        world.goes_on(store, &when);
    }
    assert!(gone_on > 0);
}
