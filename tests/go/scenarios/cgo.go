//go:build cgo

package main

/*
#cgo LDFLAGS: -lpthread
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
