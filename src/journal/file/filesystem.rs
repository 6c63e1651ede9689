//! Where the journal's files are, and whether the file system will do.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::api::{Error, ErrorKind};
use crate::file::vfs;

/// The bytes that are kept for the ends of tasks when the disk is full.
const RESERVE: usize = 256 * 1024;

/// The journal's files.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The database.
    pub database: PathBuf,
    /// The folder of locks and wake-ups, beside the database.
    pub folder: PathBuf,
}

/// What tells one file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// A number may be given again as soon as its file is gone.
    born: Option<SystemTime>,
}

impl Identity {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::new(&fs::metadata(path)?))
    }

    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::new(&file.metadata()?))
    }

    fn new(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            born: found.created().ok(),
        }
    }
}

impl Place {
    pub(crate) fn new(database: &Path) -> Self {
        let stem = database.file_stem().unwrap_or_default();
        let mut folder = database.with_file_name(stem);
        if folder == database {
            folder.set_extension("files");
        }
        Self {
            database: database.to_owned(),
            folder,
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        let mut name = self.database.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    pub(crate) fn turnstile(&self) -> PathBuf {
        self.folder.join("turnstile")
    }

    pub(crate) fn alive(&self, slot: i64) -> PathBuf {
        self.folder.join(format!("{slot}.alive"))
    }

    pub(crate) fn wake(&self, slot: i64) -> PathBuf {
        self.folder.join(format!("{slot}.wake"))
    }

    /// What the process of a slot was asked for last.
    pub(crate) fn tasks(&self, slot: i64) -> PathBuf {
        self.folder.join(format!("{slot}.tasks"))
    }

    /// The folder that the database is in.
    pub(crate) fn parent(&self) -> &Path {
        match self.database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Makes the folders that are missing and looks at the file system. Returns a warning.
    pub(crate) fn prepare(&self) -> Result<Option<String>, Error> {
        let parent = self.parent();
        let is_new = !parent.exists();
        make_folder(parent)?;
        let mut warning = check_file_system(parent)?;
        if !is_new && is_writable_by_others(parent) {
            warning = Some(format!(
                "{}: other users can write to this folder, and so replace the journal: take that right \
                 from them",
                parent.display()
            ));
        }
        self.make_folder()?;
        Ok(warning)
    }

    /// Makes the folder of locks and wake-ups if it is missing.
    pub(crate) fn make_folder(&self) -> Result<(), Error> {
        make_folder(&self.folder)
    }

    /// The slots that have files in the folder.
    pub(crate) fn slots(&self) -> Vec<i64> {
        let Ok(names) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let slot = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".alive")?.parse().ok()
        };
        names.filter_map(slot).collect()
    }

    fn reserve(&self) -> PathBuf {
        self.folder.join("reserve")
    }

    /// Keeps some room on the disk, for the ends of tasks that run when it is full.
    pub(crate) fn make_reserve(&self) {
        let path = self.reserve();
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&vec![0; RESERVE]));
        if matches!(&made, Err(error) if error.kind() != io::ErrorKind::AlreadyExists) {
            // No room for it now; a part of it would be mistaken for all of it.
            _ = fs::remove_file(&path);
        }
    }

    /// Gives that room up; whether there was any.
    pub(crate) fn give_up_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }

    /// Makes the database's file if there is none, for this user only.
    pub(crate) fn make_database(&self) -> Result<(), Error> {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.database);
        match made {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(refused(&self.database, "cannot be made", &error)),
        }
    }

    /// Has the names of the files survive a power cut.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        File::open(self.parent())?.sync_all()
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    match made {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(Error::new(
            ErrorKind::Folder,
            format!(
                "{}: the folder cannot be made: {error}; make it for this user, or set DELAY_JOURNAL to \
                 another path",
                path.display()
            ),
        )),
    }
}

fn is_writable_by_others(path: &Path) -> bool {
    // With the sticky bit, as in /tmp, others cannot replace a file.
    fs::metadata(path).is_ok_and(|it| it.mode() & 0o022 != 0 && it.mode() & 0o1000 == 0)
}

/// The error for a file of the journal that the system refuses.
pub(crate) fn refused(path: &Path, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::Unsupported => ErrorKind::Locks,
        _ => match error.raw_os_error() {
            Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => ErrorKind::Locks,
            _ => ErrorKind::Io,
        },
    };
    let remedy = remedy(kind);
    Error::new(kind, format!("{} {what}: {error}{remedy}", path.display()))
}

