//! How often any two members own a virtual node together.
//!
//! When a member fails, its load falls on those that share virtual nodes with it, and they rebuild it. So whoever has
//! a choice prefers owners that share little so far, in relation to what their loads lead to expect.

use super::assignment::VACANT;

pub(super) struct Pairs {
    members: usize,
    together: Vec<u32>,
    /// For each member, the inverse of its load.
    rarity: Vec<u64>,
}

impl Pairs {
    /// `loads` is what the members hold when everything is placed.
    pub fn new(loads: &[u32]) -> Pairs {
        let rarity = loads.iter().map(|load| (1 << 26) / u64::from(*load).max(1)).collect();
        Pairs { members: loads.len(), together: vec![0; loads.len() * loads.len()], rarity }
    }

    /// How far `member` and the others (vacancies aside) have been owners together already.
    pub fn familiarity(&self, member: usize, others: &[u16]) -> u64 {
        let row = &self.together[member * self.members..][..self.members];
        let known = others.iter().filter(|other| **other != VACANT).map(|other| usize::from(*other));
        known.map(|other| u64::from(row[other]) * ((self.rarity[member] * self.rarity[other]) >> 13)).sum()
    }

    /// How much more the others share with `joining` than with `leaving`, which is one of them or nobody.
    pub fn gained(&self, leaving: usize, joining: usize, owners: &[u16]) -> i64 {
        let others = owners.iter().filter(|owner| usize::from(**owner) != leaving);
        others
            .map(|other| {
                let other = std::slice::from_ref(other);
                let lost = if leaving < self.members { self.familiarity(leaving, other) } else { 0 };
                self.familiarity(joining, other) as i64 - lost as i64
            })
            .sum()
    }

    /// Counts `member` as an owner beside the others.
    pub fn join(&mut self, member: usize, others: &[u16]) {
        self.count(member, others, 1);
    }

    /// Counts `member` as an owner beside the others no longer.
    pub fn part(&mut self, member: usize, others: &[u16]) {
        self.count(member, others, u32::MAX);
    }

    fn count(&mut self, member: usize, others: &[u16], change: u32) {
        for other in others.iter().filter(|other| **other != VACANT).map(|other| usize::from(*other)) {
            if other != member {
                for cell in [member * self.members + other, other * self.members + member] {
                    self.together[cell] = self.together[cell].wrapping_add(change);
                }
            }
        }
    }
}
