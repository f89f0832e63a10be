package main

import (
	"bytes"
	"container/list"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
)

// product is what every shop has in memory, for good reason.
type product struct {
	sku, title string
	price      int64
	related    []string
}

var catalog = map[string]*product{}

// loadCatalog keeps about this many bytes of products: live heap that is no leak.
func loadCatalog(bytes int64) {
	for i := int64(0); i < bytes/512; i++ {
		p := &product{sku: fmt.Sprintf("sku-%08d", i), title: strings.Repeat("title ", 40), price: i}
		p.related = []string{p.sku, p.title[:12]}
		catalog[p.sku] = p
	}
}

// uploadCache never forgets a body.
type uploadCache struct{ bodies [][]byte }

var uploads uploadCache

func (c *uploadCache) keep(size int) {
	body := make([]byte, size)
	touch(body)
	c.bodies = append(c.bodies, body)
}

func keepUploads(bytes int64) {
	growResident(bytes, func() { uploads.keep(8 << 20) })
}

type session struct {
	id, user string
	cart     []int32
	seen     time.Time
	recent   *list.Element
}

// sessionStore keeps every session in a map and in order of use, and expires none.
type sessionStore struct {
	byID   map[string]*session
	recent list.List
}

var sessions = sessionStore{byID: map[string]*session{}}

func (s *sessionStore) open(n int) {
	id := fmt.Sprintf("session-%016x", n)
	opened := &session{id: id, user: fmt.Sprint("user-", n%1000), cart: make([]int32, 0, 8), seen: time.Now()}
	opened.recent = s.recent.PushFront(opened)
	s.byID[id] = opened
}

func openSessions(bytes int64) {
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			sessions.open(len(sessions.byID))
		}
	})
}

var tokens [][]byte

// readBody is a request of 1 MiB that starts with a token.
func readBody() []byte {
	body := make([]byte, 1<<20)
	touch(body)
	return body
}

// tokenOf returns 16 bytes, and with them the whole body.
func tokenOf(body []byte) []byte { return body[:16] }

func rememberTokens(bytes int64) {
	growResident(bytes, func() { tokens = append(tokens, tokenOf(readBody())) })
}

// auditLog is one string that only ever grows.
type auditLog struct{ text strings.Builder }

var audit auditLog

func (a *auditLog) record(line string) { a.text.WriteString(line) }

// recordAudit writes a quarter of the bytes: a builder that grows leaves its smaller selves behind.
func recordAudit(bytes int64) {
	line := strings.Repeat("user=42 action=view object=invoice ", 30) + "\n"
	for int64(audit.text.Len()) < bytes/4 {
		audit.record(line)
	}
}

// tile owns something outside the heap, which its finalizer gives back.
type tile struct{ pixels [64 << 10]byte }

var tileDevice = make(chan struct{})

// releaseTile waits for a device that does not answer, and with it every finalizer after this one.
func releaseTile(*tile) { <-tileDevice }

func newTile() *tile {
	t := new(tile)
	touch(t.pixels[:])
	runtime.SetFinalizer(t, releaseTile)
	return t
}

// lastTile keeps the compiler from putting tiles on the stack.
var lastTile *tile

func renderTiles(bytes int64) {
	growResident(bytes, func() { lastTile = newTile() })
	lastTile = nil
	runtime.GC()
}

var reportBuffers = sync.Pool{New: func() interface{} { return new(bytes.Buffer) }}

// renderReport fills a pooled buffer up to size; all reports of a batch are in flight at once.
func renderReport(size int, rendered, batch *sync.WaitGroup) {
	buffer := reportBuffers.Get().(*bytes.Buffer)
	buffer.Reset()
	row := bytes.Repeat([]byte("<td>42</td>"), 100)
	for buffer.Len() < size {
		buffer.Write(row)
	}
	rendered.Done()
	rendered.Wait()
	reportBuffers.Put(buffer)
	batch.Done()
}

func renderBatch(reports, size int) {
	var rendered, batch sync.WaitGroup
	rendered.Add(reports)
	batch.Add(reports)
	for i := 0; i < reports; i++ {
		go renderReport(size, &rendered, &batch)
	}
	batch.Wait()
}

// renderReports goes on rendering, so that the pool is in use: what it holds is live, though nobody holds it now.
func renderReports(bytes int64) {
	const reports = 40
	// a buffer that doubles is up to twice as large as what is in it, and leaves its smaller selves behind
	size := int(bytes / reports / 3)
	go func() {
		for {
			renderBatch(reports, size)
			time.Sleep(2 * time.Second)
		}
	}()
	reachResident(bytes / 2)
}

// cart is held by the timer that is to expire it, tomorrow.
type cart struct {
	owner string
	items [12]int64
}

func (c *cart) expire() { c.owner = "" }

func openCart(n int) {
	c := &cart{owner: fmt.Sprint("user-", n)}
	time.AfterFunc(24*time.Hour, c.expire)
}

func expireCarts(bytes int64) {
	n := 0
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			n++
			openCart(n)
		}
	})
}

type event struct{ fields [8]int64 }

var sampled []*event

// sampleEvents loads all events, and keeps one of 128: with each one a page of the heap, so that HeapInuse is far above HeapAlloc.
func sampleEvents(bytes int64) {
	var events []*event
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			events = append(events, &event{fields: [8]int64{int64(len(events))}})
		}
	})
	for i := 0; i < len(events); i += 128 {
		sampled = append(sampled, events[i])
	}
	events = nil
	runtime.GC()
}

// keepUploadsAndOffHeapCache grows half by half.
func keepUploadsAndOffHeapCache(bytes int64) {
	keepUploads(bytes / 2)
	growOffHeapCache(bytes / 2)
}
