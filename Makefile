# Each target sets up by itself what it needs. Go is taken from PATH, or installed below target/go by scripts/go-toolchain; an S3 API
# for the tests of uploads likewise, by scripts/python-program.
CARGO ?= cargo
# Most tests wait for what they started: for seconds to pass, for a capture, for an answer that never comes.
export RUST_TEST_THREADS ?= 8
# The same as in tests/common/go.rs.
TEST_GO = 1.21.13 1.27.3

.PHONY: help demo test corpus outside vm lint bench soak package release image nspawn deny

help:
	@echo "make demo    catch a real leak, in under a minute"
	@echo "make test    all tests, on real services built with Go $(TEST_GO)"
	@echo "make corpus  verdicts on all programs that grow for a known reason, as a table: an hour; ONLY, MIB, AT_ONCE, AGAIN: see Makefile"
	@echo "make outside what is read of the memory of all these programs, against what their pprof says; a quarter of an hour"
	@echo "make vm      version 2 of cgroups, in a virtual machine: what make test leaves out of it; some minutes"
	@echo "make bench   what memtrap costs, against references and budgets, as a table"
	@echo "make soak    half an hour of random incidents in two hundred services"
	@echo "make package builds the Debian package"
	@echo "make release builds the static binary and what one downloads with it: .tar.gz, SHA-256, SBOM"
	@echo "make image   builds a container image of the static binary alone, and runs it where runc can be had"
	@echo "make nspawn  installs it in a booted Debian and sees that it behaves; root, with debootstrap and systemd-nspawn"
	@echo "make deny    licences, advisories, sources and banned crates; with cargo-deny"
	@echo "make lint    formatting, clippy and documentation, warnings denied"

demo:
	@go=$$(scripts/go-toolchain) && $(CARGO) run --quiet --release --locked -- demo --go "$$go"

# The tests would install what they need by themselves; before them, a failure is easier to see.
test:
	@for release in $(TEST_GO); do scripts/go-toolchain $$release >/dev/null || exit 1; done
	@scripts/debian-program prometheus usr/bin/prometheus >/dev/null || test $$? -eq 3
	@rm -f target/not-checked
	$(CARGO) test --locked --no-fail-fast
	@if [ -s target/not-checked ]; then echo "NOT CHECKED on this machine: $$(wc -l < target/not-checked)"; cat target/not-checked; fi

# Bundles and table.txt stay in target/corpus. ONLY="1.27 /baseline/ http": runs whose path (1.27.3/baseline/http_lock/) has all of these;
# MIB=160 is how far each grows; AT_ONCE=4 run beside each other; AGAIN=1 decides the bundles of the last time anew, in seconds.
corpus:
	$(CARGO) test --locked --test verdicts -- --ignored --nocapture the_whole_corpus

# What memtrap reads of the memory of each program of the corpus, against what its pprof says. ONLY=NAME: programs whose name has it.
outside:
	$(CARGO) test --locked --test verdicts -- --ignored --nocapture what_is_read_of_the_whole_corpus

vm:
	$(CARGO) test --locked --test charge --test brake -- --ignored virtual_machine

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

# What is packaged, with all features, is measured; of the small variant the size.
bench:
	scripts/dist
	scripts/dist --no-default-features --target-dir target/dist-small
	$(CARGO) bench --quiet --locked --bench budgets

soak:
	scripts/dist
	$(CARGO) bench --quiet --locked --bench soak -- 30

package:
	@scripts/package

release:
	@scripts/release

# SHIPPED: the binary that the tests pack and run; without, they take the debug build.
image:
	@binary=$$(scripts/dist --static) && scripts/image --binary "$$binary" && SHIPPED=$$binary $(CARGO) test --quiet --locked --test shipped

# A debug build in a package of its own: what is tried is the package, not the optimizer.
nspawn:
	$(CARGO) build --locked
	tests/nspawn/run

# The advisories want their database from the network; the rest does not.
deny:
	$(CARGO) deny check
