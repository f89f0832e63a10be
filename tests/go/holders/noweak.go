//go:build !go1.24

package main

var weakToKeep []*blob

//go:noinline
func weakToFill(bytes int) {
	for i := 0; i < blobs(bytes); i++ {
		weakToKeep = append(weakToKeep, makeBlob(i))
	}
}
