/* For tests on Linux: between a process and libc, the k-th call of a kind for paths in a folder fails or kills.

   Load it with LD_PRELOAD. tests/support/faults.py builds it, and documents the environment variables that it reads.
   Calls that do not go through libc's functions are not seen, such as Rust's raw system calls or those of libc itself.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME, MKDIR, OPEN, REMOVE, ANY, KINDS };
static const char *const NAMES[KINDS] = {"write", "fsync", "rename", "mkdir", "open", "remove", "any"};

static char folder[PATH_MAX]; /* empty: nothing is counted */
static int wanted;
static uint64_t wanted_number; /* 0: only count */
static int wanted_error;       /* 0: kill */
static int is_lasting;
static uint64_t *counts; /* by kind, shared with child processes */

#define REAL(name)                                                                                                     \
    ({                                                                                                                 \
        static __typeof__(&name) real;                                                                                 \
        if (!real)                                                                                                     \
            real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                                         \
        real;                                                                                                          \
    })

void fault_arm(const char *path, const char *call, uint64_t number, int error, int lasting) {
    memset(counts, 0, KINDS * sizeof *counts);
    for (wanted = 0; wanted < KINDS && strcmp(call, NAMES[wanted]); wanted++)
        ;
    wanted_number = number;
    wanted_error = error;
    is_lasting = lasting;
    snprintf(folder, sizeof folder, "%s", path);
}

const uint64_t *fault_counts(void) { return counts; }

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

__attribute__((constructor)) static void start(void) {
    const char *count_file = getenv("FAULT_COUNT_FILE");
    int descriptor = count_file ? REAL(open)(count_file, O_RDWR | O_CLOEXEC) : -1;
    int flags = descriptor < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
    counts = mmap(NULL, KINDS * sizeof *counts, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    if (counts == MAP_FAILED || (count_file && descriptor < 0))
        abort();
    if (descriptor >= 0)
        close(descriptor);
    if (!getenv("FAULT_FOLDER"))
        return;
    uint64_t before[KINDS]; /* those of the processes that loaded this earlier */
    memcpy(before, counts, sizeof before);
    int error = getenv("FAULT_KILL") ? 0 : atoi(variable("FAULT_ERRNO", "0"));
    fault_arm(getenv("FAULT_FOLDER"), variable("FAULT_CALL", "any"), strtoull(variable("FAULT_NUMBER", "0"), NULL, 10),
              error, getenv("FAULT_LASTING") != NULL);
    memcpy(counts, before, sizeof before);
}

/* Whether a path, relative to an open folder, is the folder of the faults or in it. */
static int is_inside(int directory, const char *path) {
    char full[2 * PATH_MAX] = "";
    if (!folder[0])
        return 0;
    if (path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(directory == AT_FDCWD ? "/proc/self/cwd" : link, full, PATH_MAX - 1);
        if (length < 0)
            return 0;
        full[length] = 0;
        if (path[0])
            strcat(full, "/");
    }
    strncat(full, path, PATH_MAX - 1);
    size_t length = strlen(folder);
    return !strncmp(full, folder, length) && (full[length] == '/' || !full[length]);
}

static int is_struck(int kind) {
    uint64_t each = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_SEQ_CST);
    uint64_t all = __atomic_add_fetch(&counts[ANY], 1, __ATOMIC_SEQ_CST);
    uint64_t number = wanted == ANY ? all : wanted == kind ? each : 0;
    return wanted_number && (number == wanted_number || (is_lasting && number > wanted_number));
}

static void strike(void) {
    if (!wanted_error) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = wanted_error;
}

/* A call that takes a path: nothing of it is done. */
#define PATH_CALL(kind, name, parameters, arguments, inside)                                                           \
    int name parameters {                                                                                              \
        if ((inside) && is_struck(kind)) {                                                                             \
            strike();                                                                                                  \
            return -1;                                                                                                 \
        }                                                                                                              \
        return REAL(name) arguments;                                                                                   \
    }

#define HERE(path) is_inside(AT_FDCWD, path)
PATH_CALL(RENAME, rename, (const char *old, const char *new), (old, new), HERE(old) || HERE(new))
PATH_CALL(RENAME, renameat, (int a, const char *old, int b, const char *new), (a, old, b, new),
          is_inside(a, old) || is_inside(b, new))
PATH_CALL(RENAME, renameat2, (int a, const char *old, int b, const char *new, unsigned flags), (a, old, b, new, flags),
          is_inside(a, old) || is_inside(b, new))
PATH_CALL(RENAME, link, (const char *old, const char *new), (old, new), HERE(new))
PATH_CALL(RENAME, linkat, (int a, const char *old, int b, const char *new, int flags), (a, old, b, new, flags),
          is_inside(b, new))
