# The short front of the build. Everything it needs it installs; CMake presets do the work.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
MODEL ?= tiny-moe

.DEFAULT_GOAL := help
.PHONY: help deps build up test lint format bench bench-peer sanitize clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

deps: ## Install the Debian and Python packages that are missing
	@scripts/install-dependencies.sh

build: deps ## Build everything; binaries land in build/release/bin
	@[ -f $(BUILD)/build.ninja ] || cmake --preset $(PRESET) -Wno-dev
	@ninja -C $(BUILD) -j $(JOBS)

up: build ## Start a local cluster, answer a prompt, stay up: make up [MODEL=name, dir, .gguf file, or hf:org/repo]
	@$(BUILD)/bin/alphecca up --model "$(MODEL)"

test: build sanitize ## Build and run every test, the sanitizer builds included
	@ctest --preset $(PRESET) -j $(JOBS)

# What has threads of its own: ThreadSanitizer has nothing to say of the rest.
TSAN_TESTS := kernels_cpu_pool_test comm_shm_test worker_engine_test worker_engine_stress_test worker_local_group_test \
  coordinator_cluster_test coordinator_routing_test coordinator_request_test

sanitize: deps ## Unit tests and fuzz replays under ASan+UBSan; all that has threads under TSan
	@[ -f build/asan/build.ninja ] || cmake --preset asan >/dev/null
	@ninja -C build/asan -j $(JOBS)
	@ctest --preset asan -j $(JOBS) -L 'unit|fuzz'
	@[ -f build/tsan/build.ninja ] || cmake --preset tsan >/dev/null
	@ninja -C build/tsan -j $(JOBS) $(TSAN_TESTS)
	@ctest --preset tsan -j $(JOBS) -R '^($(subst $(empty) $(empty),|,$(TSAN_TESTS)))$$'

lint: deps ## Format, includes, shell and clang-tidy (files changed since the merge base)
	@tools/check.sh

format: ## Rewrite sources in the project's format
	@git ls-files '*.cc' '*.h' | xargs clang-format -i

bench: build ## Micro-benchmarks of kernels, collectives and routing
	@for b in $(BUILD)/bin/*_bench; do $$b; done

bench-peer: build ## Beside llama.cpp on the same files: make bench-peer [PEERS=dir of peer and files] [ONLY=row or glob]
	@.venv/bin/python bench/peer_bench.py $(if $(PEERS),--peers "$(PEERS)") $(if $(ONLY),--only "$(ONLY)")

clean: ## Remove all build folders
	@rm -rf build
