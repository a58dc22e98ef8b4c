/* Stacks for the unwinder:
 *   stacks deep N            N calls of recurse, and work at the end
 *   stacks exec PROGRAM ARGUMENTS
 *                            works for 4 s in work_before, then becomes another program
 *   stacks open LIBRARY      works for 4 s in work_before, then opens the library and works in its work_inside
 * Without -DLIBRARY a program, with it that library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile unsigned long sink;

NOINLINE static void work(void) {
    for (int i = 0; i < 100000; i++) sink += i;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

#ifdef LIBRARY
NOINLINE static void inner(void) {
    for (;;) work();
}

NOINLINE void work_inside(void) {
    inner();
    sink++;
}
#else
NOINLINE static void recurse(long depth) {
    if (depth > 1)
        recurse(depth - 1);
    else
        for (;;) work();
    sink++; /* no tail call */
}

NOINLINE static void work_before(void) {
    for (double end = now() + 4; now() < end;) work();
}

int main(int count, char **arguments) {
    const char *mode = count > 2 ? arguments[1] : "";
    if (strcmp(mode, "deep") == 0) {
        /* main's own stack grows up to the limit that the program was started with */
        struct rlimit large = {256 << 20, RLIM_INFINITY}, limit;
        getrlimit(RLIMIT_STACK, &limit);
        if (limit.rlim_cur < large.rlim_cur && setrlimit(RLIMIT_STACK, &large) == 0)
            execv("/proc/self/exe", arguments);
        recurse(atol(arguments[2]));
    }
    work_before();
    if (strcmp(mode, "exec") == 0)
        execv(arguments[2], arguments + 2);
    if (strcmp(mode, "open") == 0) {
        void *library = dlopen(arguments[2], RTLD_NOW);
        void (*inside)(void) = library ? (void (*)(void))dlsym(library, "work_inside") : NULL;
        if (inside)
            inside();
    }
    perror("stacks");
    return 1;
}
#endif
