// Package cache holds on to things, in the shapes that function names of profiles take.
package cache

import "sync"

// Cache is generic, so that its methods are named with [...].
type Cache[K comparable, V any] struct {
	mu    sync.Mutex
	items map[K]V
}

func New[K comparable, V any]() *Cache[K, V] {
	return &Cache[K, V]{items: make(map[K]V)}
}

func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items[k] = v
}

// Drop forgets all items for which f is true.
func (c *Cache[K, V]) Drop(f func(K) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.items {
		if f(k) {
			delete(c.items, k)
		}
	}
}

// Map is a generic function that calls a closure.
func Map[A, B any](as []A, f func(A) B) []B {
	bs := make([]B, 0, len(as))
	for _, a := range as {
		bs = append(bs, f(a))
	}
	return bs
}
