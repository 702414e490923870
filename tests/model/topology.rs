//! Changes of the topology in the model: what may be wished for, and what must hold of the shards afterwards.

use super::*;
use annulus::{ErrorKind, Health, KeyspaceId, Phase, Planner, ShardId, ShardOptions, ShardRole};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub enum Wish {
    Add { zone: u8, weight: u8 },
    Weight(u8, u8),
    Zone(u8, u8),
    Drain(u8),
    Replace(u8),
    Replicas(u8),
    Double,
}

pub fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        4 => (0..3u8, 1..4u8).prop_map(|(zone, weight)| Wish::Add { zone, weight }),
        2 => (any::<u8>(), 1..5u8).prop_map(|(shard, weight)| Wish::Weight(shard, weight)),
        1 => (any::<u8>(), 0..3u8).prop_map(|(shard, zone)| Wish::Zone(shard, zone)),
        3 => any::<u8>().prop_map(Wish::Drain),
        3 => any::<u8>().prop_map(Wish::Replace),
        3 => (1..=3u8).prop_map(Wish::Replicas),
        1 => Just(Wish::Double),
    ]
}

impl World {
    fn wished(&mut self, wishes: &[Wish]) -> Planner {
        let mut members: Vec<ShardId> = self.store().ring().members().iter().map(|m| m.id).collect();
        let mut planner = self.store().plan();
        for wish in wishes {
            let pick = |n: &u8, members: &[ShardId]| members[usize::from(*n) % members.len()];
            let mut new_dir = || {
                self.added += 1;
                ShardOptions::new(format!("/added/{}", self.added))
            };
            planner = match wish {
                Wish::Add { zone, weight } => {
                    planner.add_shard(new_dir().zone(format!("z{zone}")).weight(f64::from(*weight)))
                }
                Wish::Weight(n, weight) => planner.set_weight(pick(n, &members), f64::from(*weight)),
                Wish::Zone(n, zone) => planner.set_zone(pick(n, &members), format!("z{zone}")),
                Wish::Drain(n) if members.len() > 1 => {
                    let shard = pick(n, &members);
                    members.retain(|id| *id != shard);
                    planner.drain_shard(shard)
                }
                Wish::Replace(n) if members.len() > 1 => {
                    let shard = pick(n, &members);
                    members.retain(|id| *id != shard);
                    planner.replace_shard(shard, new_dir())
                }
                Wish::Drain(_) | Wish::Replace(_) => planner,
                Wish::Replicas(replicas) => planner.set_replication_factor(usize::from(*replicas)),
                Wish::Double if self.store().ring().virtual_nodes() < 256 => {
                    planner.set_virtual_nodes(self.store().ring().virtual_nodes() * 2)
                }
                Wish::Double => planner,
            };
        }
        planner
    }

    pub fn change(&mut self, wishes: &[Wish]) {
        let planner = self.wished(wishes);
        let plan = match planner.preview() {
            Ok(plan) => plan.accept_problems(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                assert!(self.store().change().is_some());
                return;
            }
        };
        let offline = self.lost > 0;
        match self.store().apply(plan) {
            // It flushes first.
            Ok(_) => (self.process, self.synced) = (self.log.len(), self.log.len()),
            Err(error) => {
                let expected = matches!(error.kind(), ErrorKind::Busy)
                    || offline && matches!(error.kind(), ErrorKind::Unavailable);
                assert!(expected, "{error}");
                // The flush that comes first may have been all that was done.
                self.process = self.log.len();
                self.synced = self.log.len();
            }
        }
    }

    pub fn change_steps(&mut self, count: u8) {
        for _ in 0..count {
            match testing::change_step(self.store()) {
                Ok(true) if count.is_multiple_of(2) => self.check_complete(),
                Ok(true) => {}
                Ok(false) => {
                    if self.store().change().is_none() {
                        self.check_settled();
                    }
                    return;
                }
                Err(error) => {
                    assert!(self.lost > 0, "{error}");
                    return;
                }
            }
        }
    }

    pub fn cancel_change(&mut self) {
        if let Some(change) = self.store().change() {
            match change.cancel() {
                Ok(()) => assert_eq!(change.wait().unwrap(), Phase::Cancelled),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                    assert_eq!(change.progress().phase, Phase::Cleaning);
                }
            }
        }
    }

    pub fn drop_retired(&mut self) {
        for shard in self.store().topology().shards {
            let dropped = self.store().drop_shard(shard.id);
            match (shard.role, dropped) {
                (ShardRole::Retired, Ok(())) => {}
                (ShardRole::Retired, Err(error)) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                (_, dropped) => assert_eq!(dropped.unwrap_err().kind(), ErrorKind::InvalidInput),
            }
        }
    }

    /// Lets what is under way come to its end, and looks at the outcome.
    pub fn settle_change(&mut self) {
        self.iters.clear();
        let mut steps = 0;
        while testing::change_step(self.store()).unwrap() {
            steps += 1;
            assert!(steps < 10_000, "it does not come to an end");
        }
        assert!(self.store().change().is_none());
        self.check_settled();
        self.check_all();
    }

    /// In the middle of a change, too, each record is on all its owners in its newest version, as far as shards serve.
    fn check_complete(&mut self) {
        let store = self.store().clone();
        let ring = store.ring();
        ring.check().unwrap();
        if self.lost > 0 {
            return;
        }
        store.flush().unwrap();
        (self.process, self.synced) = (self.log.len(), self.log.len());
        let content = self.content(0);
        for member in ring.members() {
            let held: BTreeMap<_, _> =
                testing::held_by(&store, KeyspaceId(0), member.id).unwrap().into_iter().collect();
            for (key, (_, seq)) in &content {
                if ring.preference_list(key).contains(&member.id) {
                    assert_eq!(held.get(key), Some(seq), "shard {}, key {key:02x?}", member.id);
                }
            }
        }
    }

    /// Each record is on all its owners in its newest version and nowhere else, as far as shards serve.
    fn check_settled(&mut self) {
        let store = self.store().clone();
        let ring = store.ring();
        ring.check().unwrap();
        let topology = store.topology();
        let members: BTreeSet<ShardId> = ring.members().iter().map(|m| m.id).collect();
        let in_ring = topology.shards.iter().filter(|s| s.role == ShardRole::Member).map(|s| s.id).collect();
        assert_eq!(members, in_ring);
        if self.lost > 0 {
            return;
        }
        store.flush().unwrap();
        (self.process, self.synced) = (self.log.len(), self.log.len());
        for shard in store.stats().unwrap().shards {
            assert_eq!(shard.health, Health::Online);
            let held = testing::held_by(&store, KeyspaceId(0), shard.id).unwrap();
            let owned = |key: &&Vec<u8>| ring.preference_list(key).contains(&shard.id);
            let content = self.content(0);
            let expected: Vec<(Vec<u8>, Seq)> =
                content.keys().filter(owned).map(|key| (key.clone(), content[key].1)).collect();
            assert_eq!(held, expected, "shard {}", shard.id);
        }
    }
}
