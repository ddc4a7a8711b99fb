#!/usr/bin/env bash
# Everything that a GPU can tell, in one call of under ten minutes: bash bench/gpu.sh OUT
#
# First the tests of parity on CUDA, the sanitizer on a small test of each op, and a rehearsal of the benchmarks, all at
# once: most of that is compiling, and what the rehearsal compiles, the benchmarks find in the caches. Then, alone on
# the machine, the benchmarks at the stored lengths of the course data, the most valuable first, so that a time limit
# loses only the tail; and a short training run. In OUT it leaves summary.txt (one page), environment.json, results/
# (a JSON a stage), run-summary.json of the training run, and logs.tar.gz. It exits with 1 where a stage failed or a
# module of parity did not pass; a benchmark that was cut off, which the summary shows, is no failure.
#
# Needs Python 3.11, torch, triton, transformers, pytest and pytest-benchmark, and no network: what else a bare machine
# lacks, weights and data among it, `python -m bench.carry` puts into the folder .carry beforehand, which is to travel
# with the checkout. Where something is missing it says so at once, in one line, and exits with 2. PYTHON names another
# interpreter than python3.
set -uo pipefail
if [ $# -ne 1 ]; then
    echo "usage: bash bench/gpu.sh OUT" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
started=$SECONDS
total=570
python=${PYTHON:-$(command -v python3 || command -v python || echo python3)}
data=demo
if [ -d .carry/data ]; then data=$PWD/.carry/data; fi
if [ -d .carry/minilm ]; then export CONCORD_MINILM=$PWD/.carry/minilm; fi
if [ -f .carry/commit ]; then CONCORD_COMMIT=$(cat .carry/commit) && export CONCORD_COMMIT; fi
export PYTHONPATH=$PWD:$PWD/.carry/site PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/.triton-cache}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TORCHINDUCTOR_COMPILE_THREADS=4
summary=$out/summary.txt

if ! problem=$("$python" - 2>&1 > "$out/environment.json" <<'PYTHON'
import sys

try:
    import json

    import pytest_benchmark  # noqa: F401
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device")
    import bench.conftest
    import bench.step_cases
    import train.run
    from bench.measure import device_record
    from bert.models import minilm_directory
    from train.report import commit, versions

    minilm_directory()
    record = {"device": device_record(torch.device("cuda")), "versions": versions(), "commit": commit()}
    print(json.dumps(record, indent=1))
except ImportError as error:
    sys.exit(f"{error}; python -m bench.carry packs what a bare machine lacks")
PYTHON
); then
    echo "error: $(printf '%s\n' "$problem" | tail -n 1)" | tee "$summary" >&2
    exit 2
fi
cat "$out/environment.json" | tee "$summary"

work=$(mktemp -d)
logs=$work/logs
mkdir -p "$logs"
leave() {
    tar -C "$work" -czf "$out/logs.tar.gz" logs parity 2> /dev/null
    rm -rf "$work"
}
trap leave EXIT

left() {
    echo $((total - SECONDS + started))
}

# limited NAME SECONDS COMMAND...: run within a time limit and what is left of the whole, and keep the log.
limited() {
    local name=$1 limit=$2
    shift 2
    if [ "$(left)" -lt "$limit" ]; then limit=$(left); fi
    timeout --kill-after=5 "$limit" "$@" > "$logs/$name.log" 2>&1
}

# stage NAME SECONDS LINES COMMAND...: the same, with the outcome and the last lines of the log in the summary.
stage() {
    local name=$1 limit=$2 lines=$3 began=$SECONDS status=0
    shift 3
    if [ "$(left)" -lt 10 ]; then
        printf '%-10s left out: the time is over\n' "$name" | tee -a "$summary"
        return 0
    fi
    limited "$name" "$limit" "$@" || status=$?
    # In one piece, since stages may end at the same time.
    printf '%-10s exit %-3s %4ss (of at most %ss)\n%s\n' "$name" "$status" "$((SECONDS - began))" "$limit" \
        "$(tail -n "$lines" "$logs/$name.log" | cut -c1-200 | sed 's/^/    /')" | tee -a "$summary"
    [ "$status" = 0 ] || [ "$status" = 124 ] # the latter of what was cut off
}

