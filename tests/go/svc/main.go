// Command svc is the Go service that memtrap's tests watch. It does over HTTP what a test tells it to, and it always ends by
// itself: after -exit-after, or with -stdin when its standard input closes.
package main

import (
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	rpprof "runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	addr         = flag.String("addr", "127.0.0.1:0", "listen on this `address`, or unix:/path")
	grow         = flag.Int64("grow", 0, "retain this many `bytes` at the start")
	leak         = flag.Int64("leak", 0, "leak this many `bytes` per second from the start")
	max          = flag.Int64("max", 1<<30, "leak no more than this many `bytes`")
	exitAfter    = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin        = flag.Bool("stdin", false, "end when standard input closes")
	noPprof      = flag.Bool("no-pprof", false, "serve no pprof at all")
	noMutex      = flag.Bool("no-mutex", false, "answer 404 for the mutex profile")
	cpuBusy      = flag.Bool("cpu-busy", false, "keep a CPU profile running, so that another is refused with 500")
	writeTimeout = flag.Duration("write-timeout", 0, "the server's WriteTimeout")
	basic        = flag.String("auth", "", "ask for this `user:password`")
	bearer       = flag.String("bearer", "", "ask for this bearer `token`")
	tlsCert      = flag.String("tls-cert", "", "serve TLS with this certificate `file`")
	tlsKey       = flag.String("tls-key", "", "key `file` of -tls-cert")
	clientCA     = flag.String("client-ca", "", "ask clients for a certificate of this CA `file`")
	limit        = flag.Int64("limit", 0, "say in /metrics that so many `bytes` may be used")
)

// hoard holds memory so that the garbage collector may not have it.
type hoard struct {
	mu     sync.Mutex
	chunks [][]byte
	held   int64
	stop   chan struct{}
}

var held hoard

// retain keeps n bytes more, every page of them touched.
func (h *hoard) retain(n int64) {
	const most = 1 << 20
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held += n
	for n > 0 {
		size := n
		if size > most {
			size = most
		}
		chunk := make([]byte, size)
		for i := 0; i < len(chunk); i += 4096 {
			chunk[i] = 1
		}
		h.chunks = append(h.chunks, chunk)
		n -= size
	}
}

// drop gives everything back to the kernel.
func (h *hoard) drop() {
	h.mu.Lock()
	h.chunks, h.held = nil, 0
	h.mu.Unlock()
	debug.FreeOSMemory()
}

func (h *hoard) size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}

// leakSmoothly retains rate bytes per second, in steps of 50 ms, until max are held or stopLeaking.
func (h *hoard) leakSmoothly(rate, max int64) {
	h.stopLeaking()
	stop := make(chan struct{})
	h.mu.Lock()
	h.stop = stop
	h.mu.Unlock()
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for h.size() < max {
			select {
			case <-stop:
				return
			case <-tick.C:
				h.retain(rate / 20)
			}
		}
	}()
}

func (h *hoard) stopLeaking() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != nil {
		close(h.stop)
		h.stop = nil
	}
}

// blockedForever is where the goroutines of /ctl/goroutines wait.
func blockedForever(never chan struct{}) { <-never }

func number(r *http.Request, name string) int64 {
	n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return n
}

func control(mux *http.ServeMux) {
	on := func(path string, do func(r *http.Request)) {
		mux.HandleFunc("/ctl/"+path, func(w http.ResponseWriter, r *http.Request) {
			do(r)
			fmt.Fprintln(w, "ok")
		})
	}
	on("grow", func(r *http.Request) { held.retain(number(r, "bytes")) })
	on("free", func(r *http.Request) { held.stopLeaking(); held.drop() })
	on("leak", func(r *http.Request) { held.leakSmoothly(number(r, "rate"), number(r, "max")) })
	on("stop", func(r *http.Request) { held.stopLeaking() })
	on("goroutines", func(r *http.Request) {
		never := make(chan struct{})
		for i := int64(0); i < number(r, "n"); i++ {
			go blockedForever(never)
		}
		runtime.Gosched()
	})
	on("gc", func(r *http.Request) { runtime.GC() })
	on("exit", func(r *http.Request) { os.Exit(int(number(r, "code"))) })
}

func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	if *noMutex {
		mux.Handle("/debug/pprof/mutex", http.NotFoundHandler())
	}
}

// guarded asks for credentials on pprof's paths.
func guarded(next http.Handler) http.Handler {
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		refused := *basic != "" && !same(user+":"+password, *basic) ||
			*bearer != "" && !same(r.Header.Get("Authorization"), "Bearer "+*bearer)
		if refused && strings.HasPrefix(r.URL.Path, "/debug/") {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func listen() (net.Listener, error) {
	if path := strings.TrimPrefix(*addr, "unix:"); path != *addr {
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", *addr)
}

func withTLS(listener net.Listener) (net.Listener, error) {
	if *tlsCert == "" {
		return listener, nil
	}
	cert, err := tls.LoadX509KeyPair(*tlsCert, *tlsKey)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	if *clientCA != "" {
		pem, err := os.ReadFile(*clientCA)
		if err != nil {
			return nil, err
		}
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(pem)
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tls.NewListener(listener, config), nil
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
	listener, err := listen()
	if err != nil {
		log.Fatal(err)
	}
	address := listener.Addr()
	if listener, err = withTLS(listener); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	control(mux)
	mux.HandleFunc("/metrics", metrics)
	if !*noPprof {
		profiles(mux)
	}
	if *cpuBusy {
		if err := rpprof.StartCPUProfile(io.Discard); err != nil {
			log.Fatal(err)
		}
	}
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	held.retain(*grow)
	if *leak > 0 {
		held.leakSmoothly(*leak, *max)
	}
	fmt.Printf("READY addr=%s pid=%d\n", address, os.Getpid())
	server := &http.Server{Handler: guarded(mux), WriteTimeout: *writeTimeout}
	log.Fatal(server.Serve(listener))
}
