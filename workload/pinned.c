/* The program that `cargo xtask bench` slows down: pinned to one CPU, it does the same piece of work again and again
 * below 25 calls, or so many as are asked for, and prints the nanoseconds that each piece took.
 *
 *   pinned CPU [HZ [CALLS]]     with HZ, its own sampling clock runs that often with nobody reading: the timer's cost
 *                               alone
 */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CALLS 25
#define NOINLINE __attribute__((noinline))

static volatile unsigned long sink;

/* About 4 ms, of which no part touches memory. */
NOINLINE static void work(void) {
    unsigned long x = 1;
    for (int i = 0; i < 4000000; i++)
        x = x * 6364136223846793005UL + 1442695040888963407UL;
    sink += x;
}

NOINLINE static void below(int depth) {
    if (depth == 0)
        work();
    else
        below(depth - 1);
    sink++; /* No tail call. */
}

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static int open_clock(long hz) {
    struct perf_event_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.type = PERF_TYPE_SOFTWARE;
    attr.size = sizeof attr;
    attr.config = PERF_COUNT_SW_CPU_CLOCK;
    attr.freq = 1;
    attr.sample_freq = hz;
    return syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s CPU [HZ [CALLS]]\n", argv[0]);
        return 2;
    }
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(atoi(argv[1]), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) {
        perror("sched_setaffinity");
        return 1;
    }
    /* Whatever else wants this CPU gets little of it; without root it is as it is. */
    (void)setpriority(PRIO_PROCESS, 0, -20);
    if (argc > 2 && atol(argv[2]) > 0 && open_clock(atol(argv[2])) < 0) {
        perror("perf_event_open");
        return 1;
    }
    int calls = argc > 3 ? atoi(argv[3]) : CALLS;
    for (;;) {
        long start = now_ns();
        below(calls);
        if (printf("%ld\n", now_ns() - start) < 0 || fflush(stdout) != 0)
            return 0; /* Nobody reads any more. */
    }
}
