//! The lock of a repository on object storage: a lease. See "The lock on object storage" in docs/FORMAT.md.
//!
//! Object storage knows no processes, so whoever writes says again and again that it lives. Invariants:
//! - A lock object's number is made once, by a put that fails where there is one. The highest number is the lock; it is never
//!   deleted; who has not made it does not hold it.
//! - A number is passed over only if it was given back, or by the storage's own clock nothing was heard of its holder for the lease and
//!   half of it again. The holder counts from before it asked, so it gives up first.

use crate::backup::hash::kind;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Where locks lie.
pub const LOCKS: &str = "lock/";
/// Written to learn what time it is in the storage.
pub const NOW: &str = "lock/now";

/// What a lease may be.
pub const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(600);

const KIND: Kind =
    kind(b"ANNULUSL", "lock", "it is passed over when it has not changed for a quarter of an hour");

/// What a lock object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Tells this holder from all others.
    #[serde(with = "hex128")]
    pub holder: u128,
    /// For people.
    pub who: String,
    /// Milliseconds.
    pub lease: u64,
    pub released: bool,
}

impl Lock {
    pub fn name(number: u64) -> String {
        format!("{LOCKS}{number:016x}")
    }

    /// The number that a name is of, if it is a lock's.
    pub fn number(name: &str) -> Option<u64> {
        let number = u64::from_str_radix(name.strip_prefix(LOCKS)?, 16).ok()?;
        (Lock::name(number) == name).then_some(number)
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        envelope::encode(KIND, self)
    }

    /// Reads a lock. A damaged one counts as held by somebody with the longest lease; another release's is an error.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Lock> {
        match envelope::decode::<Lock>(KIND, path, bytes) {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                log::warn!("{error}");
                let lease = LEASES.end().as_millis() as u64;
                Ok(Lock {
                    holder: 0,
                    who: "somebody whose lock is damaged".to_owned(),
                    lease,
                    released: false,
                })
            }
            lock => lock,
        }
    }

    /// For how long nothing is heard of a holder before it is passed over.
    pub fn patience(&self) -> Duration {
        let lease = Duration::from_millis(self.lease).clamp(*LEASES.start(), *LEASES.end());
        lease + lease / 2
    }

    /// Whether it may be passed over: it was last written at `written`, and it was `now` before that was asked for, both by the storage's
    /// clock.
    pub fn is_over(&self, written: SystemTime, now: SystemTime) -> bool {
        self.released || now.duration_since(written).is_ok_and(|age| age > self.patience())
    }
}

/// Who this process is, for people.
pub fn who() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("process {}", std::process::id()),
        host => format!("process {} on {host}", std::process::id()),
    }
}

/// A moment until which a lease is good, by two clocks: one of them goes on while the machine sleeps, the other does not jump.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    steady: Instant,
    wall: SystemTime,
}

impl Until {
    pub fn after(lease: Duration) -> Until {
        Until { steady: Instant::now() + lease, wall: SystemTime::now() + lease }
    }

    pub fn is_past(&self) -> bool {
        Instant::now() >= self.steady || SystemTime::now() >= self.wall
    }
}

/// A lock that this process has taken and not given back.
#[derive(Debug)]
pub struct Held {
    pub number: u64,
    pub lock: Lock,
    until: Until,
    /// When the storage last said that it is ours.
    confirmed: Instant,
    /// Deletions since then.
    deletions: u32,
    lost: Option<String>,
    /// A request that needed the lock has had no answer: it may yet arrive.
    pub unanswered: bool,
}

/// After how many deletions, and how long, the storage is asked again whether the lock is still ours.
const BATCH: u32 = 32;
const RECENT: Duration = Duration::from_secs(1);

impl Held {
    pub fn new(number: u64, lock: Lock, until: Until) -> Held {
        let confirmed = Instant::now();
        Held { number, lock, until, confirmed, deletions: 0, lost: None, unanswered: false }
    }

