# The short front of the build. Everything it needs it installs; CMake presets do the work.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
MODEL ?= tiny-moe

.DEFAULT_GOAL := help
.PHONY: help deps build up test lint format bench sanitize clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

deps: ## Install the Debian and Python packages that are missing
	@scripts/install-dependencies.sh

build: deps ## Build everything; binaries land in build/release/bin
	@[ -f $(BUILD)/build.ninja ] || cmake --preset $(PRESET) -Wno-dev
	@ninja -C $(BUILD) -j $(JOBS)

up: build ## Start a local cluster, answer a prompt, stay up: make up [MODEL=dir, .gguf file, or hf:org/repo]
	@$(BUILD)/bin/alphecca up --model "$(MODEL)"

test: build sanitize ## Build and run every test, the sanitizer builds included
	@ctest --preset $(PRESET) -j $(JOBS)

sanitize: deps ## Unit and property tests under ASan+UBSan and under TSan
	@for preset in asan tsan; do \
	  { [ -f build/$$preset/build.ninja ] || cmake --preset $$preset >/dev/null; } && \
	  ninja -C build/$$preset -j $(JOBS) && ctest --preset $$preset -j $(JOBS) || exit 1; done

lint: deps ## Format, includes, shell and clang-tidy (files changed since the merge base)
	@tools/check.sh

format: ## Rewrite sources in the project's format
	@git ls-files '*.cc' '*.h' | xargs clang-format -i

bench: build ## Micro-benchmarks of the kernels
	@for b in $(BUILD)/bin/*_bench; do $$b; done

clean: ## Remove all build folders
	@rm -rf build
