// Command collector keeps Go's garbage collector busy in many ways: a spiral under a memory limit, and services that are busy and healthy.
// GET /truth tells what the runtime itself counts. It ends by itself: after -exit-after, or with -stdin when its standard input closes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	mode      = flag.String("mode", "garbage", "what to do; see modes")
	workers   = flag.Int("workers", 2, "goroutines that allocate")
	procs     = flag.Int("procs", 0, "GOMAXPROCS, if above 0")
	live      = flag.Int64("live", 96<<20, "live `bytes`")
	limit     = flag.Int64("limit", 0, "debug.SetMemoryLimit to these `bytes`, if above 0")
	gogc      = flag.Int("gogc", 0, "debug.SetGCPercent, if not 0")
	after     = flag.Duration("after", 0, "be idle for this `time` first")
	exitAfter = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin     = flag.Bool("stdin", false, "end when standard input closes")
)

// node is an object with pointers, so that marking it takes work.
type node struct {
	left, right *node
	payload     [6]uint64
}

var (
	held  []*node
	sinks [64]any
)

// keep holds about so many bytes in trees.
func keep(bytes int64) {
	const each = 64
	for n := bytes / each; n > 0; n -= 1 << 13 {
		held = append(held, tree(12))
	}
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: tree(depth - 1), right: tree(depth - 1)}
}

var modes = map[string]func(worker int){
	// allocates as fast as it can, and lets go of all of it at once
	"garbage": func(worker int) {
		for {
			b := make([]byte, 8<<10)
			b[0] = 1
			sinks[worker] = b
		}
	},
	// small trees: allocations with pointers in them
	"trees": func(worker int) {
		for {
			sinks[worker] = tree(8)
		}
	},
	// as a service that encodes and decodes
	"json": func(worker int) {
		type order struct {
			ID    int
			Items map[string][]string
		}
		in := order{ID: worker, Items: map[string][]string{"a": {"x", "y"}, "b": {"z"}, "c": {"1", "2", "3"}}}
		for {
			text, err := json.Marshal(in)
			if err != nil {
				panic(err)
			}
			var out order
			if err := json.Unmarshal(text, &out); err != nil {
				panic(err)
			}
			sinks[worker] = &out
		}
	},
	// computes, and allocates little
	"compute": func(worker int) {
		x := uint64(worker)
		for i := 0; ; i++ {
			x = x*6364136223846793005 + 1442695040888963407
			if i%(1<<16) == 0 {
				sinks[worker] = &node{payload: [6]uint64{x}}
			}
		}
	},
	// a burst of allocations, then a pause: collections have idle Ps to themselves
	"bursts": func(worker int) {
		for {
			for i := 0; i < 200; i++ {
				sinks[worker] = tree(8)
			}
			time.Sleep(10 * time.Millisecond)
		}
	},
	// many goroutines that come, allocate and go
	"goroutines": func(worker int) {
		for {
			var all sync.WaitGroup
			for i := 0; i < 1000; i++ {
				all.Add(1)
				go func() {
					defer all.Done()
					b := make([]byte, 1<<10)
					b[0] = 1
					runtime.Gosched()
				}()
			}
			all.Wait()
		}
	},
	// a cache that replaces what it holds
	"cache": func(worker int) {
		r := rand.New(rand.NewSource(int64(worker)))
		for {
			i := r.Intn(len(held))
			held[i] = tree(11)
			for x := 0; x < 400_000; x++ {
				r.Uint64()
			}
		}
	},
	// asks for a collection each second
	"forced": func(worker int) {
		if worker == 0 {
			for {
				runtime.GC()
				time.Sleep(time.Second)
			}
		}
		for i := 0; ; i++ {
			sinks[worker] = &node{payload: [6]uint64{uint64(i)}}
			for x := 0; x < 10_000; x++ {
				i++
			}
		}
	},
	"idle": func(worker int) { select {} },
}