    /// The storage has said that the highest number is `highest`; it was asked, and if `renewed` the lock was written, when `until` began.
    pub fn heard(&mut self, highest: Option<u64>, renewed: Option<Until>) {
        if highest != Some(self.number) {
            self.lost =
                Some("somebody else has taken it, since nothing had been heard of this process".to_owned());
            return;
        }
        // One that has run out stays lost: what was refused meanwhile is not to be followed by what comes after it.
        if self.check().is_ok() {
            self.confirmed = Instant::now();
            self.deletions = 0;
            self.until = renewed.unwrap_or(self.until);
        }
    }

    /// Whether a deletion must be preceded by a question to the storage; counts it.
    pub fn is_batch_over(&mut self) -> bool {
        self.deletions += 1;
        self.deletions > BATCH || self.confirmed.elapsed() > RECENT
    }

    /// An error unless the lock is ours as far as is known here.
    pub fn check(&mut self) -> Result<()> {
        if self.lost.is_none() && self.until.is_past() {
            self.lost = Some("it could not be renewed in time".to_owned());
        }
        match &self.lost {
            None => Ok(()),
            Some(how) => {
                let text = format!("the lock on the backup repository was lost: {how}");
                Err(Error::new(ErrorKind::Locked, text)
                    .remedy("try again; if it happens again, look at the network, or set a longer lease"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock { holder: 7, who: "process 1".into(), lease: 60_000, released: false }
    }

    #[test]
    fn locks_come_back_and_a_damaged_one_is_respected_for_long() {
        let bytes = lock().encode().unwrap();
        assert_eq!(Lock::decode(Path::new("x"), &bytes).unwrap(), lock());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            for bad in [&bad[..], &bytes[..at]] {
                let lock = Lock::decode(Path::new("x"), bad).unwrap();
                assert!(!lock.released && lock.patience() == Duration::from_secs(900), "byte {at}");
            }
        }
        assert_eq!(Lock::number(&Lock::name(0xab)), Some(0xab));
        for name in [NOW, "lock/", "lock/1", "lock/00000000000000AB", "00000000000000ab"] {
            assert_eq!(Lock::number(name), None, "{name}");
        }
    }

    #[test]
    fn a_lock_is_passed_over_by_the_storages_clock_alone() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!lock().is_over(at(1000), at(1000)));
        assert!(!lock().is_over(at(1000), at(1090)));
        assert!(lock().is_over(at(1000), at(1091)));
        assert!(!lock().is_over(at(1000), at(10)), "a clock that went back");
        assert!(Lock { released: true, ..lock() }.is_over(at(1000), at(1000)));
        let endless = Lock { lease: u64::MAX, ..lock() };
        assert_eq!(endless.patience(), Duration::from_secs(900));
    }

    #[test]
    fn a_lock_that_was_lost_stays_lost() {
        let later = || Until::after(Duration::from_secs(600));
        let mut held = Held::new(3, lock(), later());
        held.check().unwrap();
        held.heard(Some(3), None);
        held.check().unwrap();
        held.heard(Some(4), Some(later()));
        assert_eq!(held.check().unwrap_err().kind(), ErrorKind::Locked);
        held.heard(Some(3), Some(later()));
        held.check().unwrap_err();
        let mut late = Held::new(3, lock(), Until::after(Duration::ZERO));
        late.heard(Some(3), Some(later()));
        assert_eq!(late.check().unwrap_err().kind(), ErrorKind::Locked);
    }

    #[test]
    fn the_storage_is_asked_between_batches_of_deletions() {
        let mut held = Held::new(3, lock(), Until::after(Duration::from_secs(600)));
        held.confirmed = Instant::now() + Duration::from_secs(600);
        assert_eq!((0..100).take_while(|_| !held.is_batch_over()).count(), BATCH as usize);
        held.heard(Some(3), None);
        assert_eq!(held.deletions, 0);
    }
}
