//! Wake-ups: a pipe within the process, and a FIFO for each process that others write to.
//!
//! A byte says: look. A byte too few is made up for by the look of each second. Another byte asks for
//! the tasks that are shown, see `others`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::file::filesystem::Place;
use crate::file::vfs;

/// What the writer thread sleeps at.
pub(crate) struct Bed {
    reader: PipeReader,
    writer: PipeWriter,
}

/// What other processes have called for during a sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    /// To look.
    pub called: bool,
    /// To show the tasks of this process.
    pub asked: bool,
}

const WAKE: u8 = b'w';
const ASK: u8 = b'?';

impl Bed {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// Wakes the writer thread, which said that it sleeps: so there is never more than one byte.
    pub(crate) fn wake(&self) {
        // Fails only if the reader is gone, and it is here.
        _ = (&self.writer).write(&[WAKE]);
    }

    /// Sleeps until woken, or for `limit`.
    pub(crate) fn sleep(&self, fifo: Option<&File>, limit: Duration) -> Woken {
        let files = [Some(self.reader.as_fd()), fifo.map(AsFd::as_fd)];
        let [here, elsewhere] = vfs::poll(files, limit);
        let mut bytes = [0; 512];
        if here {
            _ = (&self.reader).read(&mut bytes);
        }
        match fifo {
            Some(mut fifo) if elsewhere => {
                // Does not block: it was opened so.
                let count = fifo.read(&mut bytes).unwrap_or_default();
                let is_question = |byte: &u8| *byte == ASK;
                Woken {
                    called: !bytes[..count].iter().all(is_question) || count == 0,
                    asked: bytes[..count].iter().any(is_question),
                }
            }
            _ => Woken::default(),
        }
    }

    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.reader.as_raw_fd(), self.writer.as_raw_fd()]
    }
}

/// Opens a FIFO for both: then neither opening nor writing depends on the other side.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Makes the FIFO of this process, anew.
pub(crate) fn make(place: &Place, slot: i64) -> io::Result<File> {
    let path = place.wake(slot);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    vfs::make_fifo(&path)?;
    open(&path)
}

/// The FIFOs of other processes, opened at their first use.
#[derive(Default)]
pub(crate) struct Peers(HashMap<i64, File>);

impl Peers {
    /// Wakes the process of that slot.
    pub(crate) fn wake(&mut self, place: &Place, slot: i64) {
        self.send(place, slot, WAKE);
    }

    /// Asks the process of that slot for its tasks.
    pub(crate) fn ask(&mut self, place: &Place, slot: i64) {
        self.send(place, slot, ASK);
    }

    /// A full FIFO is as good as one more byte; a missing one belongs to a process that is dead or has
    /// left.
    fn send(&mut self, place: &Place, slot: i64, byte: u8) {
        use std::collections::hash_map::Entry;
        let mut file: &File = match self.0.entry(slot) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match open(&place.wake(slot)) {
                Ok(file) => entry.insert(file),
                Err(_) => return,
            },
        };
        _ = file.write(&[byte]);
    }

    /// Closes the FIFOs of processes that are gone.
    pub(crate) fn keep(&mut self, is_there: impl Fn(i64) -> bool) {
        self.0.retain(|&slot, _| is_there(slot));
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.values().map(AsRawFd::as_raw_fd)
    }
}
