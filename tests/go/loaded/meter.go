package main

import (
	"math"
	"runtime/metrics"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Cost is what happened in a while; times in milliseconds.
type cost struct {
	Wall float64 `json:"wall"`
	// CPU is the process's, user and system.
	CPU float64 `json:"cpu"`
	// Stopped is how long the world was, all together: each pause counts as the middle of its bucket in runtime/metrics, which is right
	// to an eighth. Null where the runtime does not tell (before Go 1.22).
	Stopped *float64 `json:"stopped"`
	GCs     uint64   `json:"gcs"`
	// Stall is the longest that a request had to wait for its turn.
	Stall float64 `json:"stall"`
}

const (
	gcPauses    = "/sched/pauses/total/gc:seconds"
	otherPauses = "/sched/pauses/total/other:seconds"
	gcCycles    = "/gc/cycles/total:gc-cycles"
)

type meter struct {
	mu      sync.Mutex
	stall   time.Duration
	at      time.Time
	cpu     time.Duration
	samples []metrics.Sample
	pauses  map[string][]uint64
	gcs     uint64
}

func newMeter() *meter {
	m := &meter{pauses: make(map[string][]uint64)}
	for _, name := range []string{gcPauses, otherPauses, gcCycles} {
		m.samples = append(m.samples, metrics.Sample{Name: name})
	}
	m.since()
	return m
}

// serveRequests does every millisecond what a small request does, and notes how late it was.
func (m *meter) serveRequests(s *store) {
	const pace = time.Millisecond
	for n := 0; ; n++ {
		due := time.Now().Add(pace)
		time.Sleep(pace)
		if one := s.byID["session-"+strconv.Itoa(n*7919%len(s.byID))]; one != nil {
			one.body = make([]byte, len(one.body))
		}
		late := time.Since(due)
		m.mu.Lock()
		if late > m.stall {
			m.stall = late
		}
		m.mu.Unlock()
	}
}

func (m *meter) since() cost {
	m.mu.Lock()
	defer m.mu.Unlock()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	now, cpu := time.Now(), time.Duration(used.Utime.Nano()+used.Stime.Nano())
	c := cost{Wall: ms(now.Sub(m.at)), CPU: ms(cpu - m.cpu), Stall: ms(m.stall)}
	m.at, m.cpu, m.stall = now, cpu, 0
	metrics.Read(m.samples)
	for _, sample := range m.samples {
		switch sample.Name {
		case gcPauses, otherPauses:
			if sample.Value.Kind() == metrics.KindFloat64Histogram {
				m.addPauses(&c, sample.Name, sample.Value.Float64Histogram())
			}
		case gcCycles:
			c.GCs, m.gcs = sample.Value.Uint64()-m.gcs, sample.Value.Uint64()
		}
	}
	return c
}

func (m *meter) addPauses(c *cost, name string, h *metrics.Float64Histogram) {
	before := m.pauses[name]
	if c.Stopped == nil {
		c.Stopped = new(float64)
	}
	for i, n := range h.Counts {
		if i < len(before) {
			n -= before[i]
		}
		low, high := h.Buckets[i], h.Buckets[i+1]
		if n == 0 || math.IsInf(low, 0) || math.IsInf(high, 0) {
			continue
		}
		*c.Stopped += float64(n) * (low + high) / 2 * 1e3
	}
	m.pauses[name] = append(before[:0], h.Counts...)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
