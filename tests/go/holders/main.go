// Holds memory in one of many ways, and knows how much: what is asked is who holds it, not who allocated it.
//
//	holders MODE MIB [busy]
//
// prints a line of JSON: how many bytes of live objects came with it. All of it is made by make… functions that hold nothing; what holds
// it is the variable MODE, or a goroutine, timer or finalizer that has MODE in its name. Then it waits; a busy one
// allocates garbage as fast as it can.
package main

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"

	// keeps heap profiling linked in
	_ "net/http/pprof"
)

type blob struct {
	name string
	data []byte
	next *blob
}

//go:noinline
func makeBlob(i int) *blob {
	return &blob{name: "blob-" + strconv.Itoa(i), data: makeBytes(8 << 10)}
}

//go:noinline
func makeBytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	return b
}

const each = 8<<10 + 64 + 16

// how many blobs there are of a number of bytes.
func blobs(bytes int) int { return bytes / each }

var never = make(chan struct{})

// holds says how to make each mode hold so many bytes.
var holds = map[string]func(bytes int){
	"packageMap": packageMapFill, "singleton": singletonFill, "ringBuffer": ringBufferFill, "linkedList": linkedListFill,
	"lruCache": lruCacheFill, "channelQueue": channelQueueFill, "localOf": localOfStart, "timerClosure": timerClosureStart,
	"contextRoot": contextRootFill, "bufferPool": bufferPoolFill, "syncMap": syncMapFill, "finalizerQueue": finalizerQueueFill,
	"templateCache": templateCacheFill, "httpServer": httpServerFill, "byID": byIDFill, "eventLog": eventLogFill,
	"embedded": embeddedFill, "generic": genericFill, "inlineValues": inlineValuesFill, "cycle": cycleFill,
	"blockedSend": blockedSendStart, "deferred": deferredStart, "hooks": hooksFill, "matrix": matrixFill, "substrings": substringsFill,
	"bigBuffer": bigBufferFill, "selectOf": selectOfStart, "tickerLoop": tickerLoopStart, "treeRoot": treeRootFill, "weakTo": weakToFill,
	"mainStack": nil, "sliceOfStructs": sliceOfStructsFill,
}

var packageMap = map[string]*blob{}

//go:noinline
func packageMapFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		packageMap[b.name] = b
	}
}

type app struct {
	config map[string]string
	server struct{ state *state }
}
type state struct {
	mu    sync.Mutex
	cache struct{ items []*blob }
}

var singleton = &app{config: map[string]string{"a": "b"}}

//go:noinline
func singletonFill(bytes int) {
	singleton.server.state = &state{}
	for i := 0; i < blobs(bytes); i++ {
		s := singleton.server.state
		s.cache.items = append(s.cache.items, makeBlob(i))
	}
}

var ringBuffer [1 << 16]*blob

//go:noinline
func ringBufferFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		ringBuffer[i%len(ringBuffer)] = makeBlob(i)
	}
}

var linkedList *blob

//go:noinline
func linkedListFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		b.next = linkedList
		linkedList = b
	}
}

type lru struct {
	order *list.List
	index map[string]*list.Element
}

var lruCache = &lru{order: list.New(), index: map[string]*list.Element{}}

//go:noinline
func lruCacheFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		lruCache.index[b.name] = lruCache.order.PushFront(b)
	}
}

var channelQueue = make(chan *blob, 1<<13)

//go:noinline
func channelQueueFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		channelQueue <- makeBlob(i)
	}
}

//go:noinline
func localOfStart(bytes int) {
	var ready sync.WaitGroup
	for i := 0; i < 100; i++ {
		ready.Add(1)
		go localOf(&ready, bytes/100)
	}
	ready.Wait()
}

//go:noinline
func localOf(ready *sync.WaitGroup, n int) {
	held := makeBytes(n)
	ready.Done()
	<-never
	held[0]++
}

