// Command canary holds ten thousand secrets wherever a process can hold them. It serves nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	_ "net/http/pprof"
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

var (
	exitAfter = flag.Duration("exit-after", 2*time.Minute, "end after this `time`")
	stdin     = flag.Bool("stdin", false, "end when standard input closes")
	secret    = flag.String("secret", "", "the `text` that all secrets begin with")
	kept      = map[string][]byte{}
	never     = make(chan string)
)

//go:noinline
func hold(password string, token [32]byte) {
	copy(token[:], password)
	never <- password + string(token[:])
}

func main() {
	flag.Parse()
	time.AfterFunc(*exitAfter, func() { os.Exit(0) })
	for i := 0; i < 8000; i++ {
		one := fmt.Sprintf("%s%08x", *secret, i)
		kept[one] = []byte("in a slice: " + one)
	}
	for i := 8000; i < 10000; i++ {
		one := fmt.Sprintf("%s%08x", *secret, i)
		go pprof.Do(context.Background(), pprof.Labels("customer", one), func(context.Context) {
			var token [32]byte
			hold(one, token)
		})
	}
	runtime.GC()
	runtime.GC()
	fmt.Printf("READY addr=none pid=%d\n", os.Getpid())
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(kept)
}
