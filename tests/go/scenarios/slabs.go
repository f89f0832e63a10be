package main

import (
	"syscall"
	"unsafe"
)

// slab is reserved, and hardly touched: a hash table that is to be filled, a ballast, an arena of one's own.
var slab []byte

const slabBytes = 1 << 30

func reserveSlab(int64) { slab = reserve(slabBytes) }

// reserve makes bytes that were never touched. The runtime clears all of an object that begins in memory that was in use before: what
// it touched so is given back.
func reserve(bytes int) []byte {
	const page = 4096
	reserved := make([]byte, bytes+page)
	first := -uintptr(unsafe.Pointer(&reserved[0])) & (page - 1)
	reserved = reserved[first:][:bytes]
	if err := syscall.Madvise(reserved, syscall.MADV_DONTNEED); err != nil {
		panic(err)
	}
	return reserved
}

// index is reserved for keys that have not come.
var index []uint64

func reserveIndex(bytes int64) {
	index = unsafe.Slice((*uint64)(unsafe.Pointer(&reserve(int(2 * bytes))[0])), 2*bytes/8)
	index[0] = 1
}
