/* Records, in the order in which they took effect, all that a process does to the files under one directory.
 *
 * Preloaded into the server by tests/power_cut.rs, whose header says what the records are for.
 *
 *   POWER_CUT_ROOT               the directory, without a slash at its end
 *   POWER_CUT_TRACE              the file for the records
 *   POWER_CUT_KILL_AFTER_RENAME  kill -9 the process right after it has given a file a name that ends so
 *   POWER_CUT_KILL_BEFORE_SYNC   kill -9 it right before the fdatasync, the 20th of them, of files whose names end so
 *   POWER_CUT_FAIL               "<call> <suffix> <number>": let the call of this number fail, of those for files and
 *                                directories whose names end so; a suffix "*" is all of them. Calls: sync (fsync and
 *                                fdatasync), hang (likewise, but it never returns), pwrite, write, append (a write in
 *                                append mode), create (of a directory, too), rename (by the new name), unlink (likewise)
 *   POWER_CUT_FLIP               flip a bit in every write to files whose names end so
 *
 * A record is little-endian: u32 length of what follows; u8 kind; u64 a; u64 b; u32 length of the text; the text;
 * data. One write() each on a descriptor in append mode, so the trace's size is a position in time. A file is
 * known by its inode number, as names change. Every record is written after the operation has returned and before
 * the caller goes on; a sync has one before as well, because what another thread writes while it runs it may miss.
 *
 * Whatever could change a file in a way that is not recorded here leaves a record "unsupported", which fails the
 * test. The operations are the system calls themselves: the library's own functions would only do the same. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  START = 1, CREATE, WRITE, ZEROS, TRUNCATE, RENAME, UNLINK, MKDIR, RMDIR, SYNC_BEGIN, SYNC_END, SYNC_RANGE,
  UNSUPPORTED, SYNC_FAILED, FAILED
};

static char root[PATH_MAX], kill_after[NAME_MAX], kill_before[NAME_MAX], fail[NAME_MAX], flip[NAME_MAX];
static char fail_call[16], fail_suffix[NAME_MAX];
static int fail_number;
static int trace = -1;
static uint64_t tokens;
/* Around every change of a name, so that the records are in the order of the changes. */
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

/* Held, shared, from before a change until it is recorded. Who kills the process takes it alone: a change that is
 * on the disk but not in the trace would be missing from every image, however it was synced later. */
static pthread_rwlock_t alive = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

static void die(void) {
  pthread_rwlock_wrlock(&alive);
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* A process that ends by itself ends its other threads, too: none of them in the midst of a record. */
static void hold(void) { pthread_rwlock_wrlock(&alive); }

/* The test's own kill -9 comes as SIGUSR2, so that it, too, falls between two changes. */
static void *reaper(void *nothing) {
  sigset_t signals;
  int signal;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR2);
  sigwait(&signals, &signal);
  die();
  return nothing;
}

static void put(int kind, uint64_t a, uint64_t b, const char *text, const void *data, size_t size) {
  int saved = errno;
  uint32_t text_size = text ? strlen(text) : 0;
  uint8_t head[25];
  uint32_t length = sizeof head - 4 + text_size + size;
  memcpy(head, &length, 4);
  head[4] = kind;
  memcpy(head + 5, &a, 8);
  memcpy(head + 13, &b, 8);
  memcpy(head + 21, &text_size, 4);
  struct iovec parts[] = {{head, sizeof head}, {(void *)text, text_size}, {(void *)data, size}};
  if (syscall(SYS_writev, trace, parts, 3) != (long)(sizeof head + text_size + size)) abort();
  errno = saved;
}

static int ends(const char *text, const char *suffix) {
  size_t size = strlen(suffix), length = strlen(text);
  return size && length >= size && strcmp(text + length - size, suffix) == 0;
}

static void setting(const char *name, char *value) {
  const char *found = getenv(name);
  snprintf(value, NAME_MAX, "%s", found ? found : "");
}

