//! The system calls of this test binary, SQLite's and the journal's: made to fail, to kill the process, or
//! noted.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "each test file uses its part, a failed test has to panic, and calls return an int"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use rusqlite::ffi;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Call {
    Write,
    Truncate,
    Lock,
    Map,
    Stat,
    Open,
    Sync,
    Turn,
    Unlink,
    Fifo,
}

impl Call {
    pub(crate) const ALL: [Self; 10] = [
        Self::Write,
        Self::Truncate,
        Self::Lock,
        Self::Map,
        Self::Stat,
        Self::Open,
        Self::Sync,
        Self::Turn,
        Self::Unlink,
        Self::Fifo,
    ];
}

/// Instead of an error.
pub(crate) const KILL: c_int = -1;

const NONE: usize = usize::MAX;
/// Not the one time or the other.
const ALL: usize = 0;
/// Which call fails, at which time of these, how, and how often it was made.
static CALL: AtomicUsize = AtomicUsize::new(NONE);
static AT: AtomicUsize = AtomicUsize::new(0);
static HOW: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Has the `at`-th of these calls from now on fail with that error.
pub(crate) fn arm(call: Call, at: usize, how: c_int) {
    COUNT.store(0, Ordering::SeqCst);
    AT.store(at, Ordering::SeqCst);
    HOW.store(how, Ordering::SeqCst);
    CALL.store(call as usize, Ordering::SeqCst);
}

/// Has all of these calls fail with that error from now on.
pub(crate) fn arm_all(call: Call, how: c_int) {
    arm(call, ALL, how);
}

/// Ends that; whether the call was made.
pub(crate) fn disarm() -> bool {
    CALL.store(NONE, Ordering::SeqCst);
    COUNT.load(Ordering::SeqCst) >= AT.load(Ordering::SeqCst)
}

/// Whether this call fails; then the error is set.
fn fails(call: Call) -> bool {
    if CALL.load(Ordering::SeqCst) != call as usize {
        return false;
    }
    let (count, at) = (
        COUNT.fetch_add(1, Ordering::SeqCst) + 1,
        AT.load(Ordering::SeqCst),
    );
    if at != ALL && at != count {
        return false;
    }
    let how = HOW.load(Ordering::SeqCst);
    // SAFETY: always allowed; the place of the error is this thread's.
    unsafe {
        if how == KILL {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
        *libc::__errno_location() = how;
    }
    true
}

// --- What was done, for power cuts --------------------------------------------------

/// Something that was done to the files, or told.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Write(Kind, u64, Vec<u8>),
    Truncate(Kind, u64),
    /// A sync begins, by its number; what was written before is on the disk when it has ended.
    SyncBegins(Kind, usize),
    SyncEnds(Kind, usize),
    /// A task was answered for.
    Told(String),
}

/// One of the two files that must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Database,
    Log,
}

static DEEDS: Mutex<Option<Vec<Deed>>> = Mutex::new(None);

/// Begins to note.
pub(crate) fn record() {
    *DEEDS.lock().unwrap() = Some(Vec::new());
}

/// What was noted.
pub(crate) fn recorded() -> Vec<Deed> {
    DEEDS.lock().unwrap().take().unwrap()
}

pub(crate) fn note(deed: Deed) {
    if let Some(deeds) = &mut *DEEDS.lock().unwrap() {
        deeds.push(deed);
    }
}

fn is_recording() -> bool {
    DEEDS.lock().unwrap().is_some()
}

fn kind(descriptor: RawFd) -> Option<Kind> {
    let path = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    let name = path.file_name()?.to_str()?;
    match name {
        "journal.db" => Some(Kind::Database),
        "journal.db-wal" => Some(Kind::Log),
        _ => None,
    }
}

// --- SQLite's calls -----------------------------------------------------------------

static WRITE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static TRUNCATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static MAP: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static STAT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

type Write = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
type Truncate = unsafe extern "C" fn(c_int, i64) -> c_int;
type Lock = unsafe extern "C" fn(c_int, c_int, *mut c_void) -> c_int;
type Map = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;
type Stat = unsafe extern "C" fn(c_int, *mut c_void) -> c_int;

unsafe extern "C" fn write(fd: c_int, data: *const c_void, count: usize, at: i64) -> isize {
    if fails(Call::Write) {
        return -1;
    }
    // SAFETY: what SQLite had in its table; passed on as it came.
    let written = unsafe {
        std::mem::transmute::<*mut c_void, Write>(WRITE.load(Ordering::SeqCst))(fd, data, count, at)
    };
    if written > 0
        && is_recording()
        && let Some(kind) = kind(fd)
    {
        let length = written.cast_unsigned();
        // SAFETY: so many bytes of it were written.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
        note(Deed::Write(kind, at.cast_unsigned(), bytes.to_vec()));
    }
    written
}

