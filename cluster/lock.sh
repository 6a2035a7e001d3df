#!/bin/sh
# Writes cluster/requirements.lock anew: what the image holds, with versions and hashes, except torch and its CUDA
# libraries. Which CUDA that is depends on the machines' driver, so the Dockerfile chooses torch (TORCH_VERSION).
# Needs uv (pip install uv). Run it when the dependencies of pyproject.toml or of cluster/requirements.in change.
set -eu
cd "$(dirname "$0")/.."
. cluster/versions.env

# All of this package's optional parts; `dev` is for its tests.
extras=$(sed -n '/^\[project.optional-dependencies\]/,/^dev = /s/^\([a-z0-9-]*\) = .*/--extra \1/p' pyproject.toml \
    | grep -vx -- '--extra dev')

resolve() {
    # shellcheck disable=SC2086  # Two words per extra.
    echo "torch==$TORCH_VERSION" | uv pip compile --quiet pyproject.toml cluster/requirements.in - \
        $extras \
        --python-version "$PYTHON_VERSION" --python-platform x86_64-manylinux_2_28 --only-binary :all: \
        --no-annotate --custom-compile-command "sh cluster/lock.sh" "$@"
}

# Torch takes part in the resolution, so that what is left fits it; it and what only it brings are not written down.
cuda=$(resolve | sed -n 's/^\(torch\|triton\|nvidia-[a-z0-9-]*\|cuda-[a-z0-9-]*\)==.*/\1/p' | grep -vx nvidia-ml-py)
# shellcheck disable=SC2046,SC2086  # One word per package: that is the point.
resolve --generate-hashes $(printf -- '--no-emit-package %s ' $cuda) -o cluster/requirements.lock >/dev/null
