package main

// slab is reserved, and hardly touched: a hash table that is to be filled, a ballast, an arena of one's own.
var slab []byte

const slabBytes = 1 << 30

func reserveSlab(int64) { slab = make([]byte, slabBytes) }

// index is reserved for keys that have not come.
var index []uint64

func reserveIndex(bytes int64) {
	index = make([]uint64, 2*bytes/8)
	index[0] = 1
}
