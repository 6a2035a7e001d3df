#!/usr/bin/env bash
# Starts Ray on this machine, on the ports of versions.env, never without a token:
#   start-ray.sh head [flags of ray start]
#   start-ray.sh worker HEAD_IP [flags of ray start]
# In the image it is called start-ray. `ray up` calls it there; by hand it joins machines without any launcher.
set -euo pipefail

fail() {
    echo "start-ray: $*" >&2
    exit 2
}

versions=/opt/arena-ray/versions.env
[ -r "$versions" ] || versions=$(dirname "$(readlink -f "$0")")/versions.env
# shellcheck source=cluster/versions.env
. "$versions"

role=${1:-}
case $role in
head) shift ;;
worker)
    [ -n "${2:-}" ] || fail "worker needs the head's address: start-ray worker HEAD_IP"
    head_ip=$2
    shift 2
    ;;
*) fail "'$role' is no role; it is 'head' or 'worker HEAD_IP'" ;;
esac

# A head without a token would start all the same, open to whoever reaches its ports.
export RAY_AUTH_MODE=token
token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    [ -s "$token_file" ] \
        || fail "no token in $token_file: run 'ray get-auth-token --generate' once, and copy the file to every machine"
    chmod go-rwx "$token_file" || fail "$token_file can be read by others, and cannot be closed to them"
fi

# Each worker holds some hundred files and sockets; the usual 1024 end a node of 64 cores.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

flags=(
    --node-manager-port="$PORT_NODE_MANAGER"
    --object-manager-port="$PORT_OBJECT_MANAGER"
    --runtime-env-agent-port="$PORT_RUNTIME_ENV_AGENT"
    --dashboard-agent-grpc-port="$PORT_AGENT_GRPC"
    --dashboard-agent-listen-port="$PORT_AGENT_HTTP"
    --metrics-export-port="$PORT_METRICS"
    --min-worker-port="$PORT_WORKER_MIN"
    --max-worker-port="$PORT_WORKER_MAX"
    --disable-usage-stats
)
if [ "$role" = head ]; then
    # The dashboard, which is also the job server, listens on this machine only: reach it through ssh.
    exec ray start --head --port="$PORT_GCS" --dashboard-host=127.0.0.1 --dashboard-port="$PORT_DASHBOARD" \
        "${flags[@]}" "$@"
fi
exec ray start --address="$head_ip:$PORT_GCS" "${flags[@]}" "$@"
