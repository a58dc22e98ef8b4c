// Goroutines that work, wait for each other and grow their stacks, without end.
package main

import (
	"sort"
	"strings"
)

func leaf(n int) int {
	sum := 0
	for i := 0; i < n; i++ {
		sum += i * i % 7
	}
	return sum
}

func recurse(depth int) int {
	if depth == 0 {
		return leaf(20000)
	}
	return recurse(depth-1) + 1
}

func worker(results chan int) {
	for {
		results <- recurse(30)
	}
}

func main() {
	results := make(chan int, 4)
	for i := 0; i < 2; i++ {
		go worker(results)
	}
	for total := 0; ; {
		total += <-results
		words := strings.Split(strings.Repeat("b,a,", 200), ",")
		sort.Strings(words)
	}
}
