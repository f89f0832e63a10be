package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
)

// spawn starts goroutines until RSS is this many bytes larger; each calls blocks just before it does.
func spawn(bytes int64, work func(blocks func())) {
	growResident(bytes, func() {
		var ready sync.WaitGroup
		for i := 0; i < 100; i++ {
			ready.Add(1)
			go work(ready.Done)
		}
		ready.Wait()
	})
}

type reply struct{ status int }

// awaitReply waits for a server that has forgotten the request.
func awaitReply(replies chan reply, blocks func()) reply {
	blocks()
	return <-replies
}

// publishReply sends to a client that has given up.
func publishReply(replies chan reply, blocks func()) {
	blocks()
	replies <- reply{status: 200}
}

func awaitReplies(bytes int64) {
	spawn(bytes*3/4, func(blocks func()) { awaitReply(make(chan reply), blocks) })
	spawn(bytes/4, func(blocks func()) { publishReply(make(chan reply), blocks) })
}

// ledger is locked by a reconciliation that never ends.
type ledger struct {
	mu      sync.Mutex
	balance int64
}

//go:noinline
func checksum(scratch *[3 << 10]byte) (sum int64) {
	for _, b := range scratch {
		sum += int64(b)
	}
	return sum
}

func (l *ledger) post(amount int64, blocks func()) {
	var scratch [3 << 10]byte
	scratch[0] = byte(amount)
	blocks()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.balance += amount + checksum(&scratch)
}

func (l *ledger) reconcile(bank chan struct{}, locked chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(locked)
	<-bank
}

func postEntries(bytes int64) {
	accounts, locked := new(ledger), make(chan struct{})
	go accounts.reconcile(make(chan struct{}), locked)
	<-locked
	spawn(bytes, func(blocks func()) { accounts.post(1, blocks) })
}

// connectPair is a connection over loopback with both its ends, which leaves nothing behind in the kernel when it closes.
func connectPair(listener net.Listener) (server, client net.Conn) {
	client, err := net.Dial("tcp", listener.Addr().String())
	must(err)
	server, err = listener.Accept()
	must(err)
	client.(*net.TCPConn).SetLinger(0)
	return server, client
}

func listenLoopback() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	return listener
}

//go:noinline
func smooth(history *[40 << 10]byte, from []byte) byte {
	copy(history[1:], history[:])
	copy(history[:], from)
	return history[len(history)-1]
}

// serveDevice reads from a device that has gone silent, with its history on the stack.
func serveDevice(conn net.Conn, blocks func()) {
	var history [40 << 10]byte
	frame := make([]byte, 512)
	smooth(&history, frame)
	blocks()
	for {
		n, err := conn.Read(frame)
		if err != nil {
			return
		}
		smooth(&history, frame[:n])
	}
}

var devices []net.Conn

func serveDevices(bytes int64) {
	listener := listenLoopback()
	growResident(bytes, func() {
		var ready sync.WaitGroup
		for i := 0; i < 20; i++ {
			server, device := connectPair(listener)
			devices = append(devices, device)
			ready.Add(1)
			go serveDevice(server, ready.Done)
		}
		ready.Wait()
	})
}

// streamExport has its chunk ready, and nobody who takes it.
func streamExport(chunks chan []byte, blocks func()) {
	chunk := make([]byte, 64<<10)
	touch(chunk)
	blocks()
	chunks <- chunk
}

func streamExports(bytes int64) {
	spawn(bytes, func(blocks func()) { streamExport(make(chan []byte), blocks) })
}

// walkTree has a frame of some 300 bytes per level, and waits at the leaf for a lock that is never granted.
func walkTree(level int, leaf chan struct{}, blocks func()) byte {
	var path [256]byte
	path[level%len(path)] = byte(level)
	if level == 0 {
		blocks()
		<-leaf
		return path[0]
	}
	return walkTree(level-1, leaf, blocks) + path[level%len(path)]
}

// walkTrees starts all walks at once, so that no stack can grow into what another has left: MemStats then counts old copies, and
// the unused half of new ones, that are not resident in full.
func walkTrees(bytes int64) {
	leaf, start := make(chan struct{}), make(chan struct{})
	var ready sync.WaitGroup
	for i := int64(0); i < bytes/(22<<10); i++ {
		ready.Add(1)
		go func() {
			<-start
			walkTree(55, leaf, ready.Done)
		}()
	}
	close(start)
	ready.Wait()
}

