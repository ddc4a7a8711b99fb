#!/usr/bin/env bash
# Everything that a GPU can tell, in one call of under ten minutes: bash bench/gpu.sh OUT
#
# Parity on CUDA, benchmarks (the most valuable first, so that a time limit loses only the tail) at the stored lengths
# of the course data, a short training run, the sanitizer on small shapes. Writes JSON, logs and a summary of one page
# into the folder OUT. Needs Python 3.11, torch, triton, transformers, pytest and pytest-benchmark, and no network: what
# else a bare machine lacks, weights and data among it, `python -m bench.carry` puts into the folder .carry beforehand,
# which is to travel with the checkout.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
data=demo
if [ -d .carry/data ]; then data=$PWD/.carry/data; fi
if [ -d .carry/minilm ]; then export CONCORD_MINILM=$PWD/.carry/minilm; fi
export PYTHONPATH=$PWD:$PWD/.carry/site PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/.triton-cache}
started=$SECONDS
total=585
summary=$out/summary.txt
: > "$summary"

# stage NAME SECONDS COMMAND...: run within a time limit and what is left of the whole, keep the log, note the outcome.
stage() {
    local name=$1 limit=$2 began=$SECONDS status=0 left=$((total - SECONDS + started))
    shift 2
    if [ "$left" -lt 10 ]; then
        printf '%-12s left out: the time is over\n' "$name" | tee -a "$summary"
        return
    fi
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
    printf '%-12s exit %-3s %4ss (of at most %ss)\n' "$name" "$status" "$((SECONDS - began))" "$limit" | tee -a "$summary"
    tail -n 4 "$out/$name.log" | cut -c1-200 | sed 's/^/    /' | tee -a "$summary"
}

python - > "$out/environment.json" <<'PYTHON'
import json

import torch

from bench.measure import device_record
from train.report import commit, versions

print(json.dumps({"device": device_record(torch.device("cuda")), "versions": versions(), "commit": commit()}, indent=1))
PYTHON
tee -a "$summary" < "$out/environment.json"

stage parity 200 python -m pytest tests/kernels tests/train/test_graphs.py tests/train/test_device_batches.py \
    tests/bert/test_task_gradients.py tests/train/test_optimizer.py tests/bench/test_peers.py -q --maxfail=20 -p no:cacheprovider --junitxml="$out/parity.xml"
bench=(python -m pytest --benchmark-only -q -rs -p no:cacheprovider --results "$out/results"
    --parity "$out/parity.xml" --benchmark-columns=median,min,max)
stage kernels 90 "${bench[@]}" bench/test_kernels.py
stage surgery 50 "${bench[@]}" bench/test_surgery.py
stage step 130 "${bench[@]}" bench/test_training_step.py
stage others 60 "${bench[@]}" bench/test_evaluation.py bench/test_overheads.py bench/test_data.py
stage training 70 python -m train.run --amp --surgery pcgrad --data "$data" --skip-bad-rows --epochs 1 \
    --max-steps 600 --evaluate-every 0 --out "$out/run"
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        stage "$tool" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 3 \
            python -m pytest tests/kernels -q -x -p no:cacheprovider -k "as_accurate_as_torch and not 512"
    done
else
    echo "sanitizer    not on this machine" | tee -a "$summary"
fi
echo "all          $((SECONDS - started))s" | tee -a "$summary"
