/* A program that does nothing, and on a signal makes trouble for as many seconds as its argument says: on SIGUSR1 `burn` takes
 * a CPU; on SIGUSR2 three threads fight for a lock, which its holder keeps while it sleeps. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double seconds;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

__attribute__((noinline)) void burn(double end) {
    volatile unsigned long sum = 0;
    do
        for (int index = 0; index < 1000000; index++) sum += index;
    while (now() < end);
}

__attribute__((noinline)) void fight(double end) {
    while (now() < end) {
        pthread_mutex_lock(&lock);
        usleep(50000);
        pthread_mutex_unlock(&lock);
        usleep(1);
    }
}

static void *fighter(void *end) {
    fight(*(double *)end);
    return NULL;
}

int main(int count, char **arguments) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    setpriority(PRIO_PROCESS, 0, -15); /* whatever else runs, it has its CPU */
    seconds = count > 1 ? atof(arguments[1]) : 10;
    for (;;) {
        int signal;
        if (sigwait(&signals, &signal)) return 1;
        double end = now() + seconds;
        if (signal == SIGUSR1) {
            burn(end);
            continue;
        }
        pthread_t threads[3];
        for (int index = 0; index < 3; index++)
            if (pthread_create(&threads[index], NULL, fighter, &end)) return 1;
        for (int index = 0; index < 3; index++) pthread_join(threads[index], NULL);
    }
}
