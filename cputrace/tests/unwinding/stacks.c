/* Stacks for the unwinder:
 *   stacks deep N            N calls of recurse, and work at the end
 *   stacks exec PROGRAM ARGUMENTS
 *                            works for 4 s in work_before, then becomes another program
 *   stacks open LIBRARY      works for 4 s in work_before, then opens the library and works in its work_inside
 *   stacks signal own|other  a handler, on its own stack or another, over a function without a frame
 *   stacks trampoline -      works behind code that was made while it runs, without a frame pointer
 *   stacks clock -           asks for the time, in the vDSO
 *   stacks mapped N          works with N mappings of code
 * Without -DLIBRARY a program, with it that library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
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

NOINLINE static void work_for_ever(void) {
    for (;;) work();
}

static void handle(int number) {
    work();
    sink += number;
}

NOINLINE static void be_interrupted(void) {
    for (;;) sink++;
}

static void signals(int on_other_stack) {
    static char other[64 << 10];
    stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    struct sigaction action = {.sa_handler = handle, .sa_flags = on_other_stack ? SA_ONSTACK : 0};
    struct itimerval often = {{0, 500}, {0, 500}};
    sigaltstack(&stack, NULL);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    be_interrupted();
    sink++;
}

static void trampoline(void) {
    /* sub $8,%rsp; call *%rdi; add $8,%rsp; ret */
    static const unsigned char code[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd7, 0x48, 0x83, 0xc4, 8, 0xc3};
    void *page = mmap(NULL, sizeof code, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    memcpy(page, code, sizeof code);
    ((void (*)(void (*)(void)))page)(work_for_ever);
    sink++;
}

NOINLINE static void ask_for_time(void) {
    for (;;) sink += now();
}

/* The same page again and again, with one between that is not mapped. */
static void map_much(long count) {
    int file = open("/proc/self/exe", O_RDONLY);
    char *room = mmap(NULL, count * 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long i = 0; i < count && room != MAP_FAILED; i++)
        mmap(room + i * 8192, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 4096);
    puts("mapped");
    fflush(stdout);
    work_for_ever();
    sink++;
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
    if (strcmp(mode, "signal") == 0)
        signals(strcmp(arguments[2], "other") == 0);
    if (strcmp(mode, "trampoline") == 0)
        trampoline();
    if (strcmp(mode, "clock") == 0)
        ask_for_time();
    if (strcmp(mode, "mapped") == 0)
        map_much(atol(arguments[2]));
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