__attribute__((constructor)) static void start(void) {
  const char *directory = getenv("POWER_CUT_ROOT"), *path = getenv("POWER_CUT_TRACE");
  if (!directory || !path) return;
  snprintf(root, sizeof root, "%s/", directory);
  setting("POWER_CUT_KILL_AFTER_RENAME", kill_after);
  setting("POWER_CUT_KILL_BEFORE_SYNC", kill_before);
  setting("POWER_CUT_FAIL", fail);
  if (fail[0] && sscanf(fail, "%15s %254s %d", fail_call, fail_suffix, &fail_number) != 3) abort();
  setting("POWER_CUT_FLIP", flip);
  int descriptor = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  /* Out of the way of programs that close or number descriptors. */
  trace = fcntl(descriptor, F_DUPFD_CLOEXEC, 900);
  syscall(SYS_close, descriptor);
  if (trace < 0) abort();
  put(START, getpid(), 0, NULL, NULL, 0);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  pthread_t thread;
  if (pthread_create(&thread, NULL, reaper, NULL) != 0 || atexit(hold) != 0) abort();
}

static int inside(const char *path) {
  size_t size = strlen(root);
  return trace >= 0 && (strncmp(path, root, size) == 0 || (strlen(path) == size - 1 && strncmp(path, root, size - 1) == 0));
}

/* The file's path, if it is a file or directory under the root. */
static int of_descriptor(int fd, char *path, struct stat *status) {
  if (trace < 0 || fd < 0) return 0;
  int saved = errno, found = 0;
  char link[64];
  if (fstat(fd, status) == 0 && (S_ISREG(status->st_mode) || S_ISDIR(status->st_mode))) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (size > 0) {
      path[size] = 0;
      found = inside(path);
    }
  }
  errno = saved;
  return found;
}

/* The absolute path, if it is under the root. */
static int of_name(int directory, const char *name, char *path) {
  if (trace < 0) return 0;
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else {
    struct stat status;
    if (directory == AT_FDCWD) {
      if (syscall(SYS_getcwd, path, PATH_MAX) < 0) return 0;
    } else if (!of_descriptor(directory, path, &status)) {
      return 0;
    }
    size_t size = strlen(path);
    snprintf(path + size, PATH_MAX - size, "/%s", name);
  }
  size_t size = strlen(path);
  while (size > 1 && path[size - 1] == '/') path[--size] = 0;
  return inside(path);
}

static void unsupported(const char *what) { put(UNSUPPORTED, 0, 0, what, NULL, 0); }

/* Whether this call is the one that is to fail. */
static int fails(const char *call, const char *path) {
  static int count;
  if (strcmp(call, fail_call) || !(fail_suffix[0] == '*' || ends(path, fail_suffix))) return 0;
  return __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) == fail_number;
}

/* Likewise; then it is recorded, and the error is there. */
static int refused(const char *call, const char *path) {
  if (!fails(call, path)) return 0;
  put(FAILED, 0, 0, path, NULL, 0);
  errno = EIO;
  return 1;
}
static int refused_on(const char *call, int fd) {
  char path[PATH_MAX];
  struct stat status;
  return fail_call[0] && of_descriptor(fd, path, &status) && refused(call, path);
}

static int open_at(int directory, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  if (!(flags & (O_CREAT | O_TRUNC)) || !of_name(directory, name, path))
    return syscall(SYS_openat, directory, name, flags, mode);
  if ((flags & O_TMPFILE) == O_TMPFILE) unsupported("O_TMPFILE");
  pthread_rwlock_rdlock(&alive);
  pthread_mutex_lock(&names);
  int existed = syscall(SYS_faccessat, directory, name, F_OK) == 0;
  int fd = (flags & O_CREAT) && refused("create", path) ? -1 : syscall(SYS_openat, directory, name, flags, mode);
  struct stat status;
  if (fd >= 0 && fstat(fd, &status) == 0) {
    if (!existed) put(CREATE, status.st_ino, 0, path, NULL, 0);
    else if (flags & O_TRUNC) put(TRUNCATE, status.st_ino, 0, NULL, NULL, 0);
  }
  pthread_mutex_unlock(&names);
  pthread_rwlock_unlock(&alive);
  return fd;
}

#define MODE(flags) mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, int); va_end(list); }

