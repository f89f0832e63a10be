// Command loaded is a Go service under light, constant load, which says what being observed costs it: GET /since answers what has
// happened since it was asked before. It always ends by itself: after -exit-after, or with -stdin when its standard input closes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"strconv"
	"time"
)

var (
	mib        = flag.Int("mib", 200, "hold about this many `MiB` of live objects")
	goroutines = flag.Int("goroutines", 1000, "keep this `number` of goroutines waiting")
	addr       = flag.String("addr", "127.0.0.1:0", "listen on this `address`")
	exitAfter  = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin      = flag.Bool("stdin", false, "end when standard input closes")
)

// A session is what a service keeps for each of its users: pointers, strings, a little of everything.
type session struct {
	id       string
	previous *session
	attrs    map[string]string
	items    []*item
	body     []byte
}

type item struct {
	sku   string
	count int
	next  *item
}

// sessionBytes is about what one takes on the heap, with its share of the map.
const sessionBytes = 1080

type store struct {
	byID map[string]*session
	last *session
}

func (s *store) add(n int) {
	id := "session-" + strconv.Itoa(n)
	one := &session{id: id, previous: s.last, attrs: map[string]string{"user": "u" + id, "region": "r" + id}, body: make([]byte, 256)}
	var next *item
	for i := 0; i < 5; i++ {
		next = &item{sku: "sku-" + strconv.Itoa(n*5+i), count: i, next: next}
		one.items = append(one.items, next)
	}
	s.byID[id], s.last = one, one
}

// by calls do below one of 2^depth different stacks, as many as a large program allocates and waits in.
func by(path, depth int, do func()) {
	switch {
	case depth == 0:
		do()
	case path&1 == 0:
		left(path>>1, depth-1, do)
	default:
		right(path>>1, depth-1, do)
	}
}

//go:noinline
func left(path, depth int, do func()) { by(path, depth, do) }

//go:noinline
func right(path, depth int, do func()) { by(path, depth, do) }

const (
	allocatingStacks = 10
	waitingStacks    = 6
)

func (s *store) fill(bytes int) {
	const batch = 64
	for n := 0; n < bytes/sessionBytes; n += batch {
		by(n/batch, allocatingStacks, func() {
			for i := 0; i < batch; i++ {
				s.add(n + i)
			}
		})
	}
}

func wait(number int) {
	never, done := make(chan struct{}), make(chan struct{})
	for i := 0; i < number; i++ {
		path := i
		go by(path, waitingStacks, func() {
			if path%3 == 0 {
				<-never
			}
			select {
			case <-never:
			case <-done:
			}
		})
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
	kept := &store{byID: make(map[string]*session)}
	kept.fill(*mib << 20)
	wait(*goroutines)
	meter := newMeter()
	go meter.serveRequests(kept)
	http.HandleFunc("/since", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(meter.since())
	})
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("READY addr=%s pid=%d\n", listener.Addr(), os.Getpid())
	log.Fatal(http.Serve(listener, nil))
}