unsafe extern "C" fn truncate(fd: c_int, length: i64) -> c_int {
    if fails(Call::Truncate) {
        return -1;
    }
    // SAFETY: as above.
    let code = unsafe {
        std::mem::transmute::<*mut c_void, Truncate>(TRUNCATE.load(Ordering::SeqCst))(fd, length)
    };
    if code == 0
        && is_recording()
        && let Some(kind) = kind(fd)
    {
        note(Deed::Truncate(kind, length.cast_unsigned()));
    }
    code
}

unsafe extern "C" fn lock(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    if matches!(command, libc::F_SETLK | libc::F_SETLKW | libc::F_GETLK) && fails(Call::Lock) {
        return -1;
    }
    // SAFETY: as above.
    unsafe {
        std::mem::transmute::<*mut c_void, Lock>(LOCK.load(Ordering::SeqCst))(fd, command, argument)
    }
}

unsafe extern "C" fn map(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    if fails(Call::Map) {
        return libc::MAP_FAILED;
    }
    // SAFETY: as above.
    unsafe {
        let original = std::mem::transmute::<*mut c_void, Map>(MAP.load(Ordering::SeqCst));
        original(address, length, protection, flags, fd, offset)
    }
}

unsafe extern "C" fn stat(fd: c_int, found: *mut c_void) -> c_int {
    if fails(Call::Stat) {
        return -1;
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*mut c_void, Stat>(STAT.load(Ordering::SeqCst))(fd, found) }
}

/// Replaces the calls of SQLite. The journal has replaced its own before: open one first.
pub(crate) fn intercept() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let calls: [(&[&CStr], &AtomicPtr<c_void>, *const c_void); 5] = [
            // By the platform, SQLite uses the one or the other.
            (&[c"pwrite64", c"pwrite"], &WRITE, write as *const c_void),
            (&[c"ftruncate"], &TRUNCATE, truncate as *const c_void),
            (&[c"fcntl"], &LOCK, lock as *const c_void),
            (&[c"mmap"], &MAP, map as *const c_void),
            (&[c"fstat"], &STAT, stat as *const c_void),
        ];
        for (names, original, replacement) in calls {
            for name in names {
                // SAFETY: the signatures are those of the calls, and no thread is inside SQLite yet.
                unsafe {
                    let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
                    let name = name.as_ptr().cast::<c_char>();
                    let Some(before) = (*vfs).xGetSystemCall.unwrap()(vfs, name) else {
                        continue;
                    };
                    original.store(before as *mut c_void, Ordering::SeqCst);
                    let replacement =
                        std::mem::transmute::<*const c_void, unsafe extern "C" fn()>(replacement);
                    let code = (*vfs).xSetSystemCall.unwrap()(vfs, name, Some(replacement));
                    assert_eq!(code, ffi::SQLITE_OK);
                }
                break;
            }
        }
    });
}

// --- The calls of the whole binary, by their names ----------------------------------

fn sync(number: i64, fd: c_int) -> c_int {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if fails(Call::Sync) {
        return -1;
    }
    let noted = if is_recording() { kind(fd) } else { None };
    let next = NEXT.fetch_add(1, Ordering::SeqCst);
    if let Some(kind) = noted {
        note(Deed::SyncBegins(kind, next));
    }
    // SAFETY: the system call itself.
    let code = unsafe { libc::syscall(number, fd) };
    if let (0, Some(kind)) = (code, noted) {
        note(Deed::SyncEnds(kind, next));
    }
    c_int::try_from(code).unwrap()
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(libc::SYS_fdatasync, fd)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync(libc::SYS_fsync, fd)
}

#[unsafe(no_mangle)]
extern "C" fn flock(fd: c_int, operation: c_int) -> c_int {
    if operation & libc::LOCK_UN == 0 && fails(Call::Turn) {
        return -1;
    }
    // SAFETY: the system call itself.
    unsafe { libc::syscall(libc::SYS_flock, fd, operation) as c_int }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    if fails(Call::Unlink) {
        return -1;
    }
    // SAFETY: the system call itself.
    unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkfifo(path: *const c_char, mode: c_uint) -> c_int {
    if fails(Call::Fifo) {
        return -1;
    }
    let mode = mode | libc::S_IFIFO;
    // SAFETY: the system call itself.
    unsafe { libc::syscall(libc::SYS_mknodat, libc::AT_FDCWD, path, mode, 0) as c_int }
}

/// # Safety
///
/// As `open`'s; without a mode the last argument is some number that the system ignores.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if fails(Call::Open) {
        return -1;
    }
    // SAFETY: the system call itself.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
}

/// # Safety
///
/// As `open64`'s.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the same.
    unsafe { open64(path, flags, mode) }
}