PATH_CALL(MKDIR, mkdir, (const char *path, mode_t mode), (path, mode), HERE(path))
PATH_CALL(MKDIR, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), is_inside(at, path))
PATH_CALL(REMOVE, unlink, (const char *path), (path), HERE(path))
PATH_CALL(REMOVE, unlinkat, (int at, const char *path, int flags), (at, path, flags), is_inside(at, path))
PATH_CALL(REMOVE, rmdir, (const char *path), (path), HERE(path))
PATH_CALL(FSYNC, fsync, (int file), (file), is_inside(file, ""))
PATH_CALL(FSYNC, fdatasync, (int file), (file), is_inside(file, ""))
PATH_CALL(WRITE, ftruncate, (int file, off_t size), (file, size), is_inside(file, ""))
PATH_CALL(WRITE, ftruncate64, (int file, off64_t size), (file, size), is_inside(file, ""))
PATH_CALL(OPEN, creat, (const char *path, mode_t mode), (path, mode), HERE(path))

#define OPEN_CALL(name, parameters, arguments, inside)                                                                 \
    int name parameters {                                                                                              \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        if ((inside) && is_struck(OPEN)) {                                                                             \
            strike();                                                                                                  \
            return -1;                                                                                                 \
        }                                                                                                              \
        return REAL(name) arguments;                                                                                   \
    }

OPEN_CALL(open, (const char *path, int flags, ...), (path, flags, mode), HERE(path))
OPEN_CALL(open64, (const char *path, int flags, ...), (path, flags, mode), HERE(path))
OPEN_CALL(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), is_inside(at, path))
OPEN_CALL(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), is_inside(at, path))

/* What a program that was built with checks of its arguments calls instead. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
PATH_CALL(OPEN, __open_2, (const char *path, int flags), (path, flags), HERE(path))
PATH_CALL(OPEN, __open64_2, (const char *path, int flags), (path, flags), HERE(path))

#define FOPEN_CALL(name)                                                                                               \
    FILE *name(const char *path, const char *mode) {                                                                   \
        if (HERE(path) && is_struck(OPEN)) {                                                                           \
            strike();                                                                                                  \
            return NULL;                                                                                               \
        }                                                                                                              \
        return REAL(name)(path, mode);                                                                                 \
    }
FOPEN_CALL(fopen)
FOPEN_CALL(fopen64)

/* A call that writes: half of its bytes are written, as on a disk that fills up. */
#define WRITE_CALL(name, parameters, arguments, half_arguments)                                                        \
    ssize_t name parameters {                                                                                          \
        if (is_inside(file, "") && is_struck(WRITE)) {                                                                 \
            ssize_t ignored = REAL(name) half_arguments;                                                               \
            (void)ignored;                                                                                             \
            strike();                                                                                                  \
            return -1;                                                                                                 \
        }                                                                                                              \
        return REAL(name) arguments;                                                                                   \
    }
WRITE_CALL(write, (int file, const void *data, size_t size), (file, data, size), (file, data, size / 2))
WRITE_CALL(pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at),
           (file, data, size / 2, at))
WRITE_CALL(pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at),
           (file, data, size / 2, at))
WRITE_CALL(writev, (int file, const struct iovec *parts, int count), (file, parts, count), (file, parts, count / 2))
WRITE_CALL(pwritev, (int file, const struct iovec *parts, int count, off_t at), (file, parts, count, at),
           (file, parts, count / 2, at))
WRITE_CALL(pwritev64, (int file, const struct iovec *parts, int count, off64_t at), (file, parts, count, at),
           (file, parts, count / 2, at))
WRITE_CALL(sendfile, (int file, int from, off_t *at, size_t size), (file, from, at, size), (file, from, at, size / 2))
WRITE_CALL(sendfile64, (int file, int from, off64_t *at, size_t size), (file, from, at, size),
           (file, from, at, size / 2))
WRITE_CALL(copy_file_range, (int from, off64_t *a, int file, off64_t *b, size_t size, unsigned flags),
           (from, a, file, b, size, flags), (from, a, file, b, size / 2, flags))

#define ALLOCATE_CALL(name, offset)                                                                                    \
    int name(int file, offset at, offset size) {                                                                       \
        if (is_inside(file, "") && is_struck(WRITE)) {                                                                 \
            strike();                                                                                                  \
            return wanted_error; /* it does not set errno */                                                           \
        }                                                                                                              \
        return REAL(name)(file, at, size);                                                                             \
    }
ALLOCATE_CALL(posix_fallocate, off_t)
ALLOCATE_CALL(posix_fallocate64, off64_t)
