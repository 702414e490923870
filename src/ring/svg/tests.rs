//! Pictures are valid, complete and small.

use super::circle::{Detail, runs};
use crate::ids::ShardId;
use crate::ring::{Member, Next, Partitioner, Ring};
use proptest::prelude::*;

fn members(shards: u32, zones: u32) -> Vec<Member> {
    let zone = |id: u32| format!("disk <{}> & \"co\"\u{1}", id % zones);
    (0..shards).map(|id| Member::new(ShardId(id)).zone(zone(id))).collect()
}

fn ring(shards: u32, zones: u32, replicas: usize, virtual_nodes: u32) -> Ring {
    Ring::plan(members(shards, zones), replicas, virtual_nodes, Partitioner::Whole).unwrap()
}

/// Every tag is closed in order, every entity known, every character allowed.
fn assert_valid(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        assert_text(&rest[..at]);
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert_text(tag);
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert_text(rest);
    assert!(open.is_empty(), "{open:?}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    for foreign in ["script", "href", "url(", "@import"] {
        assert!(!svg.contains(foreign), "{foreign}");
    }
}

fn assert_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let entity = text[at + 1..].split(';').next().unwrap();
        assert!(["amp", "lt", "gt", "quot", "apos"].contains(&entity), "{entity}");
    }
    assert!(text.chars().all(|c| c == '\n' || c >= ' '), "{text:?}");
}

#[test]
fn pictures_are_valid_complete_and_small() {
    for (shards, zones, replicas, virtual_nodes) in [
        (1, 1, 1, 16),
        (2, 2, 1, 16),
        (3, 1, 3, 1024),
        (12, 3, 2, 1024),
        (64, 8, 3, 16384),
        (64, 64, 16, 4096),
        (1000, 7, 3, 16_384),
    ] {
        let before = ring(shards, zones, replicas, virtual_nodes);
        let after = before.replan(members(shards + 1, zones), replicas).unwrap();
        let (still, moving) = (before.to_svg(), before.to_svg_of_moves(&after).unwrap());
        for (svg, members) in [(&still, shards), (&moving, shards + 1)] {
            assert_valid(svg);
            for id in 0..members {
                assert!(svg.contains(&format!(">shard {id}<")), "shard {id} of {members}");
            }
            let most = 300_000 + 1000 * members as usize;
            assert!(
                svg.len() < most,
                "{} bytes for {shards} shards, {virtual_nodes} virtual nodes",
                svg.len()
            );
        }
        assert_eq!(still, before.to_svg(), "the same ring, the same picture");
    }
}

#[test]
fn zones_are_named_and_moves_counted() {
    let before = ring(8, 2, 2, 256);
    let svg = before.to_svg();
    assert!(svg.contains("zone disk &lt;1&gt; &amp; &quot;co&quot;\u{fffd}"), "{svg}");
    let after =
        before.replan_with(Next { virtual_nodes: 512, members: members(9, 2), ..before.next() }).unwrap();
    let moves = before.moves_to(&after).unwrap();
    let copies: usize = moves.iter().map(|step| step.gained.len()).sum();
    let svg = before.to_svg_of_moves(&after).unwrap();
    assert_valid(&svg);
    assert!(svg.contains(&format!(">{copies} copies<")));
    assert!(svg.contains(&format!("at {} of 512 virtual nodes", moves.len())));
    // From more virtual nodes to fewer nothing can be drawn, nor planned.
    assert!(after.to_svg_of_moves(&before).is_err());
    // A next ring that is the same moves nothing.
    let same = before.replan(before.members().to_vec(), 2).unwrap();
    assert_valid(&before.to_svg_of_moves(&same).unwrap());
}

proptest! {
    #[test]
    fn arcs_cover_the_circle_in_proportion(
        colours in prop::collection::vec(0_u8..20, 1..3000),
        budget in 20_usize..2000,
    ) {
        let runs = runs(&colours, 20, Detail { arcs: budget, sectors: 64 });
        prop_assert_eq!(runs[0].start, 0);
        prop_assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].colour != pair[1].colour));
        prop_assert_eq!(runs[runs.len() - 1].end, colours.len() as u64);
        prop_assert!(runs.len() <= budget.max(20), "{} arcs", runs.len());
        for colour in 0..20 {
            let drawn: u64 = runs.iter().filter(|run| run.colour == colour).map(|run| run.end - run.start).sum();
            prop_assert_eq!(drawn, colours.iter().filter(|other| **other == colour).count() as u64);
        }
    }
}
