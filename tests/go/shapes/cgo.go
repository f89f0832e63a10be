//go:build cgo

package main

/*
#include <unistd.h>

extern void calledBack(void);

static void hold_in_c(void) { for (;;) pause(); }
static void call_back(void) { calledBack(); }
*/
import "C"

//export calledBack
func calledBack() { wait() }

// native are goroutines in C, and such that C has called back.
func native() {
	start(2, func() { C.hold_in_c() })
	start(2, func() { C.call_back() })
}
