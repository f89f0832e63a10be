package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// quote is a row of an answer.
type quote struct {
	SKU   string            `json:"sku"`
	Price int64             `json:"price"`
	Tags  map[string]string `json:"tags"`
}

func queryBody() []byte {
	rows := make([]quote, 200)
	for i := range rows {
		rows[i] = quote{SKU: fmt.Sprintf("sku-%08d", i), Price: int64(i), Tags: map[string]string{"colour": "red", "size": "m"}}
	}
	body, err := json.Marshal(rows)
	if err != nil {
		panic(err)
	}
	return body
}

var lastAnswer []byte

// decodeRows is the garbage of a service that speaks JSON.
func decodeRows(body []byte) []map[string]interface{} {
	var rows []map[string]interface{}
	if err := json.Unmarshal(body, &rows); err != nil {
		panic(err)
	}
	return rows
}

// handleQuery decodes, copies and encodes; nothing of it lives on.
func handleQuery(body []byte) {
	rows := decodeRows(body)
	answer := make([]byte, 0, 256<<10)
	encoded, err := json.Marshal(rows)
	if err != nil {
		panic(err)
	}
	lastAnswer = append(answer, encoded...)
}

// serve handles a query each time pause has passed, for ever.
func serve(pause time.Duration) {
	body := queryBody()
	for {
		handleQuery(body)
		time.Sleep(pause)
	}
}

func memStats() (stats runtime.MemStats) {
	runtime.ReadMemStats(&stats)
	return stats
}

// reachCollection waits for RSS to be there, and for the collector to have worked at that size: just after it has, garbage is rare.
func reachCollection(rss int64) {
	reachResident(rss)
	for start := memStats().NumGC; memStats().NumGC < start+2; {
		time.Sleep(20 * time.Millisecond)
	}
}

// reachGarbage waits, as reachCollection, and then for almost half of the garbage that the heap's goal allows: whoever looks a moment
// later finds about half. What the last collection has marked is asked for: MemStats knows only what is allocated by now, which on a busy
// machine may be all but the goal.
func reachGarbage(rss int64) {
	reachCollection(rss)
	now := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	for {
		metrics.Read(now)
		live, goal, allocated := now[0].Value.Uint64(), now[1].Value.Uint64(), now[2].Value.Uint64()
		if allocated > live/10*6+goal/10*4 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// makeGarbage has a twelfth of the bytes live, and a GOGC that lets garbage pile up to about the bytes.
func makeGarbage(bytes int64) {
	loadCatalog(bytes / 12)
	runtime.GC()
	live := int64(memStats().HeapAlloc)
	debug.SetGCPercent(int(100 * (bytes - live) / live))
	go serve(5 * time.Millisecond)
	go serve(5 * time.Millisecond)
}

func serveQueries(bytes int64) {
	makeGarbage(bytes)
	reachGarbage(bytes * 8 / 10)
}

// serveQueriesJustCollected is the same service at another moment: what was garbage is free, and about to be garbage again.
func serveQueriesJustCollected(bytes int64) {
	makeGarbage(bytes)
	reachCollection(bytes * 8 / 10)
}

func memoryLimit(bytes int64) []string {
	return []string{"GOGC=off", fmt.Sprintf("GOMEMLIMIT=%dMiB", bytes>>20)}
}

// serveUpToTheLimit makes garbage that is only collected at GOMEMLIMIT.
func serveUpToTheLimit(bytes int64) {
	loadCatalog(bytes / 12)
	go serve(5 * time.Millisecond)
	go serve(5 * time.Millisecond)
	reachGarbage(bytes * 8 / 10)
}

var ballast []byte

// serveOnBallast has a heap goal of twice the untouched ballast, and fills the difference with garbage.
func serveOnBallast(bytes int64) {
	ballast = reserve(int(bytes))
	runtime.GC()
	go serve(5 * time.Millisecond)
	go serve(5 * time.Millisecond)
	reachGarbage(bytes * 8 / 10)
}

// serveSteadily is a service that is well: a sixth of the bytes live, GOGC=100.
func serveSteadily(bytes int64) {
	loadCatalog(bytes / 6)
	go serve(10 * time.Millisecond)
	reachCollection(bytes / 6)
}

// posting is a piece of an index that is built, used and dropped.
type posting struct{ documents [8 << 10]byte }

func buildPostings(bytes int64) (postings []*posting) {
	growResident(bytes, func() {
		p := new(posting)
		touch(p.documents[:])
		postings = append(postings, p)
	})
	return postings
}

// rebuildIndex is a burst that is over: freed, collected, and not yet back with the kernel.
func rebuildIndex(bytes int64) {
	postings := buildPostings(bytes)
	runtime.KeepAlive(postings)
	postings = nil
	runtime.GC()
}

// rebuildIndexUnderHighGoal leaves free memory that the runtime keeps for good: the scavenger keeps what the heap's goal may need.
func rebuildIndexUnderHighGoal(bytes int64) {
	loadCatalog(bytes / 12)
	debug.SetGCPercent(1100)
	postings := buildPostings(bytes)
	runtime.KeepAlive(postings)
	postings = nil
	runtime.GC()
	runtime.GC()
}

// rules answers one lookup after the other.
type rules struct {
	ask    chan uint64
	answer chan uint64
}

func (r *rules) serve() {
	for key := range r.ask {
		r.answer <- key ^ 1
	}
}

// lookup blocks, if only for a microsecond.
func (r *rules) lookup(key uint64) uint64 {
	r.ask <- key
	return <-r.answer
}

// visitLeft and visitRight make a call stack of their own for each path, as an interpreter does for each program.
func (r *rules) visitLeft(path uint64, depth int) uint64 {
	if depth == 0 {
		return r.lookup(path)
	}
	if path&1 == 1 {
		return r.visitRight(path>>1, depth-1)
	}
	return r.visitLeft(path>>1, depth-1)
}

func (r *rules) visitRight(path uint64, depth int) uint64 {
	if depth == 0 {
		return r.lookup(path)
	}
	if path&1 == 1 {
		return r.visitRight(path>>1, depth-1)
	}
	return r.visitLeft(path>>1, depth-1)
}

// descend makes the stacks deep; newer runtimes remember 128 frames of each.
func (r *rules) descend(path uint64, padding int) uint64 {
	if padding > 0 {
		return r.descend(path, padding-1)
	}
	return r.visitLeft(path, 24)
}

// profileEveryBlock has the block profile on at rate 1, and ever new stacks: the runtime keeps a bucket for each, for ever.
func profileEveryBlock(bytes int64) {
	runtime.SetBlockProfileRate(1)
	r := &rules{ask: make(chan uint64), answer: make(chan uint64)}
	go r.serve()
	path := uint64(0)
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			r.descend(path, 90)
			path++
		}
	})
}
