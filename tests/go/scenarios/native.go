package main

import (
	"os"
	"runtime"
	"sync"
	"syscall"
)

// offHeapCache keeps values where the garbage collector does not look, and cannot free.
type offHeapCache struct{ slabs [][]byte }

var offHeap offHeapCache

func (c *offHeapCache) addSlab(size int) {
	slab, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	must(err)
	touch(slab)
	c.slabs = append(c.slabs, slab)
}

func growOffHeapCache(bytes int64) {
	growResident(bytes, func() { offHeap.addSlab(4 << 20) })
}

// fill makes the file this long, with pages that are really there.
func fill(file *os.File, bytes int64) {
	chunk := make([]byte, 1<<20)
	touch(chunk)
	for written := int64(0); written < bytes; written += int64(len(chunk)) {
		_, err := file.Write(chunk)
		must(err)
	}
}

var segments [][]byte

var total byte

// readAll is a query that looks at every page of the segment.
func readAll(segment []byte) (sum byte) {
	for i := 0; i < len(segment); i += 4096 {
		sum += segment[i]
	}
	return sum
}

// mapSegments maps a file below TMPDIR, as an embedded database does, and reads it.
func mapSegments(bytes int64) {
	file, err := os.CreateTemp("", "segments-*.db")
	must(err)
	atEnd(func() { os.Remove(file.Name()) })
	fill(file, bytes)
	segment, err := syscall.Mmap(int(file.Fd()), 0, int(bytes), syscall.PROT_READ, syscall.MAP_SHARED)
	must(err)
	must(file.Close())
	total = readAll(segment)
	segments = append(segments, segment)
}

// shareRing maps a ring buffer in tmpfs, as processes that talk through memory do.
func shareRing(bytes int64) {
	file, err := os.CreateTemp("/dev/shm", "ring-*")
	must(err)
	must(os.Remove(file.Name()))
	must(file.Truncate(bytes))
	ring, err := syscall.Mmap(int(file.Fd()), 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	must(err)
	must(file.Close())
	touch(ring)
	segments = append(segments, ring)
}

// readSensor is pinned to a thread, as drivers ask for, and waits in the kernel.
func readSensor(fd int, blocks func()) {
	runtime.LockOSThread()
	frame := make([]byte, 512)
	blocks()
	syscall.Read(fd, frame)
}

// readBlocking makes threads without cgo. Some 25 KiB of each are resident, so the threads stop at 4,000, short of limits.
func readBlocking(bytes int64) {
	var pipe [2]int
	must(syscall.Pipe(pipe[:]))
	start := resident()
	for threads := 0; threads < 4000 && resident()-start < bytes; threads += 20 {
		var ready sync.WaitGroup
		for i := 0; i < 20; i++ {
			ready.Add(1)
			go readSensor(pipe[0], ready.Done)
		}
		ready.Wait()
	}
}
