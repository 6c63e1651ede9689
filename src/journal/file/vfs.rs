//! The only module of this crate with `unsafe`: what SQLite asks of the system, and what std does not offer.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ffi};

/// Below this version two connections can lose a commit when the log starts anew.
const OLDEST_SQLITE: c_int = 3_051_003;
const _: () = assert!(ffi::SQLITE_VERSION_NUMBER >= OLDEST_SQLITE);

/// Whether the SQLite that is linked is at least the one this crate was written for.
pub(crate) fn is_sqlite_new_enough() -> bool {
    rusqlite::version_number() >= OLDEST_SQLITE
}

/// `fcntl` with locks that belong to the open file and not to the process.
///
/// POSIX locks go when any descriptor of the file is closed anywhere in the process, as by a backup
/// that reads it, and a forked child does not have them although SQLite believes so.
#[cfg(target_os = "linux")]
unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let of_the_file = match command {
        libc::F_SETLK => libc::F_OFD_SETLK,
        libc::F_SETLKW => libc::F_OFD_SETLKW,
        libc::F_GETLK => libc::F_OFD_GETLK,
        // SAFETY: passed on as it came.
        _ => return unsafe { libc::fcntl(descriptor, command, argument) },
    };
    // SAFETY: with these commands SQLite passes a `flock` that it owns; the system wants its
    // `l_pid` to be zero.
    unsafe {
        (*argument.cast::<libc::flock>()).l_pid = 0;
        libc::fcntl(descriptor, of_the_file, argument)
    }
}

type SystemCall = unsafe extern "C" fn();

/// Has SQLite call `function` where it would call the system's `name`.
///
/// # Safety
///
/// `function` has the signature of the call, and no thread is inside SQLite.
unsafe fn replace(name: &CStr, function: SystemCall) -> bool {
    // SAFETY: the default VFS exists for as long as the process. SQLite copies the pointer.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
        let Some(set) = vfs.as_ref().and_then(|vfs| vfs.xSetSystemCall) else {
            return false;
        };
        set(vfs, name.as_ptr().cast::<c_char>(), Some(function)) == ffi::SQLITE_OK
    }
}

/// Prepares SQLite; called with the gate held, before each opening. `false` if it cannot be.
pub(crate) fn prepare() -> bool {
    static DONE: AtomicBool = AtomicBool::new(false);
    // Relaxed: the gate orders what the threads of a process do here.
    if DONE.load(Ordering::Relaxed) {
        return true;
    }
    #[cfg(target_os = "linux")]
    {
        type Fcntl = unsafe extern "C" fn(c_int, c_int, *mut c_void) -> c_int;
        // SAFETY: SQLite casts it back to what it is before it calls it. On Linux a function with
        // variable arguments is called like one with as many fixed ones.
        let function = unsafe { std::mem::transmute::<Fcntl, SystemCall>(fcntl) };
        // SAFETY: the signature is `fcntl`'s, and this is the first opening.
        if !unsafe { replace(c"fcntl", function) } {
            return false;
        }
    }
    DONE.store(true, Ordering::Relaxed);
    true
}

/// Has the log stay when the last connection closes it: to overwrite it is cheaper than to grow it.
pub(crate) fn persist_log(connection: &Connection) -> bool {
    let mut on: c_int = 1;
    // SAFETY: the handle is that of an open connection, and `on` outlives the call.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut on).cast::<c_void>(),
        )
    };
    code == ffi::SQLITE_OK
}

/// Waits until one of the files can be read, or for `limit`; which of them can be.
pub(crate) fn poll<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    limit: Duration,
) -> [bool; N] {
    let mut asked = files.map(|file| libc::pollfd {
        // Negative: none, which the system skips.
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up: a wait that ends a moment too early would be repeated until it is over.
    let milliseconds = limit.as_micros().div_ceil(1000);
    let limit = c_int::try_from(milliseconds).unwrap_or(c_int::MAX);
    let count = libc::nfds_t::try_from(N).unwrap_or_default();
    // SAFETY: the array has that many entries. Interrupted or not, the caller looks itself.
    let found = unsafe { libc::poll(asked.as_mut_ptr(), count, limit) };
    asked.map(|one| found > 0 && one.revents != 0)
}

fn path_of(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Makes a FIFO that only this user may use.
pub(crate) fn make_fifo(path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    // SAFETY: the path ends with a zero byte.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the system says of the file system at `path`.
pub(crate) fn file_system(path: &Path) -> io::Result<libc::statfs> {
    let path = path_of(path)?;
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with a zero byte; the result is read only if the system has filled it.
    unsafe {
        match libc::statfs(path.as_ptr(), found.as_mut_ptr()) {
            0 => Ok(found.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The id of the boot, by macOS's name for it.
#[cfg(target_os = "macos")]
pub(crate) fn boot_session() -> Option<String> {
    let mut text = [0u8; 64];
    let mut length = text.len();
    // SAFETY: the system writes at most `length` bytes.
    let code = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            text.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if code != 0 {
        return None;
    }
    let text = CStr::from_bytes_until_nul(&text).ok()?;
    Some(text.to_str().ok()?.to_owned())
}

/// Closes a descriptor that a forked child has from its parent.
///
/// The caller sees to it that its owner in this process is never dropped, nor used.
pub(crate) fn close_inherited(descriptor: RawFd) {
    // SAFETY: allowed between fork and exec; by what the caller ensures, nothing closes it twice.
    unsafe { libc::close(descriptor) };
}
