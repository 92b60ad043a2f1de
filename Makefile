# The front door. Every target installs the Debian packages it needs and lacks, saying which; with nothing
# missing that costs one dpkg-query. CMake and Ninja do the building; this file only knows the order.

BUILD     ?= build
FAULTS    ?= $(BUILD)-faults
CONFIG    ?= etc/standalone.cfg
PREFIX    ?= /usr/local
DESTDIR   ?=
JOBS      ?= $(shell nproc 2>/dev/null || echo 2)
TEST_JOBS ?= $(JOBS)
# Extra arguments for cmake, e.g. CMAKE_ARGS=-DSTREAMIT_ASAN=ON (give BUILD a folder of its own then).
CMAKE_ARGS ?=
# Seconds of each fuzzer.
FUZZ_S    ?= 60
# Extra arguments for bench/run.py, e.g. BENCH_ARGS='--dir /data --priority'.
BENCH_ARGS ?=
# Extra arguments for ctest, e.g. CTEST_ARGS='-R roundtrip'.
CTEST_ARGS ?=

# A CMakeLists.txt that appears is picked up by a new configure run, even before the build system knows of it.
LISTS := $(shell find CMakeLists.txt cmake sdk kernel proto broker plugins daemon client cli bench tests \
           \( -name CMakeLists.txt -o -name '*.cmake' \) 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build build-faults run test test-full test-extra fuzz demo bench bench-storage lint format install clean deps-build deps-test deps-bench deps-lint

help: ## this list
	@echo "StreamIt: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1\t\2/p' Makefile | expand -t 14

build: deps-build $(BUILD)/build.ninja ## install what is missing, then build into build/ (optimised, with symbols)
	@ninja -C $(BUILD) -j $(JOBS)

# With fault points; for the tests that kill it at each of them, never to be installed.
build-faults: deps-build ## the daemon with fault points, into build-faults/ (part of `make test`)
	@test -e $(FAULTS)/build.ninja || cmake -S . -B $(FAULTS) -G Ninja -DSTREAMIT_FAULTS=ON > /dev/null
	@ninja -C $(FAULTS) -j $(JOBS) node

run: build ## build, then run a standalone node in the foreground (CONFIG=etc/standalone.cfg)
	@exec $(BUILD)/bin/streamitd --config $(CONFIG)

test: deps-test build build-faults ## install, build, run every quick test
	@ctest --test-dir $(BUILD) -LE '^(full|bench|extra)$$' -j $(TEST_JOBS) --output-on-failure $(CTEST_ARGS)

test-full: deps-test build build-faults ## everything, with the long loops and the large files
	@STREAMIT_TEST_FULL=1 ctest --test-dir $(BUILD) -LE '^(bench|extra)$$' -j $(TEST_JOBS) --output-on-failure $(CTEST_ARGS)

test-extra: deps-test build ## judges that Debian has not: Kafka's own tool (needs java; says what it skips and why)
	@ctest --test-dir $(BUILD) -L '^extra$$' --output-on-failure -V $(CTEST_ARGS)

# clang and libFuzzer, with AddressSanitizer and UBSan, into a folder of its own.
fuzz: deps-build deps-lint ## the fuzzers, FUZZ_S=60 seconds each, two at a time, into build-fuzz/
	@test -e build-fuzz/build.ninja || CC=clang cmake -S . -B build-fuzz -G Ninja -DSTREAMIT_FUZZ=ON > /dev/null
	@ninja -C build-fuzz -j $(JOBS) fuzzers
	@tests/fuzz/run.sh build-fuzz $(FUZZ_S)

demo: build ## one node: produce a real file, kill -9, restart, consume, compare
	@tools/demo.sh $(BUILD)

# Peers and perf are optional: without them their rows say so.
bench: build deps-bench ## every figure beside its target, this machine's limits and its peers (12 min; BENCH_QUICK=1: 1 min)
	@bench/run.py $(BUILD) --write --profile $(BENCH_ARGS)

bench-storage: build ## figures of the storage engine alone, beside bare loops
	@bench/storage.py $(BUILD) --write

lint: deps-build deps-test deps-lint build ## format, clang-tidy, layers, banned calls, shell, spelling, READMEs
	@tools/lint.sh $(BUILD)

format: deps-lint ## rewrite C files in the project's format
	@git ls-files -z '*.c' '*.h' | xargs -0 clang-format -i

install: build ## install to DESTDIR and PREFIX (/usr/local)
	@DESTDIR='$(DESTDIR)' cmake --install $(BUILD) --prefix '$(PREFIX)'

clean: ## remove build/, build-faults/ and build-fuzz/
	rm -rf $(BUILD) $(FAULTS) build-fuzz

deps-build:
	@tools/install-deps.sh build

deps-test:
	@tools/install-deps.sh build test

deps-bench:
	@tools/install-deps.sh bench || echo "bench: goes on without them"

deps-lint:
	@tools/install-deps.sh lint

$(BUILD)/build.ninja: $(LISTS) | deps-build
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_ARGS)
	@touch $@
