//! Whose a function is, by its name: the service's own, some module's, or of Go's library.
//!
//! Whoever reads a stack wants to know where in his own code it is. What lies on top of that (a lock, a connection, a decoder) says how
//! it waits or what it needs memory for; and goroutines that a library makes for itself have nothing of his in them.

/// First elements of the import paths of Go's library.
const LIBRARY: [&str; 51] = [
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "type:",
    "unicode",
    "unique",
    "unsafe",
    "vendor",
    "weak",
];
/// Frames of the runtime that give memory to another one that asked for it.
const ALLOCATOR: [&str; 5] = ["runtime.malloc", "runtime.newobject", "runtime.newarray", "runtime.makeslice", "runtime.growslice"];

/// Whose a function is, seen from one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Of the main module.
    Own,
    /// Of another module.
    Module,
    /// Of Go's library.
    Library,
    Runtime,
}

/// `module` is the path of the main module, where it is known.
pub fn whose(function: &str, module: Option<&str>) -> Whose {
    // type arguments are paths as well
    let head = function.split(['[', '(']).next().unwrap_or(function);
    let of_module = module.is_some_and(|module| {
        let rest = head.strip_prefix(module);
        rest.is_some_and(|rest| rest.starts_with(['/', '.']))
    });
    if head.starts_with("main.") || of_module {
        return Whose::Own;
    }
    if head.starts_with("runtime.") || head.starts_with("internal/runtime/") || head.starts_with("runtime/internal/") {
        return Whose::Runtime;
    }
    let first = match head.split_once('/') {
        Some((first, _)) => first,
        None => head.split_once('.').map_or(head, |(package, _)| package),
    };
    if LIBRARY.contains(&first) { Whose::Library } else { Whose::Module }
}

/// Whether the runtime's allocator is in it, on behalf of what called it.
pub fn allocates(function: &str) -> bool {
    ALLOCATOR.iter().any(|prefix| function.starts_with(prefix))
}

/// The frame that tells its owner where a stack is, the innermost first: the innermost of the main module, else of any other module. Of a
/// stack that is all the library's the outermost says what it is for. `None` of an empty one.
pub fn place<'a>(stack: impl DoubleEndedIterator<Item = &'a str> + Clone, module: Option<&str>) -> Option<&'a str> {
    let first = |wanted| stack.clone().find(|function| whose(function, module) == wanted);
    let outermost = || stack.clone().rfind(|function| whose(function, module) == Whose::Library);
    first(Whose::Own).or_else(|| first(Whose::Module)).or_else(outermost).or_else(|| stack.clone().next())
}

/// Whether a stack with this function answers a question for a profile, memtrap's own among them. The CPU profile is written by a goroutine
/// that has no caller.
pub fn profiles(function: &str) -> bool {
    function.starts_with("net/http/pprof.") || function == "runtime/pprof.profileWriter"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_belongs_to_whose_path_it_has() {
        let module = Some("example.com/shop");
        for (function, expected) in [
            ("main.(*Pool).Get", Whose::Own),
            ("main.cached[go.shape.struct { net/http.x int }]", Whose::Own),
            ("example.com/shop/db.(*Store).Load", Whose::Own),
            ("example.com/shopping.Cart", Whose::Module),
            ("github.com/lib/pq.(*conn).recv", Whose::Module),
            ("go.uber.org/zap.(*Logger).Info", Whose::Module),
            ("golang.org/x/net/http2.(*serverConn).serve", Whose::Module),
            ("net/http.(*connReader).backgroundRead", Whose::Library),
            ("vendor/golang.org/x/net/http2.x", Whose::Library),
            ("go/ast.Walk", Whose::Library),
            ("sync.(*Mutex).Lock", Whose::Library),
            ("internal/poll.(*FD).Read", Whose::Library),
            ("runtime.gopark", Whose::Runtime),
            ("internal/runtime/maps.NewMap", Whose::Runtime),
        ] {
            assert_eq!(whose(function, module), expected, "{function}");
        }
        assert_eq!(whose("shop/db.Load", Some("shop")), Whose::Own);
    }

    #[test]
    fn the_service_s_own_frame_names_a_place_before_any_library_s() {
        let at = |stack: &[&'static str]| place(stack.iter().copied(), Some("example.com/shop"));
        let own =
            ["runtime.gopark", "sync.(*Mutex).Lock", "database/sql.(*DB).conn", "github.com/x/orm.Find", "main.handle", "net/http.serve"];
        assert_eq!(at(&own), Some("main.handle"));
        assert_eq!(at(&["runtime.gopark", "internal/poll.(*FD).Read", "github.com/x/orm.loop", "main.start"]), Some("main.start"));
        assert_eq!(
            at(&["runtime.gopark", "net.(*conn).Read", "github.com/x/mq.(*Conn).readLoop"]),
            Some("github.com/x/mq.(*Conn).readLoop")
        );
        let helper = ["runtime.gopark", "internal/poll.(*FD).Read", "net.(*conn).Read", "net/http.(*connReader).backgroundRead"];
        assert_eq!(at(&helper), Some("net/http.(*connReader).backgroundRead"));
        assert_eq!(at(&["runtime.gopark", "runtime.bgsweep"]), Some("runtime.gopark"));
        assert_eq!(at(&[]), None);
    }
}
