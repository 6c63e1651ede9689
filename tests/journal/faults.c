/* System calls that fail, or wait, as files in the folder FAULTS say. For LD_PRELOAD on Linux. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

static int is_there(const char *name)
{
    char path[4096];
    const char *folder = getenv("FAULTS");
    int before = errno, found;

    if (folder == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    found = access(path, F_OK) == 0;
    errno = before;
    return found;
}

static int fail(int how)
{
    errno = how;
    return -1;
}

static int sync_of(long call, int fd)
{
    while (is_there("sync waits"))
        usleep(2000);
    return is_there("sync fails") ? fail(EIO) : (int)syscall(call, fd);
}

int fdatasync(int fd)
{
    return sync_of(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return sync_of(SYS_fsync, fd);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off_t at)
{
    return is_there("full") ? fail(ENOSPC) : syscall(SYS_pwrite64, fd, data, count, at);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t at)
{
    return pwrite64(fd, data, count, at);
}

/* For what is to be in the folder `place`. */
static int is_read_only(const char *path)
{
    return strstr(path, "/place/") != NULL && is_there("read only");
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    mode_t mode;

    va_start(more, flags);
    mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (flags & (O_WRONLY | O_RDWR | O_CREAT) && is_read_only(path))
        return fail(EROFS);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return is_read_only(path) ? fail(EROFS) : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int flock(int fd, int operation)
{
    return is_there("no locks") ? fail(ENOLCK) : (int)syscall(SYS_flock, fd, operation);
}

int mkfifo(const char *path, mode_t mode)
{
    if (is_there("no FIFOs"))
        return fail(EPERM);
    return (int)syscall(SYS_mknodat, AT_FDCWD, path, S_IFIFO | mode, 0);
}

int statfs(const char *path, struct statfs *found)
{
    int code = (int)syscall(SYS_statfs, path, found);

    if (code == 0 && is_there("NFS"))
        found->f_type = 0x6969;
    return code;
}

int statfs64(const char *path, struct statfs64 *found)
{
    return statfs(path, (struct statfs *)found);
}
