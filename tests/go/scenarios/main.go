// Command scenarios is a Go service whose RSS grows for one known reason, chosen with -scenario, so that a verdict can be held
// against the truth. It always ends by itself: after -exit-after, on SIGTERM, or with -stdin when its standard input closes.
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	name      = flag.String("scenario", "", "grow in this `way`; see -list")
	mib       = flag.Int64("mib", 300, "let RSS grow by about this many `MiB`")
	addr      = flag.String("addr", "127.0.0.1:0", "listen on this `address`")
	baseline  = flag.Bool("baseline", false, "start healthy, and grow on POST /ctl/grow")
	exitAfter = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin     = flag.Bool("stdin", false, "end when standard input closes")
	listAll   = flag.Bool("list", false, "print the scenarios of this build, and end")
)

// A scenario is one reason for which RSS grows.
type scenario struct {
	name string
	// healthy is what it has from its start on, and no reason for its growth; a small catalog, if a baseline is wanted and this is nil.
	healthy func(bytes int64)
	// grow returns when RSS has grown by about this many bytes, and stays there.
	grow func(bytes int64)
	// env is what the process needs in its environment, if anything; it is what a profiler can see.
	env func(bytes int64) []string
}

func scenarios() []scenario {
	all := []scenario{
		{name: "heap_few_big", grow: keepUploads},
		{name: "heap_small_objects", grow: openSessions},
		{name: "subslice", grow: rememberTokens},
		{name: "strings_builder", grow: recordAudit},
		{name: "finalizer_held", grow: renderTiles},
		{name: "pool_buffers", grow: renderReports},
		{name: "timer_per_request", grow: expireCarts},
		{name: "fragmentation", grow: sampleEvents},
		{name: "churn", grow: serveQueries},
		{name: "churn_just_collected", grow: serveQueriesJustCollected},
		{name: "gomemlimit", grow: serveUpToTheLimit, env: memoryLimit},
		{name: "ballast", grow: serveOnBallast},
		{name: "unreleased", grow: rebuildIndex},
		{name: "unreleased_goal", grow: rebuildIndexUnderHighGoal},
		{name: "metadata", grow: profileEveryBlock},
		{name: "healthy", grow: serveSteadily},
		{name: "goroutine_chan", grow: awaitReplies},
		{name: "goroutine_mutex", grow: postEntries},
		{name: "goroutine_io", grow: serveDevices},
		{name: "goroutine_pins_heap", grow: streamExports},
		{name: "goroutine_grown_stacks", grow: walkTrees},
		{name: "goroutine_shrunk_stacks", grow: walkTreesAndReturn},
		{name: "goroutine_idle_keepalive", grow: keepConnectionsAlive},
		{name: "deep_stacks", grow: evaluateDeepRule},
		{name: "deep_among_idle", grow: evaluateAmongIdle},
		{name: "cache_of_workers", grow: renderThumbnails},
		{name: "one_of_many_workers", grow: countInOneOfMany},
		{name: "cache_and_leak", grow: keepUploadsAndForgetReplies},
		{name: "mmap_anon", grow: growOffHeapCache},
		{name: "mmap_file", grow: mapSegments},
		{name: "shmem", grow: shareRing},
		{name: "threads_go", grow: readBlocking},
		{name: "mixed", grow: keepUploadsAndOffHeapCache},
		{name: "stacks_and_native", grow: walkTreesAndGrowOffHeapCache},
		{name: "http_lock", grow: reserveUnderLock},
		{name: "http_backend", grow: quotePrices},
		{name: "http_pool", grow: renderInvoices},
		{name: "http_database", grow: countStocks},
		{name: "http_objects", grow: acceptOrders},
		{name: "http_few_large", grow: storeUploads},
		{name: "http_bodies_unclosed", grow: fetchFeeds},
		{name: "rows_unclosed", grow: listStocks},
		{name: "idle_and_cache", healthy: fewSubscribers, grow: keepPages},
		{name: "idle_many_and_sessions", healthy: manySubscribers, grow: openSessions},
		{name: "cache_and_idle", grow: keepPagesAndSubscribe},
		{name: "idle_and_burst", healthy: fewSubscribers, grow: rebuildIndex},
		{name: "idle_and_mmap", healthy: manySubscribers, grow: growOffHeapCache},
		{name: "ingest_workers", grow: ingestFilms},
		{name: "ticker_goroutines", grow: pollSessions},
		{name: "sleeping_goroutines", grow: retryJobs},
		{name: "context_goroutines", grow: traceCalls},
		{name: "waitgroup_goroutines", grow: awaitQuorums},
		{name: "parser_pool", grow: parseInPool},
		{name: "deep_several", grow: resolveSeveral},
		{name: "ended_goroutines", grow: endManyGoroutines},
		{name: "burst_then_idle", grow: rebuildIndexThenIdle},
		{name: "burst_then_serve", grow: rebuildIndexThenServe},
		{name: "gc_percent_set", grow: raiseTarget},
		{name: "memory_limit_set", grow: raiseLimit},
		{name: "memory_limit_tight", grow: fillUpToTheLimit},
		{name: "churn_fast", grow: churnFast},
		{name: "pool_left", grow: encodeBurst},
		{name: "freed_lazily", grow: rebuildIndexAndReturnLazily, env: lazily},
		{name: "huge_again", grow: becomeHuge},
		{name: "titles", grow: indexTitles},
		{name: "interned", grow: internNames},
		{name: "map_emptied", grow: forgetVisitors},
		{name: "map_of_numbers", grow: keepScores},
		{name: "ring_buffers", grow: keepTails},
		{name: "channel_buffers", grow: openFeeds},
		{name: "channel_backlog", grow: enqueueMessages},
		{name: "closures", grow: deferJobs},
		{name: "timers_with_records", grow: auditAllLater},
		{name: "tickers", grow: startHeartbeats},
		{name: "contexts", grow: handleAllTraced},
		{name: "templates", grow: parseLayouts},
		{name: "json_kept", grow: rememberAnswers},
		{name: "log_kept", grow: keepLog},
		{name: "finalizer_chain", grow: buildChain},
		{name: "tree", grow: growTrees},
		{name: "many_sites", grow: keepShards},
		{name: "slab_and_sessions", healthy: reserveSlab, grow: openSessions},
		{name: "slab_and_mmap", healthy: reserveSlab, grow: growOffHeapCache},
		{name: "slab_and_burst", healthy: reserveSlab, grow: rebuildIndex},
		{name: "slab_and_goroutines", healthy: reserveSlab, grow: pollSessions},
		{name: "index_and_pages", healthy: reserveIndex, grow: keepPages},
		{name: "guard_pages", grow: startInstances},
		{name: "guard_pages_small", grow: startSmallInstances},
		{name: "file_private", grow: patchTable},
		{name: "file_store", grow: openStore},
		{name: "shared_anonymous", grow: shareAnonymously},
		{name: "mmap_huge", grow: mapHuge},
	}
	all = append(all, oldTimerScenarios()...)
	return append(all, cgoScenarios()...)
}