int open(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags) return open_at(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags) return open_at(at, name, flags | O_LARGEFILE, mode); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

static void wrote(int fd, off64_t offset, const struct iovec *parts, int count, ssize_t size) {
  char path[PATH_MAX];
  struct stat status;
  if (size <= 0 || !of_descriptor(fd, path, &status)) return;
  if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - size;
  ssize_t left = size;
  for (int i = 0; i < count && left > 0; i++) {
    ssize_t part = (ssize_t)parts[i].iov_len < left ? (ssize_t)parts[i].iov_len : left;
    const char *bytes = parts[i].iov_base;
    /* sled writes segments of zeros; their length says it all. */
    int zeros = part > 4096 && bytes[0] == 0 && memcmp(bytes, bytes + 1, part - 1) == 0;
    uint64_t length = part;
    if (part > 0 && zeros) put(ZEROS, status.st_ino, offset, NULL, &length, sizeof length);
    else if (part > 0) put(WRITE, status.st_ino, offset, NULL, bytes, part);
    offset += part;
    left -= part;
  }
}

ssize_t write(int fd, const void *bytes, size_t size) {
  /* Where an append goes depends on the writes before it: no other may come between it and its record. */
  int appends = fcntl(fd, F_GETFL) & O_APPEND;
  if (appends) pthread_rwlock_wrlock(&alive);
  else pthread_rwlock_rdlock(&alive);
  char path[PATH_MAX];
  struct stat status;
  /* The caller may not change, so its bytes are copied; they are few. */
  char *flipped = NULL;
  if (flip[0] && size && of_descriptor(fd, path, &status) && ends(path, flip) && (flipped = malloc(size))) {
    memcpy(flipped, bytes, size);
    flipped[size / 2] ^= 1;
    bytes = flipped;
  }
  ssize_t result = refused_on(appends ? "append" : "write", fd) ? -1 : syscall(SYS_write, fd, bytes, size);
  struct iovec part = {(void *)bytes, size};
  wrote(fd, -1, &part, 1, result);
  free(flipped);
  pthread_rwlock_unlock(&alive);
  return result;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  pthread_rwlock_rdlock(&alive);
  ssize_t result = syscall(SYS_writev, fd, parts, count);
  wrote(fd, -1, parts, count, result);
  pthread_rwlock_unlock(&alive);
  return result;
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
  pthread_rwlock_rdlock(&alive);
  ssize_t result = refused_on("pwrite", fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, size, offset);
  struct iovec part = {(void *)bytes, size};
  wrote(fd, offset, &part, 1, result);
  pthread_rwlock_unlock(&alive);
  return result;
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  pthread_rwlock_rdlock(&alive);
  ssize_t result = syscall(SYS_pwritev, fd, parts, count, (long)offset, 0L);
  wrote(fd, offset, parts, count, result);
  pthread_rwlock_unlock(&alive);
  return result;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

int ftruncate64(int fd, off64_t size) {
  pthread_rwlock_rdlock(&alive);
  int result = syscall(SYS_ftruncate, fd, size);
  char path[PATH_MAX];
  struct stat status;
  if (result == 0 && of_descriptor(fd, path, &status)) put(TRUNCATE, status.st_ino, size, NULL, NULL, 0);
  pthread_rwlock_unlock(&alive);
  return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int renamed(int from_at, const char *from_name, int to_at, const char *to_name, unsigned flags) {
  char from[PATH_MAX], to[PATH_MAX];
  int known = of_name(from_at, from_name, from) | of_name(to_at, to_name, to);
  if (known && flags) unsupported("renameat2 with flags");
  pthread_rwlock_rdlock(&alive);
  pthread_mutex_lock(&names);
  int result = known && refused("rename", to) ? -1 : syscall(SYS_renameat2, from_at, from_name, to_at, to_name, flags);
  if (result == 0 && known) {
    put(RENAME, strlen(from), 0, from, to, strlen(to));
  }
  pthread_mutex_unlock(&names);
  pthread_rwlock_unlock(&alive);
  if (result == 0 && known && ends(to, kill_after)) die();
  return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return renamed(from_at, from, to_at, to, 0); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  return renamed(from_at, from, to_at, to, flags);
}

int unlinkat(int at, const char *name, int flags) {
  char path[PATH_MAX];
  int known = of_name(at, name, path);
  pthread_rwlock_rdlock(&alive);
  pthread_mutex_lock(&names);
  int result = known && refused("unlink", path) ? -1 : syscall(SYS_unlinkat, at, name, flags);
  if (result == 0 && known) put(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, path, NULL, 0);
  pthread_mutex_unlock(&names);
  pthread_rwlock_unlock(&alive);
  return result;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode) {
  char path[PATH_MAX];
  int known = of_name(at, name, path);
  pthread_rwlock_rdlock(&alive);
  pthread_mutex_lock(&names);
  int result = known && refused("create", path) ? -1 : syscall(SYS_mkdirat, at, name, mode);
  struct stat status;
  if (result == 0 && known && stat(path, &status) == 0) put(MKDIR, status.st_ino, 0, path, NULL, 0);
  pthread_mutex_unlock(&names);
  pthread_rwlock_unlock(&alive);
  return result;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static int synced(int fd, long call) {
  char path[PATH_MAX];
  struct stat status;
  if (!of_descriptor(fd, path, &status)) return syscall(call, fd);
  static int kills;
  if (call == SYS_fdatasync && ends(path, kill_before) && __atomic_add_fetch(&kills, 1, __ATOMIC_SEQ_CST) == 20)
    die();
  uint64_t token = __atomic_add_fetch(&tokens, 1, __ATOMIC_SEQ_CST);
  put(SYNC_BEGIN, status.st_ino, token, path, NULL, 0);
  /* Without `alive`, or the process could not end. */
  if (fails("hang", path)) for (;;) pause();
  if (fails("sync", path)) {
    put(SYNC_FAILED, status.st_ino, token, path, NULL, 0);
    errno = EIO;
    return -1;
  }
  int result = syscall(call, fd);
  if (result == 0) put(SYNC_END, status.st_ino, token, NULL, NULL, 0);
  return result;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int sync_file_range(int fd, off64_t offset, off64_t size, unsigned flags) {
  char path[PATH_MAX];
  struct stat status;
  if (of_descriptor(fd, path, &status)) put(SYNC_RANGE, status.st_ino, 0, NULL, NULL, 0);
  return syscall(SYS_sync_file_range, fd, offset, size, flags);
}

/* Without these a copy is a sequence of reads and writes. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
  errno = ENOSYS;
  return -1;
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
  errno = ENOSYS;
  return -1;
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) { return sendfile64(out, in, at, size); }
ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
  errno = EINVAL;
  return -1;
}

#define REFUSED(name, parameters, path_at, path) \
  int name parameters { \
    char buffer[PATH_MAX]; \
    if (of_name(path_at, path, buffer)) unsupported(#name); \
    errno = ENOSYS; \
    return -1; \
  }
REFUSED(link, (const char *from, const char *to), AT_FDCWD, to)
REFUSED(linkat, (int from_at, const char *from, int to_at, const char *to, int flags), to_at, to)
REFUSED(symlink, (const char *from, const char *to), AT_FDCWD, to)
REFUSED(truncate, (const char *name, off_t size), AT_FDCWD, name)
REFUSED(truncate64, (const char *name, off64_t size), AT_FDCWD, name)
int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  char path[PATH_MAX];
  struct stat status;
  if (of_descriptor(fd, path, &status)) unsupported("fallocate");
  return syscall(SYS_fallocate, fd, mode, offset, size);
}
int fallocate(int fd, int mode, off_t offset, off_t size) { return fallocate64(fd, mode, offset, size); }
int posix_fallocate64(int fd, off64_t offset, off64_t size) { return fallocate64(fd, 0, offset, size) ? errno : 0; }
int posix_fallocate(int fd, off_t offset, off_t size) { return posix_fallocate64(fd, offset, size); }

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
  char path[PATH_MAX];
  struct stat status;
  if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) && of_descriptor(fd, path, &status))
    unsupported("mmap, shared and writable");
  return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap64(address, size, protection, flags, fd, offset);
}
