/* The sample workload: phases whose share of the CPU time is known, for `cargo xtask demo` and for tests.
 *
 * Each phase accounts its own CPU time by CLOCK_THREAD_CPUTIME_ID, slice by slice, under the name of the function that
 * took it. At the end (--seconds N, or SIGTERM) the truth is printed as JSON, for a profile to be compared with.
 *
 *   cpu     work_half, work_third, work_fifth: 50, 30 and 20 % of one thread, interleaved in slices of about 0.2 ms
 *   deep    deep_leaf below 60 frames of deep_call
 *   sleep   burn_awake: 700 ms of each second on the CPU, 300 ms asleep
 *   lock    two threads that fight for a mutex, which hold_lock keeps for 5 ms while it sleeps
 *   memory  grow_memory: 1 MB more every 100 ms, up to 64 MB, then from the start
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define MEMORY_STEPS 64

static volatile sig_atomic_t stopped;
static volatile unsigned long sink;

/* One phase's account. Written by one thread each. */
struct account {
    const char *function;
    double cpu_seconds;
};
static struct account half = {"work_half"}, third = {"work_third"}, fifth = {"work_fifth"}, deep = {"deep_leaf"},
                      awake = {"burn_awake"}, memory = {"grow_memory"};

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Arithmetic that the compiler cannot drop; about 0.2 ms. A macro, so that each function below has a loop of its own. */
#define SPIN(seed)                                                                                                     \
    do {                                                                                                               \
        unsigned long x = (seed);                                                                                      \
        for (int i = 0; i < 100000; i++)                                                                               \
            x = x * 6364136223846793005UL + 1442695040888963407UL;                                                     \
        sink += x;                                                                                                     \
    } while (0)

NOINLINE static void work_half(void) { SPIN(1); }
NOINLINE static void work_third(void) { SPIN(2); }
NOINLINE static void work_fifth(void) { SPIN(3); }
NOINLINE static void deep_leaf(void) { SPIN(4); }
NOINLINE static void burn_awake(void) { SPIN(5); }

NOINLINE static void deep_call(int depth) {
    if (depth == 0)
        deep_leaf();
    else
        deep_call(depth - 1);
    sink++; /* No tail call. */
}

/* Runs one slice, and enters what it took. */
static void account(struct account *account, void (*slice)(void)) {
    double start = cpu_seconds();
    slice();
    account->cpu_seconds += cpu_seconds() - start;
}

static void *cpu_phase(void *unused) {
    static const double shares[3] = {0.5, 0.3, 0.2};
    struct account *accounts[3] = {&half, &third, &fifth};
    void (*const slices[3])(void) = {work_half, work_third, work_fifth};
    while (!stopped) {
        /* Whoever is furthest behind its share is next. */
        int next = 0;
        for (int i = 1; i < 3; i++)
            if (accounts[i]->cpu_seconds / shares[i] < accounts[next]->cpu_seconds / shares[next])
                next = i;
        account(accounts[next], slices[next]);
    }
    return unused;
}

static void deep_slice(void) { deep_call(60); }

static void *deep_phase(void *unused) {
    while (!stopped)
        account(&deep, deep_slice);
    return unused;
}

static void *sleep_phase(void *unused) {
    while (!stopped) {
        double start = cpu_seconds();
        while (!stopped && cpu_seconds() - start < 0.7)
            account(&awake, burn_awake);
        sleep_ms(300);
    }
    return unused;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

NOINLINE static void hold_lock(void) {
    sleep_ms(5);
    sink++;
}

static void *lock_phase(void *unused) {
    while (!stopped) {
        pthread_mutex_lock(&mutex);
        hold_lock();
        pthread_mutex_unlock(&mutex);
        sleep_ms(1);
    }
    return unused;
}

static char *blocks[MEMORY_STEPS];

NOINLINE static void grow_memory(int step) {
    if (step == 0)
        for (int i = 0; i < MEMORY_STEPS; i++) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
    blocks[step] = malloc(1 << 20);
    if (blocks[step])
        memset(blocks[step], step, 1 << 20);
    /* Something is left to do: else the compiler jumps to memset, and this function is on no stack. */
    sink += step;
}

static void *memory_phase(void *unused) {
    for (int step = 0; !stopped; step = (step + 1) % MEMORY_STEPS) {
        double start = cpu_seconds();
        grow_memory(step);
        memory.cpu_seconds += cpu_seconds() - start;
        sleep_ms(100);
    }
    return unused;
}

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

/* Whether each word of the list is a phase. */
static int all_known(const char *phases) {
    static const char *const known[] = {"cpu", "deep", "sleep", "lock", "memory"};
    for (const char *word = phases; *word != '\0';) {
        size_t length = strcspn(word, ","), i = 0;
        while (i < sizeof known / sizeof *known && (strlen(known[i]) != length || strncmp(known[i], word, length) != 0))
            i++;
        if (i == sizeof known / sizeof *known)
            return 0;
        word += length + (word[length] == ',');
    }
    return 1;
}

int main(int argc, char **argv) {
    const char *phases = "cpu,deep,sleep,lock,memory";
    double seconds = 1e9;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--phases") == 0)
            phases = argv[++i];
        else {
            fprintf(stderr, "usage: %s [--seconds N] [--phases cpu,deep,sleep,lock,memory]\n", argv[0]);
            return 2;
        }
    }
    if (!all_known(phases)) {
        fprintf(stderr, "%s: --phases takes cpu, deep, sleep, lock, memory, with commas between\n", argv[0]);
        return 2;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    static const struct {
        const char *phase, *thread;
        void *(*run)(void *);
    } threads[] = {
        {"cpu", "cpu", cpu_phase},       {"deep", "deep", deep_phase},       {"sleep", "sleeper", sleep_phase},
        {"lock", "lock-1", lock_phase},  {"lock", "lock-2", lock_phase},     {"memory", "memory", memory_phase},
    };
    pthread_t started[sizeof threads / sizeof *threads];
    int count = 0;
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        if (strstr(phases, threads[i].phase)) {
            if (pthread_create(&started[count], NULL, threads[i].run, NULL) != 0)
                return 1;
            pthread_setname_np(started[count++], threads[i].thread);
        }
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        sleep_ms(20);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (!stopped && now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) * 1e-9 < seconds);
    stopped = 1;
    for (int i = 0; i < count; i++)
        pthread_join(started[i], NULL);

    const struct account *accounts[] = {&half, &third, &fifth, &deep, &awake, &memory};
    printf("{");
    for (size_t i = 0; i < sizeof accounts / sizeof *accounts; i++)
        printf("%s\"%s\": %.6f", i ? ", " : "", accounts[i]->function, accounts[i]->cpu_seconds);
    printf("}\n");
    return 0;
}
