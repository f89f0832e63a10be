//go:build cgo

package main

/*
#cgo LDFLAGS: -lpthread
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *kept;

static void *decode_frame(size_t size) {
	void *frame = malloc(size);
	if (frame) memset(frame, 1, size);
	return frame;
}

static void *transcode(void *unused) {
	volatile char work[1 << 20];
	for (size_t i = 0; i < sizeof work; i += 4096) work[i] = 1;
	for (;;) pause();
	return NULL;
}

// a frame on the stack of whatever thread the caller is on
static void transcode_here(void) {
	volatile char work[768 << 10];
	for (size_t i = 0; i < sizeof work; i += 4096) work[i] = 1;
	pause();
}

// every second block is freed: what is left keeps the pages
static void decode_and_thin(size_t bytes) {
	size_t size = 3000, count = bytes / size;
	char **blocks = malloc(count * sizeof *blocks);
	if (!blocks) return;
	for (size_t i = 0; i < count; i++) {
		blocks[i] = malloc(size);
		if (blocks[i]) memset(blocks[i], 1, size);
	}
	for (size_t i = 0; i < count; i += 2) free(blocks[i]);
	kept = blocks;
}

// an allocator of its own, with arenas of 64 MiB that are aligned as Go's are
static int map_arena(size_t used) {
	size_t arena = 64 << 20;
	char *whole = mmap(NULL, 2 * arena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (whole == MAP_FAILED) return 1;
	char *start = (char *)(((size_t)whole + arena - 1) & ~(arena - 1));
	if (start > whole) munmap(whole, start - whole);
	if (start < whole + arena) munmap(start + arena, whole + arena - start);
	if (mprotect(start, arena, PROT_READ | PROT_WRITE)) return 1;
	memset(start, 1, used);
	return 0;
}

static int start_transcoder(void) {
	pthread_t thread;
	return pthread_create(&thread, NULL, transcode, NULL);
}
*/
import "C"

import (
	"log"
	"runtime"
	"sync"
)

func cgoScenarios() []scenario {
	return []scenario{
		{name: "cgo_malloc", grow: decodeFrames},
		{name: "cgo_malloc_big", grow: decodeFilms},
		{name: "cgo_and_churn", grow: decodeFramesUnderLoad},
		{name: "threads_c", grow: startTranscoders},
		{name: "cgo_fragmented", grow: decodeAndThin},
		{name: "cgo_own_arenas", grow: mapArenas},
		{name: "cgo_calls_that_block", grow: transcodeInCalls},
		{name: "cgo_beside_subscribers", healthy: fewSubscribers, grow: decodeFrames},
	}
}

// decodeFrame forgets to free what C has allocated.
func decodeFrame(size int) {
	if C.decode_frame(C.size_t(size)) == nil {
		log.Fatal("malloc: no memory")
	}
}

// decodeFrames leaks small allocations from several threads: glibc takes them from arenas of its own, 64 MiB each.
func decodeFrames(bytes int64) {
	const threads = 4
	var locked, done sync.WaitGroup
	locked.Add(threads)
	done.Add(threads)
	for i := 0; i < threads; i++ {
		go func() {
			defer done.Done()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			locked.Wait()
			for leaked := int64(0); leaked < bytes/threads; leaked += 48 << 10 {
				decodeFrame(48 << 10)
			}
		}()
	}
	done.Wait()
}

// decodeFilms leaks allocations so large that each is a mapping.
func decodeFilms(bytes int64) {
	growResident(bytes, func() { decodeFrame(1 << 20) })
}

// decodeFramesUnderLoad leaks in C while a healthy Go heap makes the usual garbage.
func decodeFramesUnderLoad(bytes int64) {
	serveSteadily(bytes / 2)
	decodeFrames(bytes)
}

// startTranscoders starts threads of C that each use 1 MiB of their stack.
func startTranscoders(bytes int64) {
	for i := int64(0); i < bytes>>20; i++ {
		if C.start_transcoder() != 0 {
			log.Fatal("pthread_create: no thread")
		}
	}
	reachResident(bytes)
}

func decodeAndThin(bytes int64) { C.decode_and_thin(C.size_t(bytes)) }

// mapArenas has each arena in use by three quarters.
func mapArenas(bytes int64) {
	growResident(bytes, func() {
		if C.map_arena(48<<20) != 0 {
			log.Fatal("mmap: no memory")
		}
	})
}

// transcodeInCalls has calls into C that do not return: each keeps a thread, and what it uses of its stack.
func transcodeInCalls(bytes int64) {
	for i := int64(0); i < bytes/(768<<10); i++ {
		go C.transcode_here()
	}
	reachResident(bytes)
}