func find(name string) scenario {
	for _, s := range scenarios() {
		if s.name == name {
			return s
		}
	}
	log.Fatalf("this build has no scenario %q; see -list", name)
	panic("unreachable")
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// resident is the RSS in bytes.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	must(err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	must(err)
	return pages * int64(os.Getpagesize())
}

// growResident takes steps until RSS is this many bytes larger.
func growResident(bytes int64, step func()) {
	for start := resident(); resident()-start < bytes; {
		step()
	}
}

// reachResident waits for others to make RSS this large.
func reachResident(bytes int64) {
	for resident() < bytes {
		time.Sleep(10 * time.Millisecond)
	}
}

// touch writes to every page.
func touch(memory []byte) {
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
}

// cleanups are what an end by whatever cause leaves tidy.
var cleanups struct {
	sync.Mutex
	do []func()
}

func atEnd(do func()) {
	cleanups.Lock()
	defer cleanups.Unlock()
	cleanups.do = append(cleanups.do, do)
}

// end does not return, and keeps the lock: the first end is the only one.
func end() {
	cleanups.Lock()
	for _, do := range cleanups.do {
		do()
	}
	os.Exit(0)
}

// endByItself sees to it that nobody has to hunt for this process.
func endByItself() {
	time.AfterFunc(*exitAfter, end)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-terminate
		end()
	}()
	if *stdin {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			end()
		}()
	}
}

// withEnv starts this program again, in the same process, if it does not have these variables.
func withEnv(variables []string) {
	again := false
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		again = again || os.Getenv(name) != value
		must(os.Setenv(name, value))
	}
	if again {
		self, err := os.Executable()
		must(err)
		must(syscall.Exec(self, os.Args, os.Environ()))
	}
}

func main() {
	flag.Parse()
	if *listAll {
		for _, s := range scenarios() {
			fmt.Println(s.name)
		}
		return
	}
	chosen, bytes := find(*name), *mib<<20
	if chosen.env != nil {
		withEnv(chosen.env(bytes))
	}
	endByItself()

	listener, err := net.Listen("tcp", *addr)
	must(err)
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	var once sync.Once
	mux.HandleFunc("/ctl/grow", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "POST it", http.StatusMethodNotAllowed)
			return
		}
		once.Do(func() { chosen.grow(bytes) })
		fmt.Fprintln(w, "ok")
	})
	go func() { log.Fatal(http.Serve(listener, mux)) }()

	switch {
	case chosen.healthy != nil:
		chosen.healthy(bytes)
	case *baseline:
		loadCatalog(bytes / 10)
	}
	if *baseline {
		runtime.GC()
	} else {
		once.Do(func() { chosen.grow(bytes) })
	}
	fmt.Printf("READY addr=%s pid=%d\n", listener.Addr(), os.Getpid())
	select {}
}
