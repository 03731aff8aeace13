# What the benchmarks' `run` scripts share; sourced by them at the root of the
# tree, with `usage` set.
export LC_ALL=C

quick=no
for arg in "$@"; do
    case $arg in
        --quick) quick=yes ;;
        -h | --help) echo "$usage"; exit 0 ;;
        *) printf 'unknown option %s\n%s\n' "$arg" "$usage" >&2; exit 2 ;;
    esac
done
if [ "$quick" = yes ]; then export PITSTOP_BENCH_QUICK=1; fi

target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target/benches"
PITSTOP_BENCH_SCRATCH=$(mktemp -d "$target/benches/run.XXXXXX")
PITSTOP_BENCH_RESULTS=$target/benches
# Sockets go here: their paths have 107 bytes at most.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/pb.XXXXXX")
export PITSTOP_BENCH_SCRATCH PITSTOP_BENCH_RESULTS TMPDIR

# Ends what a benchmark that was interrupted left. Only processes that it
# wrote down, and that still have our directory in their environment.
clean_up() {
    local pid
    while read -r pid; do
        if grep -qzF "PITSTOP_BENCH_SCRATCH=$PITSTOP_BENCH_SCRATCH" "/proc/$pid/environ" 2>/dev/null; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done < <(cat "$PITSTOP_BENCH_SCRATCH/pids" 2>/dev/null)
    rm -rf "$PITSTOP_BENCH_SCRATCH" "$TMPDIR"
}
trap clean_up EXIT

# Builds the program as it is released, and a benchmark.
build() {
    cargo build --quiet --release --workspace --locked
    cargo bench --quiet --locked --bench "$1" --no-run
}
