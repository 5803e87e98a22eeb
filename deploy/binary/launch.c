/* The beginning of the single file dist/fastws: unpacks what follows it, once, and becomes it.
 *
 * build.py appends the program, a directory of Python and its libraries, as one stream of zlib, and a struct trailer.
 *
 * 1. The directory is named by a hash of its contents, so that one of another build is never taken for it. It comes to its
 *    name by a rename when it is complete: whoever sees it can use it, and any number may start at once.
 *    It is of one boot of the machine, which is in its name, too: after a power failure some of it may not be on the disk,
 *    and to make sure would take longer than to unpack it again.
 * 2. It is where only this user can write: under $XDG_CACHE_HOME, $HOME/.cache, $TMPDIR or /tmp, the first that works.
 * 3. exec keeps the process: its number, its signals and what systemd has handed to it are those of the server.
 * 4. A lock on the directory is kept open as long as the process lives. It tells the next build that unpacks itself which
 *    old directories nobody runs any more, which it removes, and systemd-tmpfiles that this one is in use.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define PROGRAM "fastws"
#define DAMAGED "this file is damaged or cut short; fetch it again"
#define ID_SIZE 16
#define BOOT_SIZE 8
#define NAME_SIZE (sizeof PROGRAM + ID_SIZE + BOOT_SIZE + 2)

/* Little-endian, as build.py writes them and as the machines are that this is made for. */
struct trailer {
    char magic[8];
    uint64_t offset, size; /* of the stream, in this file */
    char id[ID_SIZE];
};

/* Before the path and the contents of each; the end is one without a path. Of a link, the contents are where it leads. */
struct entry {
    uint64_t size;
    uint32_t mode;
    uint32_t path_size;
};

struct stream {
    z_stream inflate;
    int file;
    uint64_t left;
    unsigned char input[1 << 16];
};

static char problem[PATH_MAX + 256];

static int failed(const char *what, const char *path)
{
    snprintf(problem, sizeof problem, "%s %s: %s", what, path, strerror(errno));
    return -1;
}

static int damaged(void)
{
    snprintf(problem, sizeof problem, DAMAGED);
    errno = EIO;
    return -1;
}

/* Inflate once, after reading if need be. Returns what zlib says, or -1: Z_STREAM_END only after its checksum was right. */
static int step(struct stream *stream)
{
    /* At the end, zlib may have taken all and not given all. */
    if (!stream->inflate.avail_in && stream->left) {
        size_t wanted = stream->left < sizeof stream->input ? stream->left : sizeof stream->input;
        ssize_t n = read(stream->file, stream->input, wanted);
        if (n <= 0)
            return damaged();
        stream->left -= n;
        stream->inflate.next_in = stream->input;
        stream->inflate.avail_in = n;
    }
    int status = inflate(&stream->inflate, Z_NO_FLUSH);
    return status == Z_OK || status == Z_STREAM_END ? status : damaged();
}

static int take(struct stream *stream, void *to, size_t size)
{
    stream->inflate.next_out = to;
    stream->inflate.avail_out = size;
    while (stream->inflate.avail_out) {
        int status = step(stream);
        if (status == Z_STREAM_END && stream->inflate.avail_out)
            return damaged();
        if (status < 0)
            return -1;
    }
    return 0;
}

/* Nothing may follow what was taken but the checksum. */
static int finish(struct stream *stream)
{
    unsigned char rest;
    stream->inflate.next_out = &rest;
    stream->inflate.avail_out = sizeof rest;
    int status;
    do {
        status = step(stream);
        if (status < 0 || !stream->inflate.avail_out)
            return damaged();
    } while (status != Z_STREAM_END);
    return 0;
}

static int write_file(struct stream *stream, int directory, const char *path, const struct entry *entry)
{
    static unsigned char piece[1 << 18];
    int file = openat(directory, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, entry->mode & 0700);
    if (file < 0)
        return failed("cannot write", path);
    for (uint64_t left = entry->size; left;) {
        size_t size = left < sizeof piece ? left : sizeof piece;
        if (take(stream, piece, size)) {
            close(file);
            return -1;
        }
        left -= size;
        for (size_t done = 0; done < size;) {
            ssize_t n = write(file, piece + done, size - done);
            if (n < 0) {
                failed("cannot write", path);
                close(file);
                return -1;
            }
            done += n;
        }
    }
    return close(file) ? failed("cannot write", path) : 0;
}

