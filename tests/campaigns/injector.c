/* Loaded into the daemon before anything else (LD_PRELOAD): lets the n-th call of a kind on the files below one directory fail, end
 * short, or be the process's last. Counted over all threads: sled writes from a pool of them, and strace, which counts for each
 * thread alone, would never meet the n-th call of all.
 *
 * FAULTS_DIRECTORY  the directory
 * FAULTS_REPORT     gets a line "met MILLISECONDS" (of the system's clock) when the fault is met, and at an orderly end a line
 *                   "CALL COUNT" for every kind of call
 * FAULTS_CALL       the kind, FAULTS_NTH which one, FAULTS_KIND SIGKILL, SHORT or an errno's name; without them calls are only counted
 * FAULTS_PERSISTENT 1: all after it too
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum call { OPENAT, WRITE, PWRITE64, COPY_FILE_RANGE, FSYNC, FDATASYNC, SYNC_FILE_RANGE, RENAME, UNLINK, FTRUNCATE, MKDIR, FALLOCATE, CALLS };

static const char *const names[CALLS] = {"openat",          "write",  "pwrite64", "copy_file_range", "fsync", "fdatasync",
                                         "sync_file_range", "rename", "unlink",   "ftruncate",       "mkdir", "fallocate"};

enum { NOTHING = 0, KILL = -1, SHORT = -2 }; /* and every errno */

static atomic_ulong counts[CALLS];
static const char *directory;
static int report = -1;
static int chosen = -1, kind = NOTHING, persistent;
static unsigned long nth;

__attribute__((constructor)) static void begin(void) {
    const char *call = getenv("FAULTS_CALL"), *what = getenv("FAULTS_KIND"), *which = getenv("FAULTS_NTH"), *path = getenv("FAULTS_REPORT");
    directory = getenv("FAULTS_DIRECTORY");
    if (!directory || !path) abort();
    report = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (report < 0) abort();
    if (!call) return;
    for (int n = 0; n < CALLS; n++)
        if (!strcmp(call, names[n])) chosen = n;
    if (chosen < 0 || !what || !which) abort();
    nth = strtoul(which, NULL, 10);
    persistent = getenv("FAULTS_PERSISTENT") != NULL;
    kind = !strcmp(what, "SIGKILL") ? KILL : !strcmp(what, "SHORT") ? SHORT : !strcmp(what, "EIO") ? EIO : !strcmp(what, "ENOSPC") ? ENOSPC : NOTHING;
    if (kind == NOTHING) abort();
}

__attribute__((destructor)) static void end(void) {
    for (int n = 0; n < CALLS; n++) dprintf(report, "%s %lu\n", names[n], atomic_load(&counts[n]));
}

static int is_below(const char *path) {
    size_t length = directory ? strlen(directory) : 0;
    return length && !strncmp(path, directory, length) && (path[length] == '/' || path[length] == 0);
}

static int fd_is_below(int fd) {
    char link[64], path[PATH_MAX + 1];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* A path as it is given to a call: the daemon's are absolute, or relative to a directory that it holds open. */
static int path_is_below(int dirfd, const char *path) {
    return path[0] == '/' ? is_below(path) : dirfd != AT_FDCWD && fd_is_below(dirfd);
}

static void note(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    dprintf(report, "met %lld\n", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

/* Counts a call on the directory: what becomes of it. */
static int meet(enum call call) {
    unsigned long number = atomic_fetch_add(&counts[call], 1) + 1;
    if ((int)call != chosen || number < nth || (number > nth && !persistent)) return NOTHING;
    if (number == nth) note();
    if (kind == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    return kind;
}

#define MEET(call, below, failed)                \
    int fault = (below) ? meet(call) : NOTHING; \
    if (fault > 0) {                             \
        errno = fault;                           \
        return failed;                           \
    }

/* What a short write takes: something, but not all. */
static size_t taken(size_t bytes, int fault) { return fault == SHORT && bytes > 1 ? bytes / 2 : bytes; }

static int open_at(int dirfd, const char *path, int flags, va_list rest) {
    mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
    MEET(OPENAT, path_is_below(dirfd, path), -1)
    return syscall(SYS_openat, dirfd, path, flags, mode);
}

#define OPEN(name, parameters, dirfd) \
    int name parameters {             \
        va_list rest;                 \
        va_start(rest, flags);        \
        int fd = open_at(dirfd, path, flags, rest); \
        va_end(rest);                 \
        return fd;                    \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int dirfd, const char *path, int flags, ...), dirfd)
OPEN(openat64, (int dirfd, const char *path, int flags, ...), dirfd)

DIR *opendir(const char *path) {
    MEET(OPENAT, path_is_below(AT_FDCWD, path), NULL)
    DIR *(*real)(const char *) = (DIR *(*)(const char *))dlsym(RTLD_NEXT, "opendir");
    return real(path);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    MEET(WRITE, fd_is_below(fd), -1)
    return syscall(SYS_write, fd, bytes, taken(length, fault));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    MEET(PWRITE64, fd_is_below(fd), -1)
    return syscall(SYS_pwrite64, fd, bytes, taken(length, fault), at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    MEET(COPY_FILE_RANGE, fd_is_below(to), -1)
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, taken(length, fault), flags);
}

int fsync(int fd) {
    MEET(FSYNC, fd_is_below(fd), -1)
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    MEET(FDATASYNC, fd_is_below(fd), -1)
    return syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    MEET(SYNC_FILE_RANGE, fd_is_below(fd), -1)
    return syscall(SYS_sync_file_range, fd, at, length, flags);
}

int rename(const char *from, const char *to) {
    MEET(RENAME, path_is_below(AT_FDCWD, from), -1)
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int dirfd, const char *path, int flags) {
    MEET(UNLINK, path_is_below(dirfd, path), -1)
    return syscall(SYS_unlinkat, dirfd, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int ftruncate64(int fd, off64_t length) {
    MEET(FTRUNCATE, fd_is_below(fd), -1)
    return syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off64_t from, off64_t length) {
    MEET(FALLOCATE, fd_is_below(fd), -1)
    return syscall(SYS_fallocate, fd, mode, from, length);
}

int fallocate(int fd, int mode, off_t from, off_t length) { return fallocate64(fd, mode, from, length); }

int mkdir(const char *path, mode_t mode) {
    MEET(MKDIR, path_is_below(AT_FDCWD, path), -1)
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
