/* Threads whose waits are known: `sleeper` burns 700 ms of each second and sleeps for the rest; `holder` holds a lock for
 * 5 ms, again and again, and `waiter` wants it, too. With a number as its argument: that many threads that sleep 10 ms at a
 * time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

__attribute__((noinline)) static void burn(double seconds) {
    double end = now() + seconds;
    while (now() < end) {}
}

__attribute__((noinline)) void hold_lock(void) {
    pthread_mutex_lock(&lock);
    burn(0.005);
    pthread_mutex_unlock(&lock);
    __asm__ volatile(""); /* no tail call: the function stays on the stack */
}

__attribute__((noinline)) void take_lock(void) {
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    __asm__ volatile("");
}

static void *holder(void *argument) {
    pthread_setname_np(pthread_self(), "holder");
    for (;;) {
        hold_lock();
        usleep(5000);
    }
    return argument;
}

static void *waiter(void *argument) {
    pthread_setname_np(pthread_self(), "waiter");
    for (;;) {
        take_lock();
        usleep(1000);
    }
    return argument;
}

static void *sleeper(void *argument) {
    pthread_setname_np(pthread_self(), "sleeper");
    for (;;) {
        double start = now();
        burn(0.7);
        double rest = 1.0 - (now() - start);
        if (rest > 0) usleep(rest * 1e6);
    }
    return argument;
}

static void *sleeps(void *argument) {
    for (;;) usleep(10000);
    return argument;
}

int main(int count, char **arguments) {
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    int many = count > 1 ? atoi(arguments[1]) : 0;
    for (int index = 0; index < many; index++)
        if (pthread_create(&thread, &small, sleeps, NULL)) return 1;
    if (!many) {
        pthread_create(&thread, NULL, holder, NULL);
        pthread_create(&thread, NULL, waiter, NULL);
        pthread_create(&thread, NULL, sleeper, NULL);
    }
    return pthread_join(thread, NULL);
}