static int unpack(int self, const struct trailer *trailer, int directory)
{
    static struct stream stream;
    memset(&stream, 0, sizeof stream);
    stream.file = self;
    stream.left = trailer->size;
    if (lseek(self, trailer->offset, SEEK_SET) < 0 || inflateInit(&stream.inflate) != Z_OK)
        return failed("cannot read", "itself");
    int status = 0;
    while (!status) {
        struct entry entry;
        char path[PATH_MAX], target[PATH_MAX];
        if ((status = take(&stream, &entry, sizeof entry)) || !entry.path_size)
            break;
        if (entry.path_size >= sizeof path) {
            errno = ENAMETOOLONG;
            status = failed("cannot write", "a file");
        } else if (!(status = take(&stream, path, entry.path_size))) {
            path[entry.path_size] = 0;
            if (S_ISDIR(entry.mode)) {
                if (mkdirat(directory, path, 0700))
                    status = failed("cannot make", path);
            } else if (S_ISLNK(entry.mode)) {
                if (entry.size >= sizeof target) {
                    errno = ENAMETOOLONG;
                    status = failed("cannot link", path);
                } else if (!(status = take(&stream, target, entry.size))) {
                    target[entry.size] = 0;
                    if (symlinkat(target, directory, path))
                        status = failed("cannot link", path);
                }
            } else {
                status = write_file(&stream, directory, path, &entry);
            }
        }
    }
    if (!status)
        status = finish(&stream);
    inflateEnd(&stream.inflate);
    return status;
}

static int remove_one(const char *path, const struct stat *unused, int kind, struct FTW *at)
{
    (void)unused, (void)kind, (void)at;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Remove what other builds have left in `place` and nobody runs. Best effort: it is room, and nothing else. */
static void remove_others(const char *place, const char *kept)
{
    DIR *all = opendir(place);
    if (!all)
        return;
    for (struct dirent *each; (each = readdir(all));) {
        char path[PATH_MAX];
        if (strncmp(each->d_name, PROGRAM "-", strlen(PROGRAM "-")) || !strcmp(each->d_name, kept))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", place, each->d_name) >= (int)sizeof path)
            continue;
        int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (directory < 0)
            continue;
        if (!flock(directory, LOCK_EX | LOCK_NB))
            remove_tree(path);
        close(directory);
    }
    closedir(all);
}

/* Make `place` where it is not there; 0 when it is this user's, and nobody else's to write to. */
static int own(const char *place)
{
    struct stat found;
    if (mkdir(place, 0700) && errno != EEXIST)
        return failed("cannot make", place);
    if (lstat(place, &found))
        return failed("cannot use", place);
    if (!S_ISDIR(found.st_mode) || found.st_uid != geteuid() || (found.st_mode & 022)) {
        errno = EPERM;
        return failed("others can write to", place);
    }
    return 0;
}

/* `path`/`name` into `to`, or an error. */
static int joined(char to[PATH_MAX], const char *path, const char *name)
{
    if (snprintf(to, PATH_MAX, "%s/%s", path, name) < PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    return failed("cannot use", path);
}

/* Unpack to `path` by way of `fresh`. Returns its directory, locked, or -1 with errno. */
static int make(int self, const struct trailer *trailer, const char *fresh, const char *path)
{
    remove_tree(fresh); /* of a process of the same number that was ended in the midst of it */
    if (mkdir(fresh, 0700))
        return failed("cannot make", fresh);
    int directory = open(fresh, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (directory < 0 || flock(directory, LOCK_SH)) {
        failed("cannot open", fresh);
    } else if (!unpack(self, trailer, directory)) {
        if (!rename(fresh, path))
            return directory;
        failed("cannot make", path);
    }
    int error = errno;
    if (directory >= 0)
        close(directory);
    remove_tree(fresh);
    errno = error;
    return -1;
}

static void name_it(char name[NAME_SIZE], const struct trailer *trailer)
{
    char boot[BOOT_SIZE] = "00000000";
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, boot, sizeof boot) != sizeof boot)
            memset(boot, '0', sizeof boot);
        close(file);
    }
    snprintf(name, NAME_SIZE, PROGRAM "-%.*s-%.*s", ID_SIZE, trailer->id, BOOT_SIZE, boot);
}

