/* For `cargo xtask bench`: a program that is 25 calls deep and computes. `deep N` runs N rounds, `deep 0` for ever. */
#include <stdlib.h>

static volatile unsigned long sink;

__attribute__((noinline)) static void leaf(void) {
    unsigned long x = sink;
    for (int i = 0; i < 500000; i++)
        x = x * 6364136223846793005UL + 1442695040888963407UL;
    sink = x;
}

__attribute__((noinline)) static void call(int depth) {
    if (depth == 0)
        leaf();
    else
        call(depth - 1);
    sink++; /* No tail call. */
}

int main(int argc, char **argv) {
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    for (unsigned long round = 0; rounds == 0 || round < rounds; round++)
        call(22);
    return 0;
}
