//go:build go1.23

package main

// oldTimerScenarios has none: an unreferenced timer is garbage since Go 1.23.
func oldTimerScenarios() []scenario { return nil }
