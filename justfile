# The doorway. `just verify` is exactly what .ci/run does.

default:
    @just --list

# Everything a change must pass; rewrites nothing.
verify:
    .ci/run

# Rewrite what a machine can put right.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# All tests.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Replay the simulated runs with one seed (printed by a failing test).
sim SEED:
    AQUEDUCT_SEED={{SEED}} cargo test -p aqueduct-storage -p aqueduct-tests --features aqueduct-storage/sim --test sim -- --nocapture

# One fuzz target, for AQUEDUCT_FUZZ_SECONDS seconds (60): batch compression grpc segment journal small
fuzz NAME SEED="random":
    AQUEDUCT_FUZZ={{NAME}} AQUEDUCT_SEED={{SEED}} AQUEDUCT_FUZZ_SECONDS="${AQUEDUCT_FUZZ_SECONDS:-60}" \
        cargo test --release -p aqueduct-tests --test fuzz -- --exact chosen --nocapture

# Kill -9 at random under load, history checked, 200 rounds (AQUEDUCT_ROUNDS); then of members of a group, of workers of a queue, and their broker.
soak:
    AQUEDUCT_ROUNDS="${AQUEDUCT_ROUNDS:-200}" cargo test --release -p aqueduct-tests --test faults -- --exact --nocapture --test-threads 1 \
        kill_nine::kill_nine_under_load groups::groups_survive_kill_nine_of_everybody
    AQUEDUCT_ROUNDS="${AQUEDUCT_ROUNDS:-200}" cargo test --release -p aqueduct-tests --test faults -- --nocapture --test-threads 1 queues::

# Criterion benches.
bench *ARGS:
    cargo bench -p aqueduct-benches {{ARGS}}

# A broker for development (the same as `cargo run --release`).
run *ARGS:
    cargo run --release -- {{ARGS}}

# Licences, advisories, bans (needs cargo-deny; not part of verify because it needs the network).
deny:
    cargo deny check
