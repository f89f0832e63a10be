# Each target sets up by itself what it needs; see scripts/go-toolchain for where Go comes from.
CARGO ?= cargo

help:
	@echo "make demo    catch a real leak, in under a minute"
	@echo "make test    everything that CI runs after make lint"
	@echo "make lint    formatting, clippy and documentation, warnings denied"

demo:
	@go=$$(scripts/go-toolchain) && $(CARGO) build --release --locked --quiet && target/release/memtrap demo --go "$$go"

# the toolchains that the tests build real services with are installed first, so that a failure says so once and clearly
test:
	@scripts/go-toolchain 1.21.13 >/dev/null && scripts/go-toolchain 1.27.3 >/dev/null
	@rm -f target/not-checked
	$(CARGO) test --locked
	@if [ -s target/not-checked ]; then echo "NOT CHECKED on this machine: $$(wc -l < target/not-checked)"; cat target/not-checked; fi

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

.PHONY: help demo test lint