// truth is what the runtime counts, in seconds and bytes.
func truth(w http.ResponseWriter, _ *http.Request) {
	names := []string{
		"/cpu/classes/gc/mark/assist:cpu-seconds", "/cpu/classes/gc/mark/dedicated:cpu-seconds", "/cpu/classes/gc/mark/idle:cpu-seconds",
		"/cpu/classes/gc/pause:cpu-seconds", "/cpu/classes/idle:cpu-seconds", "/cpu/classes/total:cpu-seconds",
		"/gc/cycles/total:gc-cycles", "/gc/heap/goal:bytes", "/gc/gogc:percent", "/gc/gomemlimit:bytes", "/gc/heap/live:bytes",
	}
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	told := map[string]float64{}
	for _, sample := range samples {
		switch sample.Value.Kind() {
		case metrics.KindFloat64:
			told[sample.Name] = sample.Value.Float64()
		case metrics.KindUint64:
			told[sample.Name] = float64(sample.Value.Uint64())
		}
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	told["NextGC"], told["NumGC"], told["GCCPUFraction"] = float64(stats.NextGC), float64(stats.NumGC), stats.GCCPUFraction
	if err := json.NewEncoder(w).Encode(told); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
	}
}

// exposition is what the official client library makes of the runtime's metrics: all of them, or with ?old those that it always has.
func exposition(w http.ResponseWriter, r *http.Request) {
	_, old := r.URL.Query()["old"]
	for _, d := range metrics.All() {
		sample := []metrics.Sample{{Name: d.Name}}
		metrics.Read(sample)
		name, unit, _ := strings.Cut(strings.TrimPrefix(d.Name, "/"), ":")
		name = "go_" + strings.NewReplacer("/", "_", "-", "_").Replace(name+"_"+unit)
		if d.Cumulative {
			name += "_total"
		}
		if old && name != "go_sched_gomaxprocs_threads" {
			continue
		}
		switch sample[0].Value.Kind() {
		case metrics.KindFloat64:
			fmt.Fprintf(w, "%s %v\n", name, sample[0].Value.Float64())
		case metrics.KindUint64:
			fmt.Fprintf(w, "%s %v\n", name, float64(sample[0].Value.Uint64()))
		}
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Fprintf(w, "go_gc_duration_seconds_count %d\n", stats.NumGC)
	fmt.Fprintf(w, "go_memstats_gc_cpu_fraction %v\n", stats.GCCPUFraction)
	fmt.Fprintf(w, "go_memstats_last_gc_time_seconds %v\n", float64(stats.LastGC)/1e9)
	fmt.Fprintf(w, "go_memstats_next_gc_bytes %d\ngo_memstats_heap_alloc_bytes %d\n", stats.NextGC, stats.HeapAlloc)
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	fmt.Fprintf(w, "process_cpu_seconds_total %v\n", time.Duration(usage.Utime.Nano()+usage.Stime.Nano()).Seconds())
	text, _ := os.ReadFile("/proc/self/statm")
	var size, resident int64
	fmt.Sscan(string(text), &size, &resident)
	fmt.Fprintf(w, "process_resident_memory_bytes %d\nprocess_start_time_seconds %v\n", resident*int64(os.Getpagesize()), started)
}

var started = float64(time.Now().UnixNano()) / 1e9

func main() {
	flag.Parse()
	if *procs > 0 {
		runtime.GOMAXPROCS(*procs)
	}
	if *gogc != 0 {
		debug.SetGCPercent(*gogc)
	}
	if *limit > 0 {
		debug.SetMemoryLimit(*limit)
	}
	http.HandleFunc("/truth", truth)
	http.HandleFunc("/metrics", exposition)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
	go http.Serve(listener, nil)
	go func() {
		time.Sleep(*exitAfter)
		os.Exit(0)
	}()
	if *stdin {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	work, ok := modes[*mode]
	if !ok {
		fmt.Fprintln(os.Stderr, "collector: no such mode:", *mode)
		os.Exit(2)
	}
	fmt.Printf("READY addr=%s pid=%d\n", listener.Addr(), os.Getpid())
	time.Sleep(*after)
	keep(*live)
	for i := 0; i < *workers; i++ {
		go work(i)
	}
	select {}
}
