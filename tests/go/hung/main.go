// Command hung is a service that answers nobody until it gets SIGUSR1: with -how lock its handlers all wait for a lock, with -how busy its one
// processor is shared with goroutines that never stop. It ends after -exit-after, or with -stdin when its standard input closes.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	how       = flag.String("how", "lock", "lock or busy")
	grow      = flag.Int("grow", 0, "retain this many `bytes`")
	exitAfter = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin     = flag.Bool("stdin", false, "end when standard input closes")

	store    [][]byte
	lock     sync.Mutex
	released int32
)

func retain(bytes int) {
	for ; bytes > 0; bytes -= 64 << 10 {
		chunk := make([]byte, 64<<10)
		for i := 0; i < len(chunk); i += 4096 {
			chunk[i] = 1
		}
		store = append(store, chunk)
	}
}

func spin() {
	for atomic.LoadInt32(&released) == 0 {
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
	retain(*grow)
	runtime.GC()
	runtime.GC()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", func(w http.ResponseWriter, r *http.Request) {
		lock.Lock()
		lock.Unlock()
		switch r.URL.Path {
		case "/debug/pprof/cmdline":
			pprof.Cmdline(w, r)
		case "/debug/pprof/profile":
			pprof.Profile(w, r)
		default:
			pprof.Index(w, r)
		}
	})
	release := make(chan os.Signal, 1)
	signal.Notify(release, syscall.SIGUSR1)
	if *how == "lock" {
		lock.Lock()
	} else {
		runtime.GOMAXPROCS(1)
		for i := 0; i < 400; i++ {
			go spin()
		}
	}
	go func() {
		<-release
		atomic.StoreInt32(&released, 1)
		if *how == "lock" {
			lock.Unlock()
		}
	}()
	fmt.Printf("READY addr=%s pid=%d\n", listener.Addr(), os.Getpid())
	log.Fatal(http.Serve(listener, mux))
}
