// Command shapes holds goroutines in all the ways that a stack can look, for good, and serves pprof beside them.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"reflect"
	"runtime"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"
)

var (
	exitAfter = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin     = flag.Bool("stdin", false, "end when standard input closes")
	spinners  = flag.Int("spin", 0, "so many goroutines never stop running")
)

var (
	never  = make(chan int)
	ready  sync.WaitGroup
	lock   sync.Mutex
	rwlock sync.RWMutex
)

// wait is where most of them stand.
//
//go:noinline
func wait() { <-never }

// inlined is compiled into its caller.
func inlined(n int) int { return outer(n) + 1 }

func outer(n int) int { wait(); return n }

func deep(n int) int {
	if n == 0 {
		wait()
		return 0
	}
	return deep(n-1) + 1
}

type waiter interface{ hold() }

type inner struct{ n int }

func (i *inner) hold() { wait(); i.n++ }

// embeds gets its method from a wrapper that the compiler makes.
type embeds struct{ *inner }

type queue[T any] struct{ items chan T }

//go:noinline
func (q *queue[T]) take() T { return <-q.items }

//go:noinline
func held[T any](v T) T { q := &queue[T]{make(chan T)}; q.take(); return v }

func panics() {
	defer func() { wait(); recover() }()
	var nobody *inner
	nobody.n = 1
}

func panicsItself() {
	defer func() { wait() }()
	panic("held in its deferred function")
}

func finalized() {
	type thing struct{ a, b *int }
	t := &thing{new(int), new(int)}
	runtime.SetFinalizer(t, func(*thing) { ready.Done(); wait() })
}

func spin() {
	for n := 0; ; n++ {
		if n%1000 == 0 {
			inlinedSpin(n)
		}
	}
}

func inlinedSpin(n int) int { return n * n }

func start(n int, f func()) {
	for i := 0; i < n; i++ {
		ready.Add(1)
		go func() { ready.Done(); f() }()
	}
}

func blockedInRead() {
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		log.Fatal(err)
	}
	var one [1]byte
	syscall.Read(fds[0], one[:])
}

func blockedInNet() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	listener.Accept()
}

func blockedInPipe() {
	read, write, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	io.ReadAll(read)
	// else it is closed as garbage
	runtime.KeepAlive(write)
}

// settle returns when every goroutine stands where it will stay.
func settle() {
	text := make([]byte, 16<<20)
	for {
		all := text[:runtime.Stack(text, true)]
		if bytes.Count(all, []byte(" [run")) == 1 && bytes.Count(all, []byte("goroutine ")) >= 80 {
			return
		}
		runtime.Gosched()
	}
}

func shapes() {
	lock.Lock()
	rwlock.Lock()
	start(3, func() { never <- 1 })
	start(4, func() {
		select {
		case <-never:
		case never <- 2:
		}
	})
	start(2, func() { select {} })
	start(2, func() { var none chan int; <-none })
	start(5, func() { lock.Lock() })
	start(2, func() { rwlock.RLock() })
	start(2, func() { var c sync.Cond; c.L = &sync.Mutex{}; c.L.Lock(); c.Wait() })
	start(2, func() { var g sync.WaitGroup; g.Add(1); g.Wait() })
	start(6, func() { time.Sleep(time.Hour) })
	start(2, blockedInNet)
	start(2, blockedInPipe)
	start(2, blockedInRead)
	start(7, func() { inlined(1) })
	start(3, func() { deep(10) })
	start(2, func() { deep(60) })
	start(1, func() { deep(100000) })
	start(2, func() { var w waiter = embeds{&inner{}}; w.hold() })
	start(2, (&inner{}).hold)
	start(2, func() { held(1) })
	start(2, func() { held("two") })
	start(2, func() { reflect.ValueOf(wait).Call(nil) })
	start(2, panics)
	start(2, panicsItself)
	start(3, func() { runtime.LockOSThread(); wait() })
	start(2, func() { new(sync.Once).Do(wait) })
	start(2, func() {
		pprof.Do(context.Background(), pprof.Labels("route", "/pay"), func(context.Context) { wait() })
	})
	start(2, func() { func() { func() { wait() }() }() })
	for i := 0; i < 3; i++ {
		go wait()
		time.AfterFunc(0, wait)
	}
	newer()
	native()
	ready.Add(1)
	finalized()
	for i := 0; i < 3; i++ {
		runtime.GC()
	}
	ready.Wait()
	settle()
	for i := 0; i < *spinners; i++ {
		go spin()
	}
}

func main() {
	flag.Parse()
	time.AfterFunc(*exitAfter, func() { os.Exit(0) })
	if *stdin {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	shapes()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("READY addr=%s pid=%d\n", listener.Addr(), os.Getpid())
	log.Fatal(http.Serve(listener, nil))
}
