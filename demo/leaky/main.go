// Command leaky is the service that memtrap's demo catches: a session cache that never evicts.
//
// It drives itself with logins, so that its heap grows at -leak per second up to -max, and ends by itself after -exit-after.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

// session is what the cache keeps of a user: mostly a rendered page.
type session struct {
	user string
	page []byte
}

type sessionCache struct {
	mu       sync.Mutex
	sessions map[string]*session
	bytes    int64
}

// put remembers a session. Nothing ever removes one: that is the leak.
func (c *sessionCache) put(user string, page []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[user] = &session{user: user, page: page}
	c.bytes += int64(len(page))
}

func (c *sessionCache) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// renderPage makes a page and touches all of it, as rendering would.
func renderPage(size int) []byte {
	page := make([]byte, size)
	for i := range page {
		page[i] = 'x'
	}
	return page
}

func login(c *sessionCache, n int, size int) {
	c.put("user-"+strconv.Itoa(n), renderPage(size))
}

func drive(c *sessionCache, perSecond, max int64) {
	const perTick = 10
	ticker := time.NewTicker(50 * time.Millisecond)
	for n := 0; c.size() < max; {
		<-ticker.C
		for i := 0; i < perTick; i++ {
			n++
			login(c, n, int(perSecond/20/perTick))
		}
	}
}

func parseSize(text string) (int64, error) {
	for suffix, unit := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number := strings.TrimSuffix(text, suffix); number != text {
			n, err := strconv.ParseFloat(number, 64)
			return int64(n * float64(unit)), err
		}
	}
	return strconv.ParseInt(text, 10, 64)
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `address`")
	leak := flag.String("leak", "20MiB", "grow by this `size` per second")
	max := flag.String("max", "400MiB", "stop growing at this `size`")
	exitAfter := flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	flag.Parse()

	perSecond, err := parseSize(*leak)
	if err != nil {
		log.Fatalf("-leak: %v", err)
	}
	limit, err := parseSize(*max)
	if err != nil {
		log.Fatalf("-max: %v", err)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	cache := &sessionCache{sessions: map[string]*session{}}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%d bytes of sessions\n", cache.size())
	})
	fmt.Printf("listening on %s\n", listener.Addr())
	time.AfterFunc(*exitAfter, func() { log.Fatal("time is up") })
	go drive(cache, perSecond, limit)
	log.Fatal(http.Serve(listener, nil))
}
