package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

var started = time.Now()

// resident is what the official client library exposes: the kernel's count of resident pages.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// metrics writes the few series of the official client library that memtrap reads, in the text format.
func metrics(w http.ResponseWriter, r *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var page bytes.Buffer
	gauge := func(name string, value interface{}) {
		fmt.Fprintf(&page, "# HELP %s See the Go client library.\n# TYPE %s gauge\n%s %v\n", name, name, name, value)
	}
	fmt.Fprintf(&page, "# TYPE go_info gauge\ngo_info{version=%q} 1\n", runtime.Version())
	gauge("go_goroutines", runtime.NumGoroutine())
	for name, value := range map[string]uint64{
		"heap_alloc": m.HeapAlloc, "heap_inuse": m.HeapInuse, "heap_idle": m.HeapIdle, "heap_released": m.HeapReleased,
		"heap_sys": m.HeapSys, "stack_inuse": m.StackInuse, "stack_sys": m.StackSys, "mspan_sys": m.MSpanSys,
		"mcache_sys": m.MCacheSys, "buck_hash_sys": m.BuckHashSys, "gc_sys": m.GCSys, "other_sys": m.OtherSys, "next_gc": m.NextGC,
	} {
		gauge("go_memstats_"+name+"_bytes", float64(value))
	}
	gauge("go_memstats_heap_objects", m.HeapObjects)
	gauge("go_memstats_alloc_bytes_total", float64(m.TotalAlloc))
	gauge("process_start_time_seconds", float64(started.UnixNano())/1e9)
	gauge("process_resident_memory_bytes", float64(resident()))
	if *limit > 0 {
		gauge("svc_memory_limit_bytes", *limit)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Write(page.Bytes())
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	packed.Write(page.Bytes())
	packed.Close()
}
