// Workload writes real profiles of every kind into the directory that is its argument.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"example.com/shop/v2/cache"
)

type order struct {
	id    int
	lines []string
	next  *order
}

type handler interface{ handle(n int) *order }

type checkout struct{ seen *cache.Cache[int, *order] }

func newOrder(n int) *order { return &order{id: n, lines: split(n)} }

func split(n int) []string { return strings.Split(strings.Repeat("line,", 2+n%7), ",") }

func (c *checkout) handle(n int) *order {
	o := newOrder(n)
	c.seen.Put(n, o)
	return o
}

var (
	kept    [][]byte
	chain   *order
	shop    = &checkout{seen: cache.New[int, *order]()}
	total   int
	entries sync.Map
)

//go:noinline
func bigBuffers(n int) {
	for i := 0; i < n; i++ {
		kept = append(kept, make([]byte, 1<<20))
	}
}

//go:noinline
func recurse(depth int) *order {
	if depth == 0 {
		return newOrder(0)
	}
	return &order{id: depth, lines: make([]string, 8), next: recurse(depth - 1)}
}

func serve(h handler, n int) {
	for i := 0; i < n; i++ {
		h.handle(i)
	}
}

func churn(n int) {
	for i := 0; i < n; i++ {
		s := cache.Map(split(i), func(s string) []byte { return []byte(strings.ToUpper(s)) })
		total += len(s)
		entries.Store(i%100, fmt.Sprintf("entry %d of %d", i, n))
	}
}

// many calls n different functions through one table, so that some nodes are too small to show.
func many() {
	for i, f := range table {
		f(i)
	}
}

var table = []func(int){
	func(i int) { kept = append(kept, make([]byte, 9<<10)) },
	func(i int) { kept = append(kept, make([]byte, 10<<10)) },
	func(i int) { kept = append(kept, make([]byte, 11<<10)) },
	func(i int) { kept = append(kept, make([]byte, 600+i)) },
	func(i int) { total += len(fmt.Sprint(i, "x")) },
}

func spin(until time.Time) {
	for time.Now().Before(until) {
		for i := 0; i < 20000; i++ {
			total += mix(i) ^ mix(total)
		}
		churn(50)
	}
}

func mix(i int) int { return scramble(i*2654435761) + 1 }

func scramble(i int) int { return i ^ i>>7 }

func contend() {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := 0; i < 8; i++ {
		wg.Add(1)
		go func(d time.Duration) {
			defer wg.Done()
			for j := 0; j < 10; j++ {
				mu.Lock()
				time.Sleep(d)
				mu.Unlock()
			}
		}(time.Duration(i) * 100 * time.Microsecond)
	}
	wg.Wait()
	ch := make(chan int)
	go func() {
		for i := 0; i < 20; i++ {
			time.Sleep(time.Millisecond)
			ch <- i
		}
		close(ch)
	}()
	for v := range ch {
		total += v
	}
}

//go:noinline
func waitReceive(ch chan int) { <-ch }

//go:noinline
func waitSelect(a, b chan int) {
	select {
	case <-a:
	case <-b:
	}
}

func deep(n int, ch chan int) {
	if n > 0 {
		deep(n-1, ch)
		return
	}
	<-ch
}

// pileUp starts goroutines that wait for ever, in each way that a dump shows.
func pileUp() {
	ch := make(chan int)
	for i := 0; i < 120; i++ {
		go waitReceive(ch)
	}
	for i := 0; i < 20; i++ {
		i := i
		go pprof.Do(context.Background(), pprof.Labels("route", fmt.Sprintf("/pay/%d", i%3), "tier", "gold"), func(context.Context) {
			waitSelect(ch, nil)
		})
	}
	go func() { var none chan int; <-none }()
	go func() { select {} }()
	go func() { runtime.LockOSThread(); <-ch }()
	go deep(120, ch)
	go func() {
		for {
			time.Sleep(time.Hour)
		}
	}()
	var mu sync.Mutex
	mu.Lock()
	for i := 0; i < 3; i++ {
		go func() { mu.Lock() }()
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go wg.Wait()
	cond := sync.NewCond(&sync.Mutex{})
	go func() { cond.L.Lock(); cond.Wait() }()
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		go l.Accept()
	}
	r, _ := io.Pipe()
	go io.ReadAll(r)
	time.Sleep(50 * time.Millisecond)
}

func write(dir, file, profile string, debug int) {
	f, err := os.Create(filepath.Join(dir, file))
	if err == nil {
		if p := pprof.Lookup(profile); p != nil {
			err = p.WriteTo(f, debug)
		} else {
			err = os.Remove(f.Name())
		}
		f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	dir := os.Args[1]
	runtime.MemProfileRate = 4096
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)

	cpu, err := os.Create(filepath.Join(dir, "cpu.pb.gz"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	pprof.StartCPUProfile(cpu)
	pprof.Do(context.Background(), pprof.Labels("job", "spin"), func(context.Context) { spin(time.Now().Add(time.Second)) })
	pprof.StopCPUProfile()
	cpu.Close()

	serve(shop, 2000)
	bigBuffers(3)
	many()
	runtime.GC()
	write(dir, "heap_before.pb.gz", "heap", 0)
	bigBuffers(4)
	serve(shop, 6000)
	chain = recurse(500)
	churn(3000)
	shop.seen.Drop(func(n int) bool { return n < 1500 })
	contend()
	pileUp()
	runtime.GC()
	runtime.GC()

	write(dir, "heap.pb.gz", "heap", 0)
	write(dir, "allocs.pb.gz", "allocs", 0)
	write(dir, "goroutine.pb.gz", "goroutine", 0)
	write(dir, "threadcreate.pb.gz", "threadcreate", 0)
	write(dir, "mutex.pb.gz", "mutex", 0)
	write(dir, "block.pb.gz", "block", 0)
	write(dir, "goroutineleak.pb.gz", "goroutineleak", 0)
	write(dir, "heap_debug1.txt", "heap", 1)
	write(dir, "goroutine_debug1.txt", "goroutine", 1)
	write(dir, "goroutine_debug2.txt", "goroutine", 2)
	runtime.KeepAlive(chain)
	runtime.KeepAlive(kept)
}
