#include <stdlib.h>

volatile long sink;

static inline __attribute__((always_inline)) long square(long x) {
    sink += x;
    return x * x;
}

static inline __attribute__((always_inline)) long cube(long x) {
    long y = square(x);
    sink -= y;
    return y * x;
}

__attribute__((noinline)) long hidden_sum(long n) {
    long total = 0;
    for (long i = 0; i < n; i++) {
        total += cube(i);
    }
    return total;
}

static __attribute__((noinline)) long file_local(long n) {
    return square(n) + hidden_sum(n);
}

int main(int argc, char **argv) {
    long n = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
    return (int)(file_local(n) & 1);
}
