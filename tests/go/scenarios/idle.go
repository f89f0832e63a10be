package main

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"time"
)

// subscribe waits for news that hardly ever come; somebody may send them at any time.
func subscribe(news chan string, blocks func()) string {
	blocks()
	return <-news
}

var news = make(chan string)

// startSubscribers starts goroutines that do nothing, as they do in many a healthy service.
func startSubscribers(n int) {
	var ready sync.WaitGroup
	for i := 0; i < n; i++ {
		ready.Add(1)
		go subscribe(news, ready.Done)
	}
	ready.Wait()
}

func fewSubscribers(int64)  { startSubscribers(3000) }
func manySubscribers(int64) { startSubscribers(20000) }

// pages is a cache that never forgets.
var pages [][]byte

func keepPage(size int) {
	page := make([]byte, size)
	touch(page)
	pages = append(pages, page)
}

func keepPages(bytes int64) {
	growResident(bytes, func() { keepPage(256 << 10) })
}

// keepPagesAndSubscribe has both come since it was healthy: the goroutines are small, and hold nothing.
func keepPagesAndSubscribe(bytes int64) {
	keepPages(bytes)
	startSubscribers(3000)
}

// film is a job: its place in the archive, and who waits until it is there.
type film struct {
	at   int
	done chan struct{}
}

// ingest allocates what the archive keeps, in goroutines that stay: they stand where it was allocated, and hold none of it.
func ingest(films chan film, blocks func()) {
	blocks()
	for next := range films {
		archive[next.at] = make([]byte, 4<<20)
		touch(archive[next.at])
		close(next.done)
	}
}

var (
	films   = make(chan film)
	archive [4096][]byte
)

func ingestFilms(bytes int64) {
	var ready sync.WaitGroup
	for i := 0; i < 1500; i++ {
		ready.Add(1)
		go ingest(films, ready.Done)
	}
	ready.Wait()
	next := film{}
	growResident(bytes, func() {
		next.done = make(chan struct{})
		films <- next
		<-next.done
		next.at++
	})
}

// pollSession wakes once an hour, for a session that nobody ends.
func pollSession(blocks func()) {
	state := make([]byte, 12<<10)
	touch(state)
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	blocks()
	for range ticker.C {
		state[0]++
	}
}

func pollSessions(bytes int64) {
	spawn(bytes, func(blocks func()) { pollSession(blocks) })
}

// retryLater sleeps until tomorrow, with a goroutine for each job.
func retryLater(blocks func()) {
	blocks()
	time.Sleep(24 * time.Hour)
}

func retryJobs(bytes int64) {
	spawn(bytes, func(blocks func()) { retryLater(blocks) })
}

// tracer is a context of somebody else's making: package context needs a goroutine to learn that it has ended.
type tracer struct {
	context.Context
	ended chan struct{}
}

func (t tracer) Done() <-chan struct{} { return t.ended }

func (t tracer) Value(key any) any { return nil }

var cancels []context.CancelFunc

func traceCall(parent context.Context) {
	_, cancel := context.WithCancel(parent)
	cancels = append(cancels, cancel)
}

func traceCalls(bytes int64) {
	parent := tracer{context.Background(), make(chan struct{})}
	growResident(bytes, func() {
		for i := 0; i < 200; i++ {
			traceCall(parent)
		}
	})
}

// awaitQuorum waits for all replicas, of which one is gone, with the votes of the others.
func awaitQuorum(votes *sync.WaitGroup, ballot string, blocks func()) int {
	ballots := strings.Repeat(ballot, 512)
	blocks()
	votes.Wait()
	return len(ballots) + int(ballots[0])
}

func awaitQuorums(bytes int64) {
	votes := new(sync.WaitGroup)
	votes.Add(1)
	spawn(bytes, func(blocks func()) { awaitQuorum(votes, "replica=yes;", blocks) })
	runtime.KeepAlive(votes)
}

// parse is a parser that uses 20 KiB of its stack, and the worker that owns it waits for the next document.
func parse(depth int) byte {
	var token [512]byte
	token[depth%len(token)] = byte(depth)
	if depth == 0 {
		return token[0]
	}
	return parse(depth-1) + token[depth%len(token)]
}

func parseDocuments(documents chan int, parsed func(), hold chan struct{}) {
	parse(36)
	parsed()
	<-hold
	for range documents {
		parse(36)
	}
}

var documents = make(chan int)

// parseInPool has thousands of workers whose stacks have grown once; no collection has shrunk them since.
func parseInPool(bytes int64) {
	hold := make(chan struct{})
	growResident(bytes, func() {
		var ready sync.WaitGroup
		for i := 0; i < 50; i++ {
			ready.Add(1)
			go parseDocuments(documents, ready.Done, hold)
		}
		ready.Wait()
	})
}

// resolve recurses in a hundred goroutines at once.
func resolveSeveral(bytes int64) {
	const resolvers = 60
	// a stack is twice as large as what is in use of it, at most
	levels := int(bytes / resolvers * 55 / 100 / 600)
	var ready sync.WaitGroup
	for i := 0; i < resolvers; i++ {
		ready.Add(1)
		go evaluate(levels, make(chan int), ready.Done)
	}
	ready.Wait()
	runtime.GC()
}

// endManyGoroutines leaves the descriptors of goroutines that have ended: the runtime keeps them for the next ones.
func endManyGoroutines(bytes int64) {
	gate := make(chan struct{})
	var started, ended sync.WaitGroup
	for i := int64(0); i < bytes/480; i++ {
		started.Add(1)
		ended.Add(1)
		go func() {
			started.Done()
			<-gate
			ended.Done()
		}()
	}
	started.Wait()
	close(gate)
	ended.Wait()
	returnFreed()
}
