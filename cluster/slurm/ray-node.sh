#!/usr/bin/env bash
# What arena.sbatch runs on each node: `ray symmetric-run`, but with failures that show.
#   ray-node.sh node WORDS...    starts Ray here; on the head it then runs `ray-node.sh driver WORDS...`
#   ray-node.sh driver WORDS...  runs `arena-ray WORDS... --address auto` and writes its exit code down
# symmetric-run (Ray 2.60) prints a `ray start` that failed and exits with 0, on every node. What can be believed is
# whether the driver has begun, and how it ended: both are files in ARENA_STATE, which all nodes see.
set -euo pipefail

# Slurm signals everything in the step; the driver answers the signal, and this script waits for it.
trap 'true' TERM INT

case $1 in
driver)
    shift
    touch "$ARENA_STATE/begun"
    code=0
    arena-ray "$@" --address auto || code=$?
    echo "$code" >"$ARENA_STATE/exit-code.new"
    mv "$ARENA_STATE/exit-code.new" "$ARENA_STATE/exit-code"
    exit "$code"
    ;;
node) shift ;;
*)
    echo "ray-node.sh: '$1' is neither 'node' nor 'driver'" >&2
    exit 2
    ;;
esac

# Not /tmp/ray, which may belong to whoever was here before. Short: the paths of its sockets may have 107 bytes.
export RAY_TMPDIR=/tmp/arena-ray-$SLURM_JOB_ID
(umask 077 && mkdir -p "$RAY_TMPDIR")

# Slurm gives the job a part of the node; Ray would count the whole.
code=0
ray symmetric-run --address "$ARENA_HEAD" --min-nodes "$ARENA_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats \
    -- "$ARENA_NODE_SCRIPT" driver "$@" || code=$?

# A signal ends symmetric-run at once, while the driver still writes down what it has.
if [ "${SLURM_NODEID:-0}" = 0 ] && [ -e "$ARENA_STATE/begun" ]; then
    for _ in $(seq 60); do
        [ ! -e "$ARENA_STATE/exit-code" ] || break
        sleep 0.5
    done
fi

if [ -e "$ARENA_STATE/exit-code" ]; then
    rm -rf "$RAY_TMPDIR" # kept otherwise: Ray's own logs are in it
    exit 0               # arena.sbatch reads the file
fi
if [ -e "$ARENA_STATE/begun" ] && [ "${SLURM_NODEID:-0}" != 0 ]; then
    echo "ray-node.sh: $(hostname) left the run (symmetric-run: $code); the others go on" >&2
    exit 0
fi
echo "ray-node.sh: no run on $(hostname) (symmetric-run: $code), see above and $RAY_TMPDIR" >&2
[ "$code" -ne 0 ] || code=1
exit "$code"
