#!/usr/bin/env bash
# What several GPUs of one machine can tell: bash bench/many_gpus.sh OUT [GPUS]. Not yet measured.
#
# Steps of MiniLM, BERT-base and BERT-large in bf16 on 2, 4, ... GPUs beside one, and DistributedDataParallel with a plain
# sum and with PCGrad in the same call. In OUT lie a JSON file a call, and the logs.
# Exits with 1 where a call failed. PYTHON names another interpreter than python3.
set -uo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash bench/many_gpus.sh OUT [GPUS]" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
gpus=${2:-$("$python" -c 'import torch; print(torch.cuda.device_count())')}
if [ "$gpus" -lt 2 ]; then
    echo "$gpus GPUs, expected 2 at least" >&2
    exit 2
fi
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
failed=0
size=2
while [ "$size" -le "$gpus" ]; do
    for model in MiniLM BERT-base BERT-large; do
        for batch in 32 256; do
            name=$model-$size-$batch
            "$python" -m torch.distributed.run --standalone --nproc-per-node "$size" -m bench.many_processes \
                --model "$model" --amp bf16 --device cuda --batch "$batch" --rounds 20 --out "$out/$name.json" \
                > "$out/$name.log" 2>&1 || { echo "$name failed, see $out/$name.log" >&2; failed=1; }
        done
    done
    size=$((size * 2))
done
cat "$out"/*.log | grep -E "processes of|a step"
exit "$failed"