/* PyInstaller's start needs zlib, before it sets the same for the libraries that the program comes with. */
static void prefer_libraries(const char *path)
{
    const char *others = getenv("LD_LIBRARY_PATH");
    char value[2 * PATH_MAX];
    int size = snprintf(value, sizeof value, "%s/_internal%s%s", path, others ? ":" : "", others ? others : "");
    if (size < (int)sizeof value)
        setenv("LD_LIBRARY_PATH", value, 1);
}

/* Unpack into `place` if that has not been done, and become the program. Returns only when that does not work. */
static void start(int self, const struct trailer *trailer, const char *place, char **arguments)
{
    char name[NAME_SIZE], own_name[sizeof name + 24];
    char path[PATH_MAX], fresh[PATH_MAX], program[PATH_MAX];
    name_it(name, trailer);
    snprintf(own_name, sizeof own_name, "%s.%ld", name, (long)getpid());
    if (joined(path, place, name) || joined(fresh, place, own_name) || joined(program, path, PROGRAM) || own(place))
        return;
    /* More than once, because others may be making the same, or removing what they take for unused. */
    for (int n = 0; n < 3; n++) {
        int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (directory < 0) {
            directory = make(self, trailer, fresh, path);
            if (directory >= 0)
                remove_others(place, name);
            else if (errno == EEXIST || errno == ENOTEMPTY || errno == ENOENT)
                continue;
            else
                return;
        } else if (flock(directory, LOCK_SH)) {
            failed("cannot lock", path);
            close(directory);
            return;
        }
        prefer_libraries(path);
        execv(program, arguments);
        int error = errno;
        failed("cannot start", program);
        close(directory);
        if (error != ENOENT)
            return;
    }
}

int main(int n_arguments, char **arguments)
{
    (void)n_arguments;
    struct trailer trailer;
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self < 0) {
        fprintf(stderr, PROGRAM ": cannot open /proc/self/exe: %s; mount /proc\n", strerror(errno));
        return 1;
    }
    if (lseek(self, -(off_t)sizeof trailer, SEEK_END) < 0 || read(self, &trailer, sizeof trailer) != sizeof trailer
        || memcmp(trailer.magic, "fastws\r\n", sizeof trailer.magic)) {
        fprintf(stderr, PROGRAM ": " DAMAGED "\n");
        return 1;
    }
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *temporary = getenv("TMPDIR");
    char places[4][PATH_MAX];
    int n_places = 0;
    if (cache && cache[0] == '/')
        snprintf(places[n_places++], PATH_MAX, "%s/" PROGRAM, cache);
    if (home && home[0] == '/') {
        snprintf(places[n_places], PATH_MAX, "%s/.cache", home);
        mkdir(places[n_places], 0700); /* whether it is there now shows below */
        snprintf(places[n_places++], PATH_MAX, "%s/.cache/" PROGRAM, home);
    }
    if (temporary && temporary[0] == '/')
        snprintf(places[n_places++], PATH_MAX, "%s/" PROGRAM "-%ld", temporary, (long)geteuid());
    snprintf(places[n_places++], PATH_MAX, "/tmp/" PROGRAM "-%ld", (long)geteuid());
    char said[sizeof problem] = "";
    for (int n = 0; n < n_places; n++) {
        start(self, &trailer, places[n], arguments);
        if (!n)
            memcpy(said, problem, sizeof said);
    }
    fprintf(stderr, PROGRAM ": %s\n", said);
    if (strcmp(said, DAMAGED))
        fprintf(stderr, PROGRAM ": it unpacks itself once, and found no place for that; set XDG_CACHE_HOME to a directory "
            "that is yours, with 200 MB of room, and not mounted noexec\n");
    return 1;
}
