//go:build go1.24

package main

import "weak"

var weakTo []weak.Pointer[blob]
var weakToKeep []*blob

// Only the variable that points to them holds them.
//
//go:noinline
func weakToFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		b := makeBlob(i)
		weakTo = append(weakTo, weak.Make(b))
		weakToKeep = append(weakToKeep, b)
	}
}