// walkTreesAndReturn waits after the walk. The collector halves each stack that is hardly used, and what it takes is free heap, so
// that most of this leak looks like memory that has not been returned.
func walkTreesAndReturn(bytes int64) {
	leaf, start, next := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var walked, ready sync.WaitGroup
	for i := int64(0); i < bytes/(28<<10); i++ {
		walked.Add(1)
		ready.Add(1)
		go func() {
			<-start
			walkTree(55, leaf, walked.Done)
			ready.Done()
			<-next
		}()
	}
	close(start)
	walked.Wait()
	close(leaf)
	ready.Wait()
	runtime.GC()
}

// walkTreesAndGrowOffHeapCache has half native memory behind stacks that MemStats over-claims.
func walkTreesAndGrowOffHeapCache(bytes int64) {
	walkTrees(bytes / 2)
	growOffHeapCache(bytes / 2)
}

// connectionState is what a server keeps per connection.
type connectionState struct{ window [24 << 10]byte }

type stateKey struct{}

func withState(ctx context.Context, _ net.Conn) context.Context {
	state := new(connectionState)
	touch(state.window[:])
	return context.WithValue(ctx, stateKey{}, state)
}

// keepConnectionsAlive has clients that ask once, and never close; the server has no IdleTimeout.
func keepConnectionsAlive(bytes int64) {
	listener := listenLoopback()
	health := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	server := &http.Server{Handler: health, ConnContext: withState}
	go server.Serve(listener)
	answer := make([]byte, 4096)
	growResident(bytes, func() {
		client, err := net.Dial("tcp", listener.Addr().String())
		must(err)
		client.(*net.TCPConn).SetLinger(0)
		devices = append(devices, client)
		io.WriteString(client, "GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
		_, err = client.Read(answer)
		must(err)
	})
}

// evaluate is the recursion of a rule that refers to itself, some 600 bytes per level.
func evaluate(level int, lookup chan int, blocks func()) int {
	var terms [64]int
	terms[level%len(terms)] = level
	if level == 0 {
		blocks()
		return <-lookup
	}
	return evaluate(level-1, lookup, blocks) + terms[level%len(terms)]
}

// evaluateDeepRule uses a little more than half of the bytes on one stack: stacks grow by doubling, and leave the old one behind.
func evaluateDeepRule(bytes int64) {
	ready := make(chan struct{})
	go evaluate(int(bytes*55/100/600), make(chan int), func() { close(ready) })
	<-ready
	runtime.GC()
}

// evaluateAmongIdle has thousands of goroutines that wait with small stacks, as they always do, and one that recurses.
func evaluateAmongIdle(bytes int64) {
	for i := 0; i < 5000; i++ {
		go awaitReply(nil, func() {})
	}
	evaluateDeepRule(bytes)
}

// thumbnails is what the workers of a pool have rendered; all of it is kept. Jobs may come at any time.
var thumbnails = struct {
	sync.Mutex
	images [][]byte
	jobs   chan int
}{jobs: make(chan int)}

func render(jobs chan int) {
	for range jobs {
		image := make([]byte, 256<<10)
		touch(image)
		thumbnails.Lock()
		thumbnails.images = append(thumbnails.images, image)
		thumbnails.Unlock()
	}
}

// renderThumbnails is done by a pool of fixed size, whose workers then wait for more, where they have allocated all of it.
func renderThumbnails(bytes int64) {
	for i := 0; i < 500; i++ {
		go render(thumbnails.jobs)
	}
	growResident(bytes, func() { thumbnails.jobs <- 0 })
}

// countInOneOfMany is done by a pool of fixed size in which each worker keeps its own counts: all jobs have the same key, so that one of
// them keeps nearly all.
func countInOneOfMany(bytes int64) {
	const workers = 300
	var jobs [workers]chan int
	for i := range jobs {
		jobs[i] = make(chan int)
		go countOwn(jobs[i])
		jobs[i] <- 1 << 10
	}
	growResident(bytes, func() { jobs[7] <- 256 << 10 })
}

func countOwn(jobs chan int) {
	var counts [][]byte
	for size := range jobs {
		count := make([]byte, size)
		touch(count)
		counts = append(counts, count)
	}
	runtime.KeepAlive(counts)
}

// keepUploadsAndForgetReplies has a small leak of goroutines beside a cache that is the reason for the growth.
func keepUploadsAndForgetReplies(bytes int64) {
	for i := 0; i < 200; i++ {
		go awaitReply(make(chan reply), func() {})
	}
	keepUploads(bytes)
}
