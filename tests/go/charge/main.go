// Takes memory that its cgroup is charged with and that no process has in its RSS, says so, and ends with its standard input.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
)

func main() {
	mib, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	switch os.Args[1] {
	case "page_tables":
		pageTables(mib)
	case "pipes":
		pipes(mib)
	}
	fmt.Println("READY")
	io.Copy(io.Discard, os.Stdin)
}

// A page of table for each 2 MiB in which the page of zeros is read.
func pageTables(mib int) {
	const step = 2 << 20
	tables := mib << 20 / 4096
	all, err := syscall.Mmap(-1, 0, tables*step, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		panic(err)
	}
	const noHugePages = 15
	if err := syscall.Madvise(all, noHugePages); err != nil {
		panic(err)
	}
	sum := byte(0)
	for i := 0; i < tables; i++ {
		sum += all[i*step]
	}
	if sum != 0 {
		panic(sum)
	}
}

// Pipes that nobody reads.
func pipes(mib int) {
	const setSize = 1031
	megabyte := make([]byte, 1<<20)
	for i := 0; i < mib; i++ {
		var ends [2]int
		if err := syscall.Pipe2(ends[:], syscall.O_NONBLOCK); err != nil {
			panic(err)
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(ends[1]), setSize, 1<<20); errno != 0 {
			panic(errno)
		}
		if _, err := syscall.Write(ends[1], megabyte); err != nil {
			panic(err)
		}
	}
}
