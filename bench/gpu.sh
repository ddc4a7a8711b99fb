#!/usr/bin/env bash
# What a GPU can tell, in two calls: bash bench/gpu.sh first|all OUT [SECONDS]
#
# first (200 seconds at most) is for kernels that such a GPU has not run yet. Each op is judged in a process of its own,
# BERT-base's before MiniLM's and bf16 before fp32, beside the sanitizer on small attention, captured steps against
# plain ones and a short training run; then steps of both models are profiled, alone on the machine.
# all (420 seconds at most) tests parity, beside the sanitizer and a rehearsal of the benchmarks, most of which is
# compiling; then come the benchmarks, alone, a process a file and model, the most valuable first, and a training run.
#
# SECONDS replaces the limit. In OUT lie summary.txt (one page), environment.json, results/ (JSON), of a training run
# that ended run-summary.json, and logs.tar.gz, whatever was cut off. It exits with 1 where a stage failed, a module of
# parity did not pass, or a log tells of a fallback; what was cut off, which the summary says, and what racecheck finds
# are no failures. The stages are listed in bench/gpu_stages.py.
#
# Needs Python 3.11, torch, triton, transformers, pytest and pytest-benchmark, and no network: what else a bare machine
# lacks, weights and data among it, `python -m bench.carry` puts into the folder .carry beforehand, which is to travel
# with the checkout. Where something is missing it says so at once, in one line, and exits with 2. PYTHON names another
# interpreter than python3.
set -uo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash bench/gpu.sh first|all OUT [SECONDS]" >&2
    exit 2
fi
call=$1
out=$(mkdir -p "$2" && cd "$2" && pwd) || exit 2
shift 2
cd "$(dirname "$0")/.." || exit 2
export PYTHON=${PYTHON:-$(command -v python3 || command -v python || echo python3)}
if [ -d .carry/minilm ]; then export CONCORD_MINILM=$PWD/.carry/minilm; fi
if [ -f .carry/commit ]; then CONCORD_COMMIT=$(cat .carry/commit) && export CONCORD_COMMIT; fi
export PYTHONPATH=$PWD:$PWD/.carry/site PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/.triton-cache}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TORCHINDUCTOR_COMPILE_THREADS=4
exec "$PYTHON" -m bench.gpu_calls "$call" "$out" "$@"
