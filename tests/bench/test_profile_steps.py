"""A step's time is told by class of op: every kernel has one, and what the clock counts beyond them are gaps."""

import ast
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from bench import profile_steps
from bench.profile_steps import events_of, main, summarise_events, table
from concord.bert.errors import InputError
from concord.train.profiles.kernel_classes import COPIES, OTHER, PRODUCTS, class_of, triton_classes

KERNELS = Path(__file__).resolve().parent.parent.parent / "kernels"


def launched():
    """Name of each Triton kernel in the source -> the modules that have one of that name."""
    found = defaultdict(set)
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel") and node.decorator_list:
                found[node.name].add(".".join(path.relative_to(KERNELS).with_suffix("").parts))
    return found


def test_every_triton_kernel_has_a_class_and_a_name_of_its_own():
    found = launched()
    assert len(found) > 20
    assert set(found) == set(triton_classes())
    assert not [name for name, modules in found.items() if len(modules) > 1]


def test_one_name_of_two_kernels_is_refused(monkeypatch):
    def _gelu_forward_kernel():
        pass

    _gelu_forward_kernel.__module__ = "concord.kernels.surgery.adamw_kernels"
    triton_classes.cache_clear()
    monkeypatch.setattr(
        "concord.kernels.surgery.adamw_kernels.planted", SimpleNamespace(fn=_gelu_forward_kernel), raising=False
    )
    with pytest.raises(ValueError, match="_gelu_forward_kernel: a kernel of AdamW and one of GELU"):
        triton_classes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_task_products_kernel", "weight gradients"),
        ("_gelu_backward_kernel", "GELU"),
        ("_tiled_attention_key_gradients_kernel", "attention backward"),
        ("_first_token_forward_kernel", "first tokens' attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", PRODUCTS),
        (
            "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off",
            PRODUCTS,
        ),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>(cublasLt::cublasSplitKParams<float>)", PRODUCTS),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16>", PRODUCTS),
        ("aten::addmm", PRODUCTS),
        ("Memcpy DtoD (Device -> Device)", COPIES),
        ("Memset (Device)", COPIES),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIterator", COPIES),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array", COPIES),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float", OTHER),
        ("aten::gelu", OTHER),
        ("_unknown_kernel", OTHER),
    ],
)
def test_names_as_profilers_give_them_find_their_class(name, expected):
    triton_classes.cache_clear()
    assert class_of(name) == expected


def event(name, start, stop, *, device=DeviceType.CUDA, annotation=False):
    return SimpleNamespace(
        name=name,
        device_type=device,
        is_user_annotation=annotation,
        time_range=SimpleNamespace(elapsed_us=lambda: stop - start),
    )


def test_waits_annotations_and_what_the_host_does_are_no_work_of_the_device():
    events = [
        event("_gelu_forward_kernel", 0, 30),
        event("Context Sync", 0, 900),
        event("Event Sync", 0, 900),
        event("my region", 0, 900, annotation=True),
        event("cudaGraphLaunch", 0, 20, device=DeviceType.CPU),
    ]
    assert events_of(SimpleNamespace(events=lambda: events), True) == [("_gelu_forward_kernel", pytest.approx(3e-5))]


def test_classes_and_gaps_add_up_to_the_time_by_the_clock():
    events = [("_gelu_forward_kernel", 2e-3), ("nvjet_a", 3e-3), ("nvjet_b", 1e-3), ("_gelu_forward_kernel", 2e-3)]
    found = summarise_events(events, 2, 10e-3)
    classes = {own["name"]: (own["seconds"], own["launches"]) for own in found["classes"]}
    assert classes == {
        PRODUCTS: (pytest.approx(2e-3), 1.0),
        "GELU": (pytest.approx(2e-3), 1.0),
        "gaps": (pytest.approx(1e-3), 0),
    }
    assert [own["name"] for own in found["kernels"]] == ["_gelu_forward_kernel", "nvjet_a", "nvjet_b"]


@pytest.mark.slow
def test_a_model_is_profiled_and_its_table_and_file_agree(tmp_path, capsys):
    out, trace = tmp_path / "profile.json", tmp_path / "trace.json"
    main(["--model", "MiniLM", "--steps", "1", "--batch", "1", "--out", str(out), "--trace", str(trace)])
    report = json.loads(out.read_text())
    assert report["case"] == {"model": "MiniLM", "lengths": "course", "tasks": 3, "batch": 1, "dtype": "fp32"}
    assert report["classes"][0]["name"] in (PRODUCTS, OTHER)
    assert sum(own["seconds"] for own in report["classes"]) == pytest.approx(report["profiled_seconds"])
    assert {"aten::mm", "aten::gelu"} <= {own["name"] for own in report["kernels"]}
    assert "traceEvents" in json.loads(trace.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed == table(report)
    assert printed[0].startswith("MiniLM, 3 tasks, course lengths, batch 1, fp32, ")
    assert any(line.startswith(PRODUCTS) for line in printed)


@pytest.mark.slow
def test_a_profiler_that_sees_nothing_is_no_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_steps, "events_of", lambda profiler, on_gpu: [])
    with pytest.raises(RuntimeError, match="the profiler has seen nothing of 1 steps"):
        main(["--steps", "1", "--batch", "1", "--out", str(tmp_path / "profile.json")])
    assert not (tmp_path / "profile.json").exists()


def test_no_steps_are_bad_input(tmp_path):
    with pytest.raises(InputError, match="--steps 0: expected 1 or more"):
        main(["--steps", "0", "--out", str(tmp_path / "profile.json")])