bench=("$python" -m pytest --benchmark-only -q -rsfE -p no:cacheprovider --benchmark-columns=median,min,max)
rehearsals=() checks=()
# rehearse NAME ARGUMENTS...: benchmarks whose results are thrown away.
rehearse() {
    local name=$1
    shift
    limited "rehearsal-$name" 150 "${bench[@]}" --results "$work/rehearsal" "$@" &
    rehearsals+=($!)
}
rehearse step bench/test_training_step.py -k concord
rehearse compiled bench/test_training_step.py -k "compiled or graphs"
rehearse minilm bench/test_kernels.py -k MiniLM
rehearse base bench/test_kernels.py -k BERT-base
rehearse others bench/test_surgery.py bench/test_evaluation.py bench/test_data.py -k "concord or tokenising"

# A small test of each op; of those whose programs share memory, the second list.
checked=(
    tests/kernels/test_adamw.py::test_each_block_takes_its_own_step_size_and_shrinks_by_its_own_factor
    tests/kernels/test_dropout.py::test_the_bits_that_kernels_draw_are_those_of_the_mask
    tests/kernels/test_gather.py::test_chosen_sequences_follow_each_other_and_zeros_follow_them
)
shared=(
    tests/kernels/test_attention_kernels.py::test_what_is_not_finite_in_other_tiles_and_in_padding_reaches_nobody
    tests/kernels/test_attention_kernels.py::test_rows_after_the_last_sequence_and_empty_sequences_give_zeros
    tests/kernels/test_attention_kernels.py::test_first_tokens_of_empty_sequences_and_rows_after_the_last_give_zeros
    tests/kernels/test_embedding.py::test_rows_that_do_not_occur_are_zero
    tests/kernels/test_gelu.py::test_task_gradients_may_be_bf16
    tests/kernels/test_gram.py::test_a_chunk_that_a_task_did_not_touch_is_not_read_by_the_kernel
    tests/kernels/test_layer_norm.py::test_a_second_micro_batch_adds_to_the_task_gradients
    tests/kernels/test_linear_cross_entropy.py::test_task_gradients_may_be_of_low_precision
    tests/kernels/test_multi_tensor.py::test_a_task_that_does_not_reach_a_parameter_counts_as_zeros
    tests/kernels/test_surgery.py::test_clipping_brings_the_norm_of_the_whole_update_to_its_limit
    tests/kernels/test_task_products.py::test_many_rows_of_small_matrices_are_divided
)
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
# sanitize TOOL TESTS...: every tensor in memory of its own, so that what lies beside it is nobody's.
sanitize() {
    local tool=$1
    shift
    stage "$tool" 170 3 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 3 \
        "$python" -m pytest -q -p no:cacheprovider "$@" &
    checks+=($!)
}
if [ -x "$sanitizer" ]; then
    sanitize memcheck "${shared[@]}" "${checked[@]}"
    sanitize racecheck "${shared[@]}"
else
    echo "sanitizer  not on this machine" | tee -a "$summary"
fi

failed=0
stage parity 165 20 "$python" -m bench.parity --out "$work/parity" --jobs "$(($(nproc) * 5 / 8 + 1))" --seconds 150 || failed=1
for one in "${checks[@]}"; do wait "$one" || failed=1; done
wait "${rehearsals[@]}"

measure=("${bench[@]}" --results "$out/results" --parity "$work/parity")
stage step 150 12 "${measure[@]}" bench/test_training_step.py || failed=1
stage kernels 90 12 "${measure[@]}" bench/test_kernels.py || failed=1
stage others 80 12 "${measure[@]}" bench/test_surgery.py bench/test_evaluation.py bench/test_data.py \
    bench/test_overheads.py || failed=1
stage training 50 6 "$python" -m train.run --amp --surgery pcgrad --data "$data" --skip-bad-rows --epochs 1 \
    --max-steps 600 --evaluate-every 0 --out "$work/run" || failed=1
if [ -f "$work/run/summary.json" ]; then cp "$work/run/summary.json" "$out/run-summary.json"; fi
echo "all        $((SECONDS - started))s" | tee -a "$summary"
exit "$failed"
