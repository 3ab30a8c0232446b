#!/bin/sh
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary copy and runs its tests there.
#
#   PYTHON=python3 tests/native/run_sanitized.sh [pytest arguments]
#
# Leaks are not looked for: CPython itself keeps memory at exit. Fewer hypothesis examples than usual: all is slower.
set -eu

python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

mkdir -p "$copy/engine" "$copy/tests"
cp -r "$root/ext" "$root/setup.py" "$copy/"
cp "$root"/engine/_native.pyi "$root"/engine/native.py "$copy/engine/"
cp -r "$root/tests/native" "$root/tests/twin.py" "$copy/tests/"
cd "$copy"

OFFLINE_ENGINE_SANITIZE=address,undefined "$python" setup.py --quiet build_ext --inplace

# The stub and the C program are checked by the ordinary run; stubtest does not start under a preloaded sanitizer.
# allocator_may_return_null: an impossible pool must be a MemoryError here too. PYTHONMALLOC: so that the sanitizer sees
# the bounds of every Python object, not only of whole arenas. --capture=sys: its report must reach the terminal.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PYTHONMALLOC=malloc \
    OFFLINE_ENGINE_TEST_EXAMPLES="${OFFLINE_ENGINE_TEST_EXAMPLES:-25}" \
    PYTHONPATH="$copy" \
    "$python" -m pytest -q -p no:cacheprovider --capture=sys --rootdir "$copy" \
    tests/native --ignore tests/native/test_build.py "$@"
