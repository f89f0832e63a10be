// Prints where its own Go runtime keeps the fields that are asked for on stdin, as the toolchain's DWARF tells.
//
// A question is a line `STRUCT<tab>FIELD`; both may be several names joined by `|`, of which the first that this release has counts.
// FIELD is a dotted path, or `(size)`. The answer is a line `STRUCT<tab>FIELD<tab>OFFSET:SIZE`, for `(size)` only the size; `-` where
// this release has no such thing.
package main

import (
	"bufio"
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := answer(); err != nil {
		fmt.Fprintln(os.Stderr, "layouts:", err)
		os.Exit(1)
	}
}

func answer() error {
	structs, err := ownStructs()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		names, paths, found := strings.Cut(lines.Text(), "\t")
		if !found {
			return fmt.Errorf("not STRUCT<tab>FIELD: %q", lines.Text())
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", names, paths, place(structs, names, paths))
		// whoever asks may wait for each answer
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return lines.Err()
}

func place(structs map[string]*dwarf.StructType, names, paths string) string {
	for _, name := range strings.Split(names, "|") {
		s := structs[name]
		if s == nil {
			continue
		}
		if paths == "(size)" {
			return fmt.Sprint(s.ByteSize)
		}
		for _, path := range strings.Split(paths, "|") {
			if offset, size, ok := field(s, strings.Split(path, ".")); ok {
				return fmt.Sprintf("%d:%d", offset, size)
			}
		}
	}
	return "-"
}

func field(s *dwarf.StructType, path []string) (offset, size int64, ok bool) {
	for _, f := range s.Field {
		if f.Name != path[0] {
			continue
		}
		if len(path) == 1 {
			return f.ByteOffset, f.Type.Size(), true
		}
		inner, isStruct := plain(f.Type).(*dwarf.StructType)
		if !isStruct {
			return 0, 0, false
		}
		within, size, ok := field(inner, path[1:])
		return f.ByteOffset + within, size, ok
	}
	return 0, 0, false
}

func plain(t dwarf.Type) dwarf.Type {
	for {
		named, ok := t.(*dwarf.TypedefType)
		if !ok {
			return t
		}
		t = named.Type
	}
}

func ownStructs() (map[string]*dwarf.StructType, error) {
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := file.DWARF()
	if err != nil {
		return nil, err
	}
	structs := map[string]*dwarf.StructType{}
	for entries := data.Reader(); ; {
		entry, err := entries.Next()
		if err != nil || entry == nil {
			return structs, err
		}
		if entry.Tag != dwarf.TagStructType {
			continue
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		if !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "internal/") {
			continue
		}
		t, err := data.Type(entry.Offset)
		if err != nil {
			return nil, err
		}
		if s, ok := t.(*dwarf.StructType); ok {
			structs[name] = s
		}
	}
}
