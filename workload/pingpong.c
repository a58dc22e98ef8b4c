/* What `cargo xtask bench` measures the cost of a switch by: two processes on one CPU send a byte to and fro by pipes, and
 * after each 10,000 switches the nanoseconds of one are printed.
 *
 *   pingpong CPU
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5000

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **arguments) {
    cpu_set_t cpus;
    int to[2], fro[2];
    char byte = 0;
    CPU_ZERO(&cpus);
    CPU_SET(count > 1 ? atoi(arguments[1]) : 0, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) || pipe(to) || pipe(fro)) {
        perror("pingpong");
        return 1;
    }
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (read(to[0], &byte, 1) == 1 && write(fro[1], &byte, 1) == 1) {}
        return 0;
    }
    for (;;) {
        double start = now();
        for (int i = 0; i < ROUNDS; i++)
            if (write(to[1], &byte, 1) != 1 || read(fro[0], &byte, 1) != 1)
                return 1;
        printf("%.0f\n", (now() - start) / (2 * ROUNDS));
        if (fflush(stdout))
            return 0;
    }
}
