# Everything a developer types. `make` alone lists it.

CARGO ?= cargo
# With TIDEGATE_REQUIRE_SERVICES=1 (CI sets it), servers that cannot be had fail the run;
# without it, the tests that need them say SKIPPED.
WITH_SERVICES = deploy/dev/services run
WITH_POSTGRES = $(WITH_SERVICES) --only postgres
OR_WITHOUT = $(if $(filter 1,$(TIDEGATE_REQUIRE_SERVICES)),,--or-without)

# More for `cargo test`, such as TEST_ARGS='--test simulation'.
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-kafka smoke-kafka demo-kafka bench fmt lint doc deny advisories toolchain

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: toolchain ## 200,000 events of five tenants become verified state (DEMO_EXIT=1 ends it)
	@$(CARGO) run --release --locked -- demo

# The simulation plants bugs and the recovery tests die at failpoints: both are features that no default
# build has, like `otel`, which sends spans, and `msk-iam`. What is shipped is killed too, so a binary with default features is built first, unless
# TIDEGATE_DEFAULT_BINARY names one.
TEST_FEATURES = planted,failpoints,otel,msk-iam
TARGET_DIR = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
DEFAULT_BINARY = $(or $(TIDEGATE_DEFAULT_BINARY),$(TARGET_DIR)/debug/tidegate-default)

test: toolchain ## all tests, with PostgreSQL, pgbouncer and Kafka started and removed around them
	@[ -n "$(TIDEGATE_DEFAULT_BINARY)" ] || { $(CARGO) build --locked --bin tidegate && \
	  cp $(TARGET_DIR)/debug/tidegate $(DEFAULT_BINARY); }
	@TIDEGATE_DEFAULT_BINARY=$(DEFAULT_BINARY) TIDEGATE_TEST_PROMETHEUS=$$(deploy/dev/prometheus || true) \
	  $(WITH_SERVICES) $(OR_WITHOUT) \
	  $(CARGO) test --workspace --locked --features $(TEST_FEATURES) $(TEST_ARGS)

test-kafka: toolchain ## what needs a Kafka broker alone
	@$(WITH_SERVICES) $(OR_WITHOUT) \
	  $(CARGO) test --workspace --locked --features $(TEST_FEATURES) --test it -- kafka

smoke-kafka: toolchain ## events by the broker's own producer, and what became of them
	@$(CARGO) build --release --locked --bin tidegate
	@$(WITH_SERVICES) deploy/demo/kafka smoke

demo-kafka: toolchain ## two nodes on a topic: lag rises, a node is killed, the totals add up
	@$(CARGO) build --release --locked --bin tidegate
	@$(WITH_SERVICES) deploy/demo/kafka demo

bench: toolchain ## ours against hand-written peers, on durable PostgreSQL and from Kafka
	@$(WITH_POSTGRES) $(CARGO) bench --locked --bench throughput -- --write
	@$(WITH_POSTGRES) $(CARGO) bench --locked --bench throughput -- --write --latency
	@$(WITH_POSTGRES) $(CARGO) bench --locked --bench throughput -- --write --apart \
	    --only hand-written --only "Tidegate on Postgres"
	@$(WITH_SERVICES) $(CARGO) bench --locked --bench throughput -- --write --bus kafka \
	    --payments 2000000
	@$(WITH_SERVICES) $(CARGO) bench --locked --bench throughput -- --write --bus kafka --apart \
	    --payments 2000000

fmt: ## format the code
	@$(CARGO) fmt --all

lint: ## what CI refuses: formatting and clippy
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked --features $(TEST_FEATURES) -- -D warnings

doc: ## the API documentation, warnings are errors
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

deny: ## banned crates, licences and sources of dependencies, offline
	@$(CARGO) deny --offline --locked --target "$$(rustc -vV | sed -n 's/^host: //p')" check bans licenses sources

advisories: ## known vulnerabilities of dependencies; fetches the advisory database
	@$(CARGO) deny --locked check advisories

toolchain:
	@missing=; \
	for tool in $(firstword $(CARGO)) $${CC:-cc} perl; do \
	  command -v $$tool >/dev/null || missing="$$missing $$tool"; \
	done; \
	[ -z "$$missing" ] || { echo "missing:$$missing (needed: Rust with cargo, a C compiler, make, perl)" >&2; exit 1; }
