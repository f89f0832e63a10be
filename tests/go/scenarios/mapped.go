package main

import (
	"os"
	"syscall"
	"unsafe"
)

// instance is a linear memory with a guard page on both sides, as runtimes of WebAssembly have them.
func (c *offHeapCache) addInstance(size int) {
	const guard = 4096
	whole, err := syscall.Mmap(-1, 0, size+2*guard, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	must(err)
	memory := whole[guard : guard+size]
	must(syscall.Mprotect(memory, syscall.PROT_READ|syscall.PROT_WRITE))
	touch(memory)
	c.slabs = append(c.slabs, memory)
}

func startInstances(bytes int64) { growResident(bytes, func() { offHeap.addInstance(8 << 20) }) }

func startSmallInstances(bytes int64) { growResident(bytes, func() { offHeap.addInstance(256 << 10) }) }

// patchTable maps a data file privately, and writes to its copy.
func patchTable(bytes int64) {
	file, err := os.CreateTemp("", "table-*.bin")
	must(err)
	atEnd(func() { os.Remove(file.Name()) })
	fill(file, bytes)
	table, err := syscall.Mmap(int(file.Fd()), 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	must(err)
	must(file.Close())
	touch(table)
	segments = append(segments, table)
}

// openStore is an embedded database: a file that is mapped and written, with a healthy heap beside it.
func openStore(bytes int64) {
	loadCatalog(bytes / 10)
	file, err := os.CreateTemp("", "store-*.db")
	must(err)
	atEnd(func() { os.Remove(file.Name()) })
	fill(file, bytes)
	store, err := syscall.Mmap(int(file.Fd()), 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	must(err)
	must(file.Close())
	touch(store)
	segments = append(segments, store)
}

// shareAnonymously has memory for children that were never started.
func shareAnonymously(bytes int64) {
	board, err := syscall.Mmap(-1, 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_SHARED)
	must(err)
	touch(board)
	segments = append(segments, board)
}

// mapHuge touches one byte of each 2 MiB, in memory for which it has asked for huge pages.
func mapHuge(bytes int64) {
	const huge = 2 << 20
	sparse, err := syscall.Mmap(-1, 0, int(bytes)+huge, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	must(err)
	must(syscall.Madvise(sparse, madvHugepage))
	skip := -uintptr(unsafe.Pointer(&sparse[0])) % huge
	for at := skip; at+huge <= uintptr(len(sparse)); at += huge {
		sparse[at] = 1
	}
	if got := resident(); got < bytes/2 {
		touch(sparse)
	}
	offHeap.slabs = append(offHeap.slabs, sparse)
}
