// The wall clock of one host of the lab: the machine's, and so many nanoseconds beside it, as a shared page says. Loaded
// before the programs of that host, so that a step is seen by all of them at once, and by nobody else. The page may also have it
// stepped at every look.
//
// Clocks that no step moves (monotonic, boot time) are left alone. What stays the machine's: the stamps that the file system
// writes, and a wait until a moment of the wall clock, of which these programs have none.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

struct page {
    int64_t beside;
    int64_t at_every_look;
};

static struct page *page;

// A program that would silently run by the machine's clock is worse than none.
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MESH_LAB_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) {
        fputs("the lab's clock, which MESH_LAB_CLOCK is to name, cannot be read\n", stderr);
        abort();
    }
    close(file);
    page = at;
}

static int64_t now(clockid_t clock) {
    struct timespec time;
    syscall(SYS_clock_gettime, clock, &time);
    int64_t at = (int64_t)time.tv_sec * SECOND + time.tv_nsec;
    if (!page) {
        return at;
    }
    int64_t step = __atomic_load_n(&page->at_every_look, __ATOMIC_RELAXED);
    return at + (step ? __atomic_add_fetch(&page->beside, step, __ATOMIC_RELAXED)
                      : __atomic_load_n(&page->beside, __ATOMIC_RELAXED));
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) {
        return syscall(SYS_clock_gettime, clock, time);
    }
    int64_t at = now(clock);
    *time = (struct timespec){.tv_sec = at / SECOND, .tv_nsec = at % SECOND};
    return 0;
}

int gettimeofday(struct timeval *time, void *zone) {
    (void)zone;
    int64_t at = now(CLOCK_REALTIME);
    *time = (struct timeval){.tv_sec = at / SECOND, .tv_usec = at % SECOND / 1000};
    return 0;
}

time_t time(time_t *out) {
    time_t at = now(CLOCK_REALTIME_COARSE) / SECOND;
    if (out) {
        *out = at;
    }
    return at;
}
