/* Loaded before libc (LD_PRELOAD): file operations fail with an errno of the test's choice.
 *
 * FAILING_DISK names a file of 4096 bytes, in which each line is a rule: "write 28 /latents/" lets
 * every write to a file whose path holds "/latents/" fail with errno 28. Operations are open, read
 * and write (with mkdir). The file is mapped, so that a test may change rules of living processes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define RULES_BYTES 4096

static const char *rules;

__attribute__((constructor)) static void map_rules(void) {
    const char *path = getenv("FAILING_DISK");
    if (!path) return;
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = real_open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, RULES_BYTES, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) rules = mapped;
}

/* Whether the operation on the path fails; errno says how. */
static int fails(const char *operation, const char *path) {
    char copy[RULES_BYTES + 1], *rest = copy, *line;
    int saved = errno;
    memcpy(copy, rules, RULES_BYTES);
    copy[RULES_BYTES] = 0;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char name[16], part[512];
        int code;
        if (sscanf(line, "%15s %d %511[^\n]", name, &code, part) != 3) continue;
        if (strcmp(name, operation) == 0 && strstr(path, part)) {
            errno = code;
            return 1;
        }
    }
    errno = saved;
    return 0;
}

static int fails_at(const char *operation, int file) {
    char link[64], path[PATH_MAX];
    struct stat status;
    int saved = errno;
    if (!rules || !rules[0]) return 0;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        errno = saved;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(operation, path);
}

static int fails_to_open(const char *path, int flags) {
    char absolute[PATH_MAX];
    if (!rules || !rules[0] || !path) return 0;
    if (path[0] != '/' && getcwd(absolute, sizeof absolute / 2)) {
        strncat(absolute, "/", sizeof absolute - strlen(absolute) - 1);
        strncat(absolute, path, sizeof absolute - strlen(absolute) - 1);
        path = absolute;
    }
    return fails("open", path) || ((flags & O_CREAT) && access(path, F_OK) && fails("write", path));
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        static int (*real)(const char *, int, ...);                                                \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = va_arg(more, mode_t);                                                        \
        va_end(more);                                                                              \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                 \
        return fails_to_open(path, flags) ? -1 : real(path, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                                                              \
    int name(int folder, const char *path, int flags, ...) {                                       \
        static int (*real)(int, const char *, int, ...);                                           \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = va_arg(more, mode_t);                                                        \
        va_end(more);                                                                              \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                 \
        return fails_to_open(path, flags) ? -1 : real(folder, path, flags, mode);                  \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

int mkdir(const char *path, mode_t mode) {
    static int (*real)(const char *, mode_t);
    if (!real) real = dlsym(RTLD_NEXT, "mkdir");
    if (rules && rules[0] && access(path, F_OK) && fails("write", path)) return -1;
    return real(path, mode);
}

#define TRANSFER(name, operation, memory)                                                          \
    ssize_t name(int file, memory *bytes, size_t size) {                                           \
        static ssize_t (*real)(int, memory *, size_t);                                             \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                 \
        return fails_at(operation, file) ? -1 : real(file, bytes, size);                           \
    }
TRANSFER(read, "read", void)
TRANSFER(write, "write", const void)

#define TRANSFER_AT(name, operation, memory, place)                                                \
    ssize_t name(int file, memory *bytes, size_t size, place offset) {                             \
        static ssize_t (*real)(int, memory *, size_t, place);                                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                 \
        return fails_at(operation, file) ? -1 : real(file, bytes, size, offset);                   \
    }
TRANSFER_AT(pread, "read", void, off_t)
TRANSFER_AT(pread64, "read", void, off64_t)
TRANSFER_AT(pwrite, "write", const void, off_t)
TRANSFER_AT(pwrite64, "write", const void, off64_t)

ssize_t writev(int file, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    return fails_at("write", file) ? -1 : real(file, parts, count);
}