//go:noinline
func timerClosureStart(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		time.AfterFunc(24*time.Hour, func() { b.data[0]++ })
	}
}

type key struct{}

var contextRoot context.Context

//go:noinline
func contextRootFill(bytes int) {
	contextRoot, _ = context.WithCancel(context.Background())
	for i := 0; i < blobs(bytes); i++ {
		_, cancel := context.WithCancel(context.WithValue(contextRoot, key{}, makeBlob(i)))
		_ = cancel
	}
}

var bufferPool sync.Pool

//go:noinline
func bufferPoolFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		bufferPool.Put(makeBlob(i))
	}
}

var syncMap sync.Map

//go:noinline
func syncMapFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		syncMap.Store(i, makeBlob(i))
	}
}

//go:noinline
func finalizerQueueFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		runtime.SetFinalizer(makeBlob(i), finalizerQueue)
	}
}

//go:noinline
func finalizerQueue(b *blob) { <-never }

var templateCache = map[string]*template.Template{}

//go:noinline
func templateCacheFill(bytes int) {
	text := strings.Repeat("{{if .A}}x{{.B}}y{{end}}", 40)
	for before := heapAlloc(); heapAlloc()-before < uint64(bytes); {
		for i := 0; i < 20; i++ {
			name := strconv.Itoa(len(templateCache))
			templateCache[name] = template.Must(template.New(name).Parse(text))
		}
	}
}

type handler struct {
	seen map[int]*blob
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

var httpServer *http.Server

//go:noinline
func httpServerFill(bytes int) {
	h := &handler{seen: map[int]*blob{}}
	httpServer = &http.Server{Addr: "127.0.0.1:0", Handler: h}
	for i := 0; i < blobs(bytes); i++ {
		h.seen[i] = makeBlob(i)
	}
	go httpServer.ListenAndServe()
}

var byID = map[int]*blob{}
var byName = map[string]*blob{}

//go:noinline
func byIDFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		byID[i] = b
		byNameAdd(b)
	}
}

//go:noinline
func byNameAdd(b *blob) { byName[b.name] = b }

var eventLog []any

//go:noinline
func eventLogFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		eventLog = append(eventLog, makeBlob(i))
	}
}

type row struct {
	cells [16]*blob
}

var embedded struct {
	count int
	rows  [4096]row
}

//go:noinline
func embeddedFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		embedded.rows[i/16%4096].cells[i%16] = makeBlob(i)
	}
}

type store[K comparable, V any] struct {
	items map[K]V
}

func (s *store[K, V]) put(k K, v V) { s.items[k] = v }

var generic = &store[string, *blob]{items: map[string]*blob{}}

//go:noinline
func genericFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		generic.put(b.name, b)
	}
}

var inlineValues = map[int][96]byte{}

//go:noinline
func inlineValuesFill(bytes int) {
	for i := 0; i < bytes/200; i++ {
		inlineValues[i] = [96]byte{1}
	}
}

var cycle *blob

//go:noinline
func cycleFill(bytes int) {
	first := makeBlob(0)
	last := first
	for i := 1; i < blobs(bytes); i++ {
		b := makeBlob(i)
		last.next = b
		last = b
	}
	last.next = first
	cycle = first
}

//go:noinline
func blockedSendStart(bytes int) {
	to := make(chan *blob)
	for i := 0; i < blobs(bytes); i++ {
		go blockedSend(to, i)
	}
	time.Sleep(time.Second)
}

//go:noinline
func blockedSend(to chan *blob, i int) { to <- makeBlob(i) }

//go:noinline
func deferredStart(bytes int) {
	for i := 0; i < 50; i++ {
		go deferred(bytes / 50)
	}
	time.Sleep(time.Second)
}

//go:noinline
func deferred(n int) {
	for i := 0; i < 2; i++ {
		b := makeBytes(n / 2)
		defer func() { b[0]++ }()
	}
	<-never
}

