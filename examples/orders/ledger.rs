//! The ledger: a file to which all workers append, fenced by lease numbers.
//!
//! Two kinds of lines: `begin PLACE LEASE` when an attempt begins, and `done PLACE LEASE ORDER
//! CUSTOMER TIME` when it has worked. A message's place is its partition and offset. Under the
//! lock of the file, a worker reads what others have written, and is refused if a greater lease
//! number was seen for its message: then its lease is over, and another worker has the order.
//! So an order is written as done at most once, by the worker that holds it, also if that worker
//! was stopped for a minute in between. A line is synced before its order counts as done; a line
//! that a killed worker left without its end counts as nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
};

/// Partition and offset.
pub(crate) type Place = (u32, u64);

/// An order that is done.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) place: Place,
    pub(crate) order: u64,
    pub(crate) customer: String,
    pub(crate) time_ms: i64,
}

/// What a worker may not write.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another worker has a later lease.
    Fenced {
        seen: u64,
    },
    Io(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced { seen } => write!(formatter, "lease {seen} was seen already"),
            Self::Io(error) => write!(formatter, "the ledger: {error}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) struct Ledger {
    file: File,
    /// Up to here it has been read.
    read_to: u64,
    leases: BTreeMap<Place, u64>,
    is_done: BTreeSet<Place>,
    pub(crate) done: Vec<Done>,
}

impl Ledger {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.create(true).append(true).read(true).open(path)?;
        Ok(Self {
            file,
            read_to: 0,
            leases: BTreeMap::new(),
            is_done: BTreeSet::new(),
            done: Vec::new(),
        })
    }

    /// An attempt begins. True if the order is done already, and only its acknowledgement was
    /// lost.
    pub(crate) fn begin(&mut self, place: Place, lease: u64) -> Result<bool, Refused> {
        self.locked(|ledger| {
            ledger.fence(place, lease)?;
            if ledger.is_done.contains(&place) {
                return Ok(true);
            }
            ledger.append(&format!("begin {} {} {lease}\n", place.0, place.1))?;
            Ok(false)
        })
    }

    /// The order is done, on stable storage.
    pub(crate) fn done(&mut self, done: &Done, lease: u64) -> Result<(), Refused> {
        self.locked(|ledger| {
            let (partition, offset) = done.place;
            ledger.fence(done.place, lease)?;
            ledger.append(&format!(
                "done {partition} {offset} {lease} {} {} {}\n",
                done.order, done.customer, done.time_ms
            ))?;
            ledger.file.sync_data()?;
            Ok(())
        })
    }

    /// Reads what others have written.
    pub(crate) fn look(&mut self) -> Result<(), Refused> {
        self.locked(|_| Ok(()))
    }

    fn locked<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.file.lock()?;
        let acted = self.catch_up().map_err(Refused::Io);
        let acted = acted.and_then(|()| act(self));
        self.file.unlock()?;
        acted
    }

    fn fence(&self, place: Place, lease: u64) -> Result<(), Refused> {
        match self.leases.get(&place) {
            Some(&seen) if seen > lease => Err(Refused::Fenced { seen }),
            _ => Ok(()),
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(line.as_bytes())?;
        self.catch_up()
    }

    fn catch_up(&mut self) -> io::Result<()> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(self.read_to))?;
        self.file.read_to_string(&mut text)?;
        if !text.is_empty() && !text.ends_with('\n') {
            // Somebody was killed in the middle: the line is ended, and is no line.
            self.file.write_all(b" torn\n")?;
            text.push_str(" torn\n");
        }
        self.read_to += text.len() as u64;
        for line in text.lines() {
            self.take(line);
        }
        Ok(())
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let parts: Vec<&str> = line.split(' ').collect();
        let (kind, partition, offset, lease) = match parts.as_slice() {
            ["begin", partition, offset, lease] => ("begin", partition, offset, lease),
            ["done", partition, offset, lease, _, _, _] => ("done", partition, offset, lease),
            _ => return None,
        };
        let place = (partition.parse().ok()?, offset.parse().ok()?);
        let lease: u64 = lease.parse().ok()?;
        let seen = self.leases.entry(place).or_default();
        *seen = lease.max(*seen);
        if kind == "done" {
            self.is_done.insert(place);
            self.done.push(Done {
                place,
                order: parts.get(4)?.parse().ok()?,
                customer: (*parts.get(5)?).to_owned(),
                time_ms: parts.get(6)?.parse().ok()?,
            });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(order: u64) -> Done {
        Done {
            place: (0, order),
            order,
            customer: "somebody".into(),
            time_ms: 1,
        }
    }

    #[test]
    fn who_lost_the_lease_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let path = path.to_str().unwrap();
        let (mut old, mut new) = (Ledger::open(path).unwrap(), Ledger::open(path).unwrap());
        assert!(!old.begin((0, 7), 3).unwrap());
        assert!(!new.begin((0, 7), 5).unwrap());
        let late = old.done(&done(7), 3).unwrap_err();
        assert!(matches!(late, Refused::Fenced { seen: 5 }), "{late}");
        new.done(&done(7), 5).unwrap();
        assert!(old.begin((0, 7), 8).unwrap(), "it is done already");
        old.look().unwrap();
        assert_eq!(old.done.len(), 1);
    }

    #[test]
    fn a_torn_line_is_none_and_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        std::fs::write(&path, "done 0 1 1 1 somebody 1\ndone 0 2 2").unwrap();
        let mut ledger = Ledger::open(path.to_str().unwrap()).unwrap();
        assert!(!ledger.begin((0, 2), 9).unwrap());
        ledger.done(&done(2), 9).unwrap();
        let mut again = Ledger::open(path.to_str().unwrap()).unwrap();
        again.look().unwrap();
        let orders: Vec<u64> = again.done.iter().map(|done| done.order).collect();
        assert_eq!(orders, [1, 2]);
    }
}
