//go:build go1.23

package main

import "iter"

// newer is what Go 1.23 brought: coroutines.
func newer() {
	start(2, func() {
		next, _ := iter.Pull(func(yield func(int) bool) {
			yield(1)
			wait()
		})
		next()
		next()
	})
	start(2, func() {
		for range func(yield func() bool) { wait(); yield() } {
		}
	})
}