var hooks []func()

//go:noinline
func hooksFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		hooks = append(hooks, func() { b.data[0]++ })
	}
}

var matrix [][]float64

//go:noinline
func matrixFill(bytes int) {
	for i := 0; i < bytes/8192; i++ {
		matrix = append(matrix, make([]float64, 1024))
		matrix[i][0] = 1
	}
}

var substrings []string

//go:noinline
func substringsFill(bytes int) {
	for i := 0; i < bytes/(64<<10); i++ {
		whole := string(makeBytes(64 << 10))
		substrings = append(substrings, whole[100:110])
	}
}

var bigBuffer bytes.Buffer

//go:noinline
func bigBufferFill(bytes int) {
	for bigBuffer.Len() < bytes {
		bigBuffer.Write(makeBytes(4096))
	}
}

//go:noinline
func selectOfStart(bytes int) {
	for i := 0; i < 40; i++ {
		go selectOf(bytes / 40)
	}
	time.Sleep(time.Second)
}

//go:noinline
func selectOf(n int) {
	b := &blob{data: makeBytes(n)}
	select {
	case <-never:
	case <-time.After(24 * time.Hour):
	}
	b.data[0]++
}

//go:noinline
func tickerLoopStart(bytes int) {
	go tickerLoop(bytes)
	time.Sleep(time.Second)
}

//go:noinline
func tickerLoop(bytes int) {
	var kept []*blob
	tick := time.NewTicker(time.Hour)
	for i := 0; i < blobs(bytes); i++ {
		kept = append(kept, makeBlob(i))
	}
	for range tick.C {
		kept[0].data[0]++
	}
}

type tree struct {
	left, right *tree
	value       []byte
}

var treeRoot *tree

//go:noinline
func treeRootFill(bytes int) { treeRoot = makeTree(bytes / (512 + 48)) }

//go:noinline
func makeTree(n int) *tree {
	if n == 0 {
		return nil
	}
	return &tree{left: makeTree((n - 1) / 2), right: makeTree(n - 1 - (n-1)/2), value: makeBytes(512)}
}

type record struct {
	id    int
	name  string
	parts []string
}

var sliceOfStructs []record

//go:noinline
func sliceOfStructsFill(bytes int) {
	for i := 0; i < bytes/600; i++ {
		sliceOfStructs = append(sliceOfStructs, record{i, string(makeBytes(256)), []string{string(makeBytes(256))}})
	}
}

func heapAlloc() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	return heapAlloc()
}

func main() {
	mib, _ := strconv.Atoi(os.Args[2])
	mode, size := os.Args[1], mib<<20
	before := live()
	var held []*blob
	switch fill, known := holds[mode]; {
	case mode == "mainStack":
		held = mainStackFill(size)
	case !known:
		fmt.Fprintln(os.Stderr, "no such mode:", mode)
		os.Exit(2)
	case mode == "bufferPool":
		// a collection would empty it
		debug.SetGCPercent(-1)
		fill(size)
		report(heapAlloc() - before)
		wait()
	default:
		fill(size)
	}
	report(live() - before)
	if len(os.Args) > 3 {
		go churn()
		go churn()
	}
	wait()
	held[0].data[0]++
}

var garbage [256][]byte

func churn() {
	for i := 0; ; i++ {
		garbage[i%len(garbage)] = make([]byte, 1<<10+i%(16<<10))
	}
}

// wait does not look like a deadlock.
func wait() {
	for len(os.Args) > 0 {
		time.Sleep(time.Hour)
	}
}

//go:noinline
func mainStackFill(bytes int) []*blob {
	var held []*blob
	for i := 0; i < blobs(bytes); i++ {
		held = append(held, makeBlob(i))
	}
	return held
}

func report(bytes uint64) {
	json.NewEncoder(os.Stdout).Encode(map[string]uint64{"bytes": bytes})
}
