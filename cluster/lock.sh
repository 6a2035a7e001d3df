#!/bin/sh
# Writes cluster/requirements.lock anew: what the image holds, with versions and hashes, except torch and its CUDA
# libraries. Which CUDA that is depends on the machines' driver, so the Dockerfile chooses torch (TORCH_VERSION).
# Needs uv (pip install uv). Run it when the dependencies of pyproject.toml or of cluster/requirements.in change.
set -eu
cd "$(dirname "$0")/.."
. cluster/versions.env

resolve() {
    echo "torch==$TORCH_VERSION" | uv pip compile --quiet pyproject.toml cluster/requirements.in - \
        --extra robotics --extra sb3 --extra pandas \
        --python-version "$PYTHON_VERSION" --python-platform x86_64-manylinux_2_28 --only-binary :all: \
        --no-annotate --custom-compile-command "sh cluster/lock.sh" "$@"
}

# Torch takes part in the resolution, so that what is left fits it; it and what only it brings are not written down.
cuda=$(resolve | sed -n 's/^\(torch\|triton\|nvidia-[a-z0-9-]*\|cuda-[a-z0-9-]*\)==.*/\1/p' | grep -vx nvidia-ml-py)
# shellcheck disable=SC2046,SC2086  # One word per package: that is the point.
resolve --generate-hashes $(printf -- '--no-emit-package %s ' $cuda) -o cluster/requirements.lock >/dev/null
