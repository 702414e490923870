//! Checkpoints that cannot be read.

use super::*;

/// Gives out all but what is named so.
#[derive(Debug)]
struct Holding {
    inner: Arc<dyn Storage>,
    back: String,
}

impl Storage for Holding {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match name == self.back {
            true => Err(Error::new(ErrorKind::Io, "a bad sector")),
            false => self.inner.read(name),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.write(name, bytes)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.inner.describe(name)
    }
}

impl Told {
    /// The manifest of this checkpoint cannot be read any more.
    pub fn lose(&mut self, number: u64, kind: ErrorKind) {
        let name = CheckpointId(number).name();
        match kind {
            ErrorKind::Io => {
                let inner = self.repo.storage.clone();
                self.repo.storage = Arc::new(Holding { inner, back: name });
            }
            _ => self.repo.storage.write(&name, b"rubbish").unwrap(),
        }
    }

    /// The restore is refused for want of that checkpoint.
    fn wants(&self, time: u64, number: u64, kind: ErrorKind) {
        let error = self.at(time).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&format!("checkpoint {number} ")), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("by its number")), "{error}");
    }
}

/// Where nothing was archived, it may be the one that is asked for.
#[test]
fn a_checkpoint_that_cannot_be_read_is_not_passed_over_for_one_that_is_older() {
    for kind in [ErrorKind::Io, ErrorKind::Corruption] {
        let mut told = Told::new();
        for number in 1..=4 {
            told.checkpoint(number, number * HOUR, number * 100);
        }
        assert_eq!(told.at(2 * HOUR + 60).unwrap(), 200);
        told.lose(2, kind);
        told.wants(2 * HOUR + 60, 2, kind);
        for (time, seq) in [(HOUR + 60, 100), (3 * HOUR, 300), (3 * HOUR + 90, 300), (9 * HOUR, 400)] {
            assert_eq!(told.at(time).unwrap(), seq, "{time}");
        }
        let lost = Told { repo: told.repo.clone(), midnight: told.midnight };
        lost.repo.storage.delete(&CheckpointId(1).name()).unwrap();
        lost.wants(2 * HOUR + 60, 2, kind);
    }
}

/// It is not known for the last one, either, where it has the highest number.
#[test]
fn no_older_checkpoint_is_taken_for_the_newest_where_that_cannot_be_read() {
    let at = |told: &Told, time| {
        let time = UNIX_EPOCH + Duration::from_secs(told.midnight + time);
        let point =
            point(&told.repo, told.repo.load(CheckpointId(1))?, At::Time(time), None, &Watch::default())?;
        Ok::<_, Error>(point.until.unwrap_or(point.body.seq).0)
    };
    let mut told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 2 * HOUR, 200);
    told.lose(2, ErrorKind::Corruption);
    assert_eq!(at(&told, HOUR + 5).unwrap(), 100);
    let error = at(&told, 3 * HOUR).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.to_string().contains("checkpoint 2 "), "{error}");
    // What was archived tells what it would have told.
    told.piece((50, 300), &[(HOUR, 100), (HOUR + 1, 150), (4 * HOUR - 1, 150), (4 * HOUR, 300)]);
    assert_eq!(at(&told, 3 * HOUR).unwrap(), 150);
    assert_eq!(at(&told, 5 * HOUR).unwrap(), 300);
}