/// What helps against trouble of this kind, as the end of its text.
pub(crate) fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Full => "; make room on its disk",
        ErrorKind::Corrupt => {
            "; put a backup in its place, or what `flask delay journal salvage` can read of it"
        }
        ErrorKind::Permission => "; its folder and files must be writable for this user",
        ErrorKind::Locks => {
            "; its file system needs locks and shared memory: set DELAY_JOURNAL to a path on a local disk"
        }
        _ => "",
    }
}

/// The magic numbers of file systems that machines share, or whose locks are not the kernel's.
#[cfg(target_os = "linux")]
const NETWORK: [(i64, &str); 16] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x6573_5546, "FUSE"),
    (0x786f_4256, "VirtualBox's shared folders"),
    (0xbacb_acbc, "VMware's shared folders"),
    (0x4750_4653, "GPFS"),
    (0x7375_7245, "Coda"),
];
#[cfg(target_os = "linux")]
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Refuses network file systems; warns of those that a restart of the machine empties.
#[cfg(target_os = "linux")]
fn check_file_system(path: &Path) -> Result<Option<String>, Error> {
    let found =
        vfs::file_system(path).map_err(|error| refused(path, "cannot be looked at", &error))?;
    // The type differs between platforms; the numbers have 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "not on every platform")]
    let magic = (found.f_type as i64) & 0xffff_ffff;
    if let Some((_, name)) = NETWORK.iter().find(|(number, _)| *number == magic) {
        return Err(on_network(path, name));
    }
    Ok(IN_MEMORY.contains(&magic).then(|| {
        format!(
            "{}: this file system is in memory, and a restart of the machine loses the journal: set \
             DELAY_JOURNAL to a path on a disk",
            path.display()
        )
    }))
}

#[cfg(target_os = "macos")]
fn check_file_system(path: &Path) -> Result<Option<String>, Error> {
    let found =
        vfs::file_system(path).map_err(|error| refused(path, "cannot be looked at", &error))?;
    let is_local = found.f_flags & u32::try_from(libc::MNT_LOCAL).unwrap_or_default() != 0;
    if is_local {
        return Ok(None);
    }
    let name: String = found
        .f_fstypename
        .iter()
        .map_while(|&byte| (byte != 0).then_some(char::from(byte.cast_unsigned())))
        .collect();
    Err(on_network(path, &name))
}

fn on_network(path: &Path, name: &str) -> Error {
    Error::new(
        ErrorKind::Network,
        format!(
            "{}: the journal cannot be on {name}: its processes share memory and locks, which only \
             a local file system has; set DELAY_JOURNAL to a path on a local disk",
            path.display()
        ),
    )
}

/// Adds zeros to a file until it is so long. They are written: the first write to bytes that are
/// only reserved costs what a longer file does.
pub(crate) fn lengthen(mut file: &File, length: u64) -> io::Result<()> {
    let before = file.metadata()?.len();
    let missing = length.saturating_sub(before);
    if missing == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::Start(before))?;
    let written = io::copy(&mut io::repeat(0).take(missing), &mut file);
    if written.is_err() {
        // Others need what room there is.
        file.set_len(before)?;
    }
    written.map(drop)
}

/// What tells this boot of this machine from all others.
pub(crate) fn boot() -> String {
    #[cfg(target_os = "linux")]
    let found = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    #[cfg(target_os = "macos")]
    let found = vfs::boot_session();
    found.map_or_else(String::new, |id| id.trim().to_owned())
}

/// Tries what a journal needs of its place; whether each is well, and a text.
pub(crate) fn check(place: &Place) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    match place.prepare() {
        Err(error) => {
            found.push((false, error.text));
            return found;
        }
        Ok(Some(warning)) => found.push((false, warning)),
        Ok(None) => found.push((
            true,
            format!("{}: a local file system", place.parent().display()),
        )),
    }
    let mut say = |what: &str, done: io::Result<()>| {
        found.push(match done {
            Ok(()) => (true, format!("{}: {what} work", place.folder.display())),
            Err(error) => (
                false,
                refused(
                    &place.folder,
                    &format!("has {what} that do not work"),
                    &error,
                )
                .text,
            ),
        });
    };
    let name = format!("check-{}", std::process::id());
    let path = place.folder.join(name);
    say("files", File::create(&path).map(|_| ()));
    say("locks", File::open(&path).and_then(|file| file.lock()));
    _ = fs::remove_file(&path);
    say("FIFOs", vfs::make_fifo(&path));
    _ = fs::remove_file(&path);
    found
}
