// Command tiny is as small as a Go program can be that has all of what memtrap reads: its core is what the fuzz target goruntime starts from.
package main

import (
	"runtime"
	"syscall"
)

type session struct {
	name string
	next *session
	body []byte
}

var (
	sessions = map[string]*session{}
	waiting  = make(chan int)
)

func worker(at int) {
	kept := make([]byte, 512)
	waiting <- at + len(kept)
}

func fill() {
	var last *session
	for i := 0; i < 40; i++ {
		last = &session{name: string(rune('A' + i)), next: last, body: make([]byte, 300)}
		sessions[last.name] = last
	}
}

func main() {
	runtime.MemProfileRate = 512
	fill()
	for i := 0; i < 5; i++ {
		go worker(i)
	}
	runtime.Gosched()
	runtime.GC()
	runtime.GC()
	// without a use of it the linker leaves heap profiling out
	runtime.MemProfile(nil, true)
	print("READY\n")
	// until standard input ends
	syscall.Read(0, make([]byte, 1))
	runtime.KeepAlive(sessions)
}
