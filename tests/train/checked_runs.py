"""What stands for the children of the self-check, and the verdicts that they give."""

PASSED = {"shapes": "some", "passed": True, "error": 1e-7, "allowed": 1e-6, "result": "result", "reason": ""}
# What a failed case said on the error output is between two places of it.
FAILED = {**PASSED, "passed": False, "error": 0.312, "allowed": 0.03}

# Answers as kernels.checks.child does, but for the ops that `faults` says something of.
CHILD = """
import json, os, sys, time
request = json.load(sys.stdin)
faults, passed, failed, calls = {!r}, {!r}, {!r}, {!r}
with open(calls, "a") as file:
    file.write(" ".join(request["ops"]) + chr(10))
for op in request["ops"]:
    fault = faults.get(op)
    if fault == "no device":
        sys.exit("RuntimeError: CUDA error: all devices are busy")
    print(json.dumps(dict(begins=op)), flush=True)
    before = os.lseek(2, 0, os.SEEK_CUR)
    if fault in ("wrong", "hang"):
        print("words of the compiler on " + op, file=sys.stderr, flush=True)
    if fault == "hang":
        time.sleep(60)
    if fault == "crash":
        os.abort()
    if fault == "exit":
        sys.exit("RuntimeError: no such thing")
    if fault == "memory":
        sys.exit(4)
    verdict = dict(failed, said=[before, os.lseek(2, 0, os.SEEK_CUR)]) if fault else passed
    print(json.dumps(dict(verdict, op=op)), flush=True)
    if fault == "lost":
        sys.exit(3)
    print(json.dumps(dict(ends=op)), flush=True)
"""
