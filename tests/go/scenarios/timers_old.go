//go:build !go1.23

package main

import "time"

func oldTimerScenarios() []scenario {
	return []scenario{{name: "time_after", grow: pollOrders}}
}

// pollOrder makes a timer for a timeout that is never reached; before Go 1.23 it lives until it fires.
func pollOrder(orders chan int) int {
	select {
	case order := <-orders:
		return order
	case <-time.After(time.Hour):
		return 0
	}
}

func pollOrders(bytes int64) {
	orders := make(chan int, 1)
	growResident(bytes, func() {
		for i := 0; i < 1000; i++ {
			orders <- i
			pollOrder(orders)
		}
	})
}
