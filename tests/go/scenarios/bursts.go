package main

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// returnFreed leaves nothing that is free and resident.
func returnFreed() {
	runtime.GC()
	debug.FreeOSMemory()
}

// answerSlowly makes a little garbage, for ever.
func answerSlowly(size int, pause time.Duration) {
	for {
		answer := make([]byte, size)
		touch(answer)
		lastAnswer = answer
		time.Sleep(pause)
	}
}

// rebuildIndexThenIdle is a burst that is over, in a service that goes on allocating 2 MiB a second.
func rebuildIndexThenIdle(bytes int64) {
	rebuildIndex(bytes)
	go answerSlowly(64<<10, 30*time.Millisecond)
}

// rebuildIndexThenServe goes on with 12 MiB a second, whose garbage is collected at a goal of some MiB.
func rebuildIndexThenServe(bytes int64) {
	rebuildIndex(bytes)
	go answerSlowly(64<<10, 5*time.Millisecond)
}

// raiseTarget sets at run time what GOGC would, and does not show in the environment.
func raiseTarget(bytes int64) {
	loadCatalog(bytes / 5)
	runtime.GC()
	debug.SetGCPercent(400)
	go serve(5 * time.Millisecond)
	go serve(5 * time.Millisecond)
	reachGarbage(bytes * 8 / 10)
}

// raiseLimit sets at run time what GOGC=off with GOMEMLIMIT would.
func raiseLimit(bytes int64) {
	loadCatalog(bytes / 12)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(bytes)
	go serve(5 * time.Millisecond)
	go serve(5 * time.Millisecond)
	reachGarbage(bytes * 8 / 10)
}

// entry is small, and many of them are live.
type entry struct{ fields [24]int64 }

var entries []*entry

// fillUpToTheLimit has more live than its memory limit leaves room for: the collector never rests.
func fillUpToTheLimit(bytes int64) {
	growResident(bytes*9/10, func() {
		for i := 0; i < 1000; i++ {
			entries = append(entries, new(entry))
		}
	})
	debug.SetMemoryLimit(bytes)
	go serve(5 * time.Millisecond)
	time.Sleep(time.Second)
}

// churnFast makes garbage as fast as a core can, with as much live as that; the collector runs several times a second.
func churnFast(bytes int64) {
	loadCatalog(bytes / 12)
	debug.SetGCPercent(700)
	body := queryBody()
	for i := 0; i < 2; i++ {
		go func() {
			for {
				handleQuery(body)
			}
		}()
	}
	reachGarbage(bytes * 7 / 10)
}

var scratch = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encodeBurst leaves its buffers in a pool that nobody uses since: two collections empty it.
func encodeBurst(growth int64) {
	const encoders = 64
	size := int(growth / encoders)
	var busy, done sync.WaitGroup
	busy.Add(encoders)
	done.Add(encoders)
	for i := 0; i < encoders; i++ {
		go func() {
			defer done.Done()
			buffer := scratch.Get().(*bytes.Buffer)
			buffer.Grow(size)
			row := make([]byte, 1<<10)
			touch(row)
			for written := 0; written < size; written += len(row) {
				buffer.Write(row)
			}
			busy.Done()
			busy.Wait()
			scratch.Put(buffer)
		}()
	}
	done.Wait()
}

// lazily has freed memory marked with MADV_FREE, as before Go 1.16: it is resident until the kernel needs it.
func lazily(int64) []string { return []string{"GODEBUG=madvdontneed=0"} }

func rebuildIndexAndReturnLazily(bytes int64) {
	rebuildIndex(bytes)
	returnFreed()
}

const (
	madvHugepage = 14
	madvCollapse = 25
)

var corners []*posting

// becomeHuge has released what it freed, and the kernel makes it resident again: one live object in each huge page is enough.
func becomeHuge(bytes int64) {
	postings := buildPostings(bytes)
	for i := 0; i < len(postings); i += 31 {
		corners = append(corners, postings[i])
	}
	postings = nil
	returnFreed()
	collapsed := 0
	eachArena(func(low, high uintptr) {
		const huge = 2 << 20
		syscall.Syscall(syscall.SYS_MADVISE, low, high-low, madvHugepage)
		for at := (low + huge - 1) &^ (huge - 1); at+huge <= high; at += huge {
			if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, at, huge, madvCollapse); errno == 0 {
				collapsed++
			}
		}
	})
	if int64(collapsed)<<21 < bytes/2 {
		panic("the kernel makes no huge pages on request (MADV_COLLAPSE)")
	}
}

// eachArena visits the regions of 64 MiB that hold a live posting.
func eachArena(visit func(low, high uintptr)) {
	const arena = 64 << 20
	seen := map[uintptr]bool{}
	for _, corner := range corners {
		if low := uintptr(unsafe.Pointer(corner)) &^ (arena - 1); !seen[low] {
			seen[low] = true
			visit(low, low+arena)
		}
	}
}
