package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"text/template"
	"time"
)

// titles are the first words of documents; each keeps its whole document.
var titles []string

func readDocument(size int) string {
	text := make([]byte, size)
	touch(text)
	return string(text)
}

func indexTitles(bytes int64) {
	growResident(bytes, func() {
		document := readDocument(256 << 10)
		titles = append(titles, document[:32])
	})
	returnFreed()
}

// interned has one copy of each name that was ever seen.
var interned = map[string]string{}

func intern(name []byte) string {
	if known, ok := interned[string(name)]; ok {
		return known
	}
	fresh := string(name)
	interned[fresh] = fresh
	return fresh
}

func internNames(bytes int64) {
	n := 0
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			n++
			intern([]byte(fmt.Sprintf("http_request_duration_seconds_bucket{service=\"checkout\",instance=\"10.0.0.7:9090\",le=\"0.5\",series=\"%012d\"}", n)))
		}
	})
}

// visitors were many, and have left; a map does not shrink.
var visitors = map[int][128]byte{}

func forgetVisitors(bytes int64) {
	for i := 0; i < int(bytes/180); i++ {
		visitors[i] = [128]byte{1}
	}
	for i := range visitors {
		delete(visitors, i)
	}
	returnFreed()
}

// scores is one map of numbers.
var scores = map[uint64]uint64{}

func keepScores(bytes int64) {
	for i := uint64(0); i < uint64(bytes/26); i++ {
		scores[i*0x9e3779b97f4a7c15] = i
	}
	returnFreed()
}

// tails are ring buffers, one for each tenant that ever came.
var tails = map[string][]byte{}

func tailOf(tenant string) []byte {
	if tails[tenant] == nil {
		ring := make([]byte, 1<<20)
		touch(ring)
		tails[tenant] = ring
	}
	return tails[tenant]
}

func keepTails(bytes int64) {
	n := 0
	growResident(bytes, func() {
		n++
		tailOf(fmt.Sprint("tenant-", n))
	})
}

type reading struct{ values [128]byte }

// feeds have room for many readings each, and take it at once.
var feeds []chan reading

func openFeed() {
	feed := make(chan reading, 2000)
	for i := 0; i < cap(feed); i++ {
		feed <- reading{values: [128]byte{1}}
	}
	feeds = append(feeds, feed)
}

func openFeeds(bytes int64) { growResident(bytes, openFeed) }

// backlog is a queue whose consumer has stopped.
var backlog chan []byte

func enqueue(size int) {
	message := make([]byte, size)
	touch(message)
	backlog <- message
}

func enqueueMessages(bytes int64) {
	backlog = make(chan []byte, bytes>>10)
	growResident(bytes, func() { enqueue(40 << 10) })
}

// jobs are closures over the request that they are about.
var jobs []func() int

func deferJob(request [2048]byte) {
	jobs = append(jobs, func() int { return len(request) + int(request[7]) })
}

func deferJobs(bytes int64) {
	growResident(bytes, func() {
		for i := 0; i < 100; i++ {
			deferJob([2048]byte{1})
		}
	})
}

// audits fire tomorrow, and until then hold what they are about.
func auditLater(size int) {
	record := make([]byte, size)
	touch(record)
	time.AfterFunc(24*time.Hour, func() { record[0]++ })
}

func auditAllLater(bytes int64) { growResident(bytes, func() { auditLater(16 << 10) }) }

var tickers = map[int]*time.Ticker{}

// heartbeat is never stopped.
func heartbeat(n int) { tickers[n] = time.NewTicker(time.Hour) }

func startHeartbeats(bytes int64) {
	n := 0
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			n++
			heartbeat(n)
		}
	})
}

type traceKey struct{}

// server is the context of all requests; each child that is not cancelled stays in its list.
var server, shutDown = context.WithCancel(context.Background())

func handleTraced(n int) {
	_, cancel := context.WithCancel(context.WithValue(server, traceKey{}, n))
	cancels = append(cancels, cancel)
}

func handleAllTraced(bytes int64) {
	n := 0
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			n++
			handleTraced(n)
		}
	})
	runtime.KeepAlive(shutDown)
}

// layouts is a cache of parsed templates with the tenant's name in the key, and in the text.
var layouts = map[string]*template.Template{}

func layoutFor(tenant string) *template.Template {
	text := "<h1>{{.Title}} of " + tenant + "</h1>" + strings.Repeat("{{range .Rows}}<td>{{.Name}}</td>{{if .Price}}{{.Price}}{{end}}{{end}}", 6)
	parsed, err := template.New(tenant).Parse(text)
	must(err)
	layouts[tenant] = parsed
	return parsed
}

func parseLayouts(bytes int64) {
	n := 0
	growResident(bytes, func() {
		for i := 0; i < 20; i++ {
			n++
			layoutFor(fmt.Sprint("tenant-", n))
		}
	})
}

// answers are decoded, and kept as they came out of encoding/json.
var answers []map[string]any

func rememberAnswer(text []byte) {
	var answer map[string]any
	must(json.Unmarshal(text, &answer))
	answers = append(answers, answer)
}

func rememberAnswers(bytes int64) {
	text := []byte(`{"id":"42","rows":[{"a":1,"b":"two"},{"a":2,"b":"three"}],"tags":{"x":"y","z":"w"},"next":null}`)
	growResident(bytes, func() {
		for i := 0; i < 200; i++ {
			rememberAnswer(text)
		}
	})
}

// lines is a log that is kept in memory.
var lines []string

func logLine(n int) { lines = append(lines, fmt.Sprintf("%d GET /cart/%d 200 in 12ms from 10.0.0.7 by curl/8.1", n, n)) }

func keepLog(bytes int64) {
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			logLine(len(lines))
		}
	})
}

// link has a finalizer, and the next one: a collection can free only one of the chain.
type link struct {
	next *link
	data [32 << 10]byte
}

var chain *link

func addLink() {
	added := &link{next: chain}
	touch(added.data[:])
	runtime.SetFinalizer(added, func(*link) {})
	chain = added
}

func buildChain(bytes int64) {
	growResident(bytes, addLink)
	chain = nil
}

// graph is a tree of small nodes.
type node struct {
	left, right *node
	key         uint64
}

var root *node

func grow(depth int, key uint64) *node {
	if depth == 0 {
		return nil
	}
	return &node{left: grow(depth-1, key*2), right: grow(depth-1, key*2+1), key: key}
}

func growTrees(bytes int64) {
	growResident(bytes, func() { root = &node{left: root, right: grow(14, 1)} })
}

// left and right allocate from a call stack of their own for each path.
func shardLeft(path uint64, depth int) []byte {
	if depth == 0 {
		return make([]byte, 16<<10)
	}
	if path&1 == 1 {
		return shardRight(path>>1, depth-1)
	}
	return shardLeft(path>>1, depth-1)
}

func shardRight(path uint64, depth int) []byte {
	if depth == 0 {
		return make([]byte, 16<<10)
	}
	if path&1 == 1 {
		return shardRight(path>>1, depth-1)
	}
	return shardLeft(path>>1, depth-1)
}

// keepShards allocates what it keeps at thousands of places, each of which the profile knows.
func keepShards(bytes int64) {
	runtime.MemProfileRate = 1
	path := uint64(0)
	growResident(bytes, func() {
		shard := shardLeft(path, 12)
		path++
		touch(shard)
		pages = append(pages, shard)
	})
}
