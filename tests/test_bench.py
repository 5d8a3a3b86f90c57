"""The speed measurements measure what they say, on a few images."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import TINY, run_recipe as run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

import cnnzoo
from cnnzoo import bench, canvas, checkpoints, data, datasets, exporting
from cnnzoo.bench import _infer, _peers, _train, _transfer
from cnnzoo.cli import main
from cnnzoo.errors import CheckpointError, CnnzooError, ExportError, InputError
from cnnzoo.metrics import taught_by
from cnnzoo.recipes import Recipe, get_recipe
from cnnzoo.resnet8 import ResNet8


@pytest.fixture
def few(tiny_split, monkeypatch):
    monkeypatch.setattr(_train, "_BATCH", 8)
    split = data.Split(tiny_split.images.repeat(4, 1, 1, 1), tiny_split.labels.repeat(4), datasets.FASHION_MNIST)
    return split


FLAGSHIP = checkpoints.metrics("resnext_small.fashion_mnist")
TOP1 = f"{FLAGSHIP['top1']:.2f}"  # of its card, whatever was timed
LENGTH = f"{FLAGSHIP['epochs']} epochs, {FLAGSHIP['minutes']:.0f} min, {FLAGSHIP['hardware'].rpartition(', ')[2]}"
LENGTH += taught_by(FLAGSHIP)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """What peers reached, in a file of the test's own."""
    path = tmp_path / "peers.json"
    path.write_text('{"rows": []}')
    monkeypatch.setattr(_peers, "FILE", path)
    return path


@pytest.mark.slow
def test_each_loop_has_a_row_and_ours_are_held_against_the_faster_plain_one(few):
    rows = bench.loops(few, repeats=1)
    assert [row["loop"].split(",")[0] for row in rows] == ["DataLoader", "DataLoader", "cnnzoo", "cnnzoo", "cnnzoo"]
    plain = min(row["seconds"] for row in rows[:2])
    assert [row["times"] for row in rows[2:]] == [round(plain / row["seconds"], 2) for row in rows[2:]]


@pytest.mark.slow
def test_what_is_compiled_is_compiled_before_the_epoch_that_is_timed(few):
    from torch._dynamo.utils import counters

    graphs = []

    def epoch(*args):
        seconds = _train._our_epoch(*args)
        graphs.append(counters["stats"]["unique_graphs"])
        return seconds

    _train._warm_epoch(epoch, few, "lenet_d2l", dict(compile=True))
    before, after = graphs
    assert before == after > 0


def test_the_plain_loop_reads_image_by_image_through_torchvision(few):
    images = _train._InMemory(few)
    image, label = images[3]
    assert len(images) == 160
    assert (image * 255).round().byte().equal(few.images[3]) and label == few.labels[3]


def test_each_switch_is_turned_on_after_the_other(monkeypatch, few):
    monkeypatch.setattr(_train, "_SWITCHES", _train._SWITCHES[:3])  # compiling takes long and gains nothing here
    rows = bench.switches(model="lenet_tiny", steps=3)
    assert [row["switch"] for row in rows] == ["fp32", "+ bf16", "+ channels_last"]
    assert rows[0]["times"] == 1
    assert all(row["images_per_s"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.data
def test_a_cold_start_runs_the_command_and_reads_its_accuracy(fashion_mnist_dir):
    arguments = ["lenet_d2l", "--recipe", "textbook", "--epochs", "1", "--batch-size", "2048"]
    (row,) = bench.cold_starts(fashion_mnist_dir, {"any": arguments}, seeds=(0, 1))
    assert row["command"] == "cnnzoo train " + " ".join(arguments)
    assert Recipe(**row["recipe"]) == get_recipe("textbook", "lenet_d2l", epochs=1, batch_size=2048)
    assert len(row["seconds"]) == len(row["top1"]) == len(row["top1_tta"]) == 2


def _loop(name: str, seconds: float) -> dict:
    return dict(loop=name, warm_up=0.1, seconds=seconds)


def test_the_command_prints_tables_and_writes_json(tmp_path, miniature, monkeypatch):
    monkeypatch.setattr(bench, "loops", lambda split: [_loop("plain", 4.0), dict(_loop("ours", 1.0), times=4.0)])
    monkeypatch.setattr(bench, "switches", lambda: [dict(switch="fp32", images_per_s=1000, times=1.0)])
    monkeypatch.setattr(
        bench, "cold_starts",
        lambda data_dir, commands, seeds: [
            dict(name=n, command="c", seconds=[10.0, 12.0], top1=[91.0, 92.0], top1_tta=[91.5, 92.5]) for n in commands
        ],
    )  # fmt: skip
    monkeypatch.setattr(data, "load_split", lambda **_: None)
    out = tmp_path / "bench.json"
    result = CliRunner().invoke(main, ["bench", "train", "--out", str(out), "--seeds", "2"])
    assert result.exit_code == 0, result.exception
    assert "11 ± 1" in result.output and "91.50 ± 0.71" in result.output and "4.0" in result.output
    found = json.loads(out.read_text())
    assert found["loops"][1]["times"] == 4.0 and found["hardware"] and found["cores"] >= 1


@pytest.mark.slow
def test_cost_is_measured_along_three_axes_and_60000_images_stay_under_2_gb():
    rows = bench.scaling(images=15_000, few=1_280, models=("resnet_tiny", "resnet_small"))
    assert [(r["axis"], r["model"], r["images"], r["processes"]) for r in rows] == [
        ("data", "lenet_tiny", 15_000, 1), ("data", "lenet_tiny", 30_000, 1), ("data", "lenet_tiny", 60_000, 1),
        ("processes", "resnet_tiny", 1_280, 1), ("processes", "resnet_tiny", 1_280, 2),
        ("model", "resnet_tiny", 1_280, 1), ("model", "resnet_small", 1_280, 1),
    ]  # fmt: skip
    assert 100 < rows[2]["peak_mb"] < 2_000
    for row in rows:
        assert row["images_per_s"] == pytest.approx(row["images"] / row["seconds"], rel=0.02)


def test_the_scaling_command_prints_a_table_and_writes_json(tmp_path, monkeypatch):
    row = dict(axis="data", model="m", images=60_000, processes=1, seconds=5.0, images_per_s=12_000, gmacs_per_s=61.2)
    monkeypatch.setattr(bench, "scaling", lambda: [dict(row, peak_mb=1_234)])
    out = tmp_path / "scaling.json"
    result = CliRunner().invoke(main, ["bench", "scaling", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    assert "60,000" in result.output and "1,234" in result.output
    assert json.loads(out.read_text())["rows"] == [dict(row, peak_mb=1_234)]


@pytest.mark.data
def test_every_form_is_timed_and_as_accurate_as_the_model_and_peers_beside_it(fashion_mnist_dir):
    names, wanted = ("lenet_tiny", "timm:test_resnet"), ("eager", "channels_last", "inference_form")
    before = torch.get_num_threads()
    rows = bench.forms(names, wanted=wanted, threads=(1,), batches=(1, 8), data_dir=fashion_mnist_dir)
    assert torch.get_num_threads() == before
    assert [(r["threads"], r["model"], r["form"]) for r in rows] == [(1, n, f) for n in names for f in wanted]
    expected = checkpoints.metrics("lenet_tiny.fashion_mnist")["top1"]
    for row in rows:
        assert row["top1"] == (None if row["model"].startswith("timm:") else pytest.approx(expected, abs=0.02))
        assert row["images_per_s"][1] > 0 and row["images_per_s"][8] > 0
    for i in range(0, len(rows), 3):
        most = [max(r["images_per_s"].values()) for r in rows[i : i + 3]]
        assert [r["times"] for r in rows[i : i + 3]] == pytest.approx([n / most[0] for n in most], abs=0.006)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("form", [f for f in bench.FORMS if f not in ("eager", "channels_last", "inference_form")])
def test_the_other_forms_are_timed_too(form, fashion_mnist_dir):
    (row,) = bench.forms(("lenet_tiny",), wanted=(form,), threads=(1,), batches=(2,), data_dir=fashion_mnist_dir)
    allowed = 0.3 if "int8" in form else 0.1 if "bf16" in form else 0.02
    assert row["top1"] == pytest.approx(checkpoints.metrics("lenet_tiny.fashion_mnist")["top1"], abs=allowed)
    assert row["images_per_s"][2] > 0


@pytest.mark.slow
@pytest.mark.data
def test_an_untrained_peer_is_timed_in_int8_and_files_are_taken_again(fashion_mnist_dir, tmp_path, monkeypatch):
    how = dict(wanted=("onnx int8",), threads=(1,), batches=(2,), data_dir=fashion_mnist_dir, files=tmp_path)
    (first,) = bench.forms(("timm:test_resnet",), **how)
    assert first["top1"] is None and [p.suffix for p in tmp_path.iterdir()] == [".onnx"]
    monkeypatch.setattr(_infer.exporting, "export", None)  # which would be called
    assert bench.forms(("timm:test_resnet",), **how)[0]["images_per_s"][2] > 0


def test_each_round_times_every_row_so_that_a_busy_spell_hits_all_and_the_fastest_counts(monkeypatch):
    order, clock = [], iter(range(1000))
    calls = [lambda x, name=name: order.append(name) for name in "ab"]
    monkeypatch.setattr(_infer.time, "perf_counter", lambda: next(clock) ** 2)
    assert _infer._seconds(calls, 64) == [1, 5]
    assert order == [*"ab"] * _infer._ROUNDS


def test_a_cold_start_is_held_against_that_of_timm(monkeypatch):
    commands = []
    monkeypatch.setattr(_infer.subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(
        _infer.time, "perf_counter", lambda: 3.0 * len([c for c in commands if "predict" in c]) + len(commands)
    )
    assert bench.cold_start(runs=2) == dict(predict_s=4.0, import_timm_s=1.0, times=4.0)
    assert ["predict" in command for command in commands] == [True, False] * 2


def _timed(model: str, form: str, threads: int, top1: float | None, speeds: tuple[int, int]) -> dict:
    cost = dict(params=276_522, macs=30_500_000)
    return dict(
        model=model, form=form, threads=threads, top1=top1, images_per_s={1: speeds[0], 64: speeds[1]}, times=1.0, **cost
    )


def test_inference_is_printed_written_and_drawn(tmp_path, kept, monkeypatch):
    seen = {}

    def forms(**given):
        seen.update(given)
        rows = []
        for name, top1 in (("resnext_small", 94.78), ("timm:resnet18", None)):
            for form, speeds in (("eager", (300, 2000)), ("inference_form", (500, 5000)), ("onnx", (900, 9000))):
                rows.append(_timed(name, form, 2, top1, speeds))
        return rows

    monkeypatch.setattr(bench, "forms", forms)
    monkeypatch.setattr(bench, "cold_start", lambda: dict(predict_s=2.4, import_timm_s=2.0, times=1.2))
    out, picture = tmp_path / "bench.json", tmp_path / "speed.png"
    words = [
        "bench",
        "infer",
        "resnext_small",
        "timm:resnet18",
        "--threads",
        "2",
        "--out",
        str(out),
        "--picture",
        str(picture),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.exception
    assert seen["names"] == ("resnext_small", "timm:resnet18") and seen["threads"] == (2,)
    words = bench.markdown("infer", json.loads(out.read_text()))
    speeds = "300 / 2,000 | 500 / 5,000 | 900 / 9,000"
    assert f"| resnext_small | 0.28 M | 30.5 M | {TOP1} | {LENGTH} | {speeds} |" in words
    assert "| timm:resnet18 | 0.28 M | 30.5 M | not measured |" in words
    assert "| resnext_small | 2 | 300 -> 500 (1.7) | 2,000 -> 5,000 (2.5) |" in words and "| 2.40 | 2.00 | 1.20 |" in words
    assert f"torch {torch.__version__}" in words and "onnxruntime" in words
    assert Image.open(picture).size[0] > 500


def test_no_name_in_the_picture_of_speeds_hides_another(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(canvas, "save", lambda figure, path: figures.append(figure))
    bench.draw(json.loads((Path(__file__).parent / "bench_infer.json").read_text()), tmp_path / "speed.png")
    figure = figures[0]
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    # Without its line, and without what letters leave free at the edges.
    boxes = [Text.get_window_extent(text).padded(-2) for text in axes.texts if not text.get_rotation()]
    assert len(boxes) > 5
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 for box in boxes)


def test_without_an_onnx_file_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="onnx"):
        bench.draw(dict(rows=[_timed("lenet_tiny", "eager", 1, 93.0, (1, 2))], hardware="x"), tmp_path / "speed.png")


def test_the_peer_of_mlperf_has_the_weights_of_its_reference():
    """78,666 parameters by Keras, which counts the 480 running means and variances of its batch norms too."""
    model = ResNet8(in_chans=3)
    assert sum(p.numel() for p in model.parameters()) == 78_666 - 480
    assert sum(p.numel() for name, p in model.named_parameters() if "norm" not in name) == 77_706
    name = bench.PEERS[-1]
    assert name == "timm:resnet8_mlperf" and _peers.make(name)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert "resnet8_mlperf" not in cnnzoo.list_models()  # it is a peer, and no model of the zoo


def test_a_form_that_needs_a_compiler_says_so_where_there_is_none(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    rows = bench.forms(("timm:resnet8_mlperf",), wanted=("compile", "inference_form"), threads=(1,), batches=(2,))
    assert rows[0]["failed"] == "no C++ compiler" and "images_per_s" not in rows[0]
    (speeds, *_) = bench.TABLES["infer"](dict(rows=rows))
    assert speeds.cells[0][-2] == "no C++ compiler" and rows[1]["times"] == 1


def test_a_file_that_export_refuses_is_a_row_that_says_so(monkeypatch):
    def refused(*args, **kwargs):
        raise ExportError("The file's top-1 is lower.")

    monkeypatch.setattr(exporting, "export", refused)
    rows = bench.forms(("timm:resnet8_mlperf",), wanted=("inference_form", "onnx int8"), threads=(1,), batches=(2,))
    assert [row.get("failed") for row in rows] == [None, "not accurate enough"] and "times" not in rows[1]


@pytest.mark.parametrize("peer", ["timm:test_resnet", "timm:resnet8_mlperf"])
def test_what_a_peer_reached_is_kept_with_epochs_minutes_and_threads(peer, tmp_path, miniature, kept, monkeypatch):
    out = tmp_path / "run"
    metrics = run(Recipe(model=peer, **dict(TINY, epochs=1, warmup_epochs=0.0)), out, miniature)
    with pytest.raises(CheckpointError, match="a finished run of a timm model on Fashion-MNIST is needed"):
        bench.collect([out])
    monkeypatch.setattr(_peers, "FASHION_MNIST", miniature[1])
    with pytest.raises(CheckpointError, match=f"is the second run of {peer}"):
        bench.collect([out, out])
    rows = [_timed(peer, "onnx", 2, None, (1, 2)), _timed("resnext_small", "onnx", 2, 94.78, (1, 9))]
    (tmp_path / "bench.json").write_text(json.dumps(dict(rows=rows, hardware="x")))
    words = ["bench", "peers", out, "--infer", tmp_path / "bench.json", "--picture", tmp_path / "speed.png"]
    for other in ({}, dict(rows=[dict(axis="images")])):
        (tmp_path / "other.json").write_text(json.dumps(other))
        refused = CliRunner().invoke(main, [str(word) for word in [*words[:4], tmp_path / "other.json", *words[5:]]])
        assert refused.exit_code == 1 and "other.json has no rows of bench infer" in refused.output and not bench.trained()
    for _ in range(2):  # the second time in its own place
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    (row,) = bench.trained()
    assert (row["model"], row["top1"], row["epochs"]) == (peer, metrics["top1"], 1)
    assert Image.open(tmp_path / "speed.png").size[0] > 500
    cells = bench.TABLES["infer"](dict(rows=rows))[0].cells
    assert cells[0][3:5] == [f"{metrics['top1']:.2f}", "1 epoch, 0 min, 1 thread"]
    assert cells[1][3:5] == [TOP1, LENGTH]


def test_each_peer_is_held_against_the_most_accurate_of_ours_that_is_twice_as_fast(kept):
    length = dict(epochs=1, minutes=1, hardware="x, 1 thread")
    known = {"timm:resnet18": 94.0, "timm:resnet10t": 94.7}
    kept.write_text(json.dumps(dict(rows=[dict(model=m, top1=top1, **length) for m, top1 in known.items()])))
    rows = [
        _timed("timm:resnet18", "eager", 2, None, (1, 50)), _timed("timm:resnet18", "onnx", 2, None, (1, 100)),
        _timed("timm:resnet10t", "onnx", 2, None, (1, 100)), _timed("timm:test_resnet", "onnx", 2, None, (1, 100)),
        _timed("timm:resnet8_mlperf", "onnx", 2, None, (1, 101)),
        _timed("nin_small", "onnx", 2, 94.88, (1, 199)), _timed("nin_tiny", "onnx", 2, 94.6, (1, 200)),
        _timed("lenet_tiny", "onnx int8", 2, 93.1, (1, 201)), _timed("resnet_small", "onnx", 1, 94.7, (1, 1000)),
    ]  # fmt: skip
    (table,) = [t for t in bench.TABLES["infer"](dict(rows=rows)) if t.caption.startswith("Each peer")]
    assert [row[:1] + row[3:] for row in table.cells] == [
        ["timm:resnet18", "nin_tiny", "94.60", "200 (onnx)", "2.0", "yes"],
        ["timm:resnet10t", "nin_tiny", "94.60", "200 (onnx)", "2.0", "no: less accurate"],
        ["timm:test_resnet", "nin_tiny", "94.60", "200 (onnx)", "2.0", "cannot be said: not measured"],
        ["timm:resnet8_mlperf", "lenet_tiny", "93.10", "201 (onnx int8)", "2.0", "no: none is twice as fast"],
    ]
    assert table.cells[0][1:3] == ["94.00", "100 (onnx)"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["infer", "lenet_tiny", "--form", "eager", "--picture", "x.png"], 2, "--form onnx"),
        (["infer", "hf-hub:me/mine", "--form", "eager"], 1, "pretrained models of the zoo and timm:NAME can be timed"),
        (["train", "--seeds", "-1"], 2, "-1"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_is(words, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code == code and said in result.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_form_is_refused():
    with pytest.raises(CnnzooError, match="torch_export"):
        bench.forms(("lenet_tiny",), wanted=("tensorrt",))


# -- does pretraining help ------------------------------------------------------------------------------------------------


def test_transfer_trains_each_method_on_the_same_few_digits_and_measures_them_on_the_same_others(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    seen = {}

    def measured(recipe, out, *, data_dir, device):
        seen[recipe.seed, recipe.pretrained, recipe.freeze] = {
            split: sorted(p.relative_to(data_dir / split).as_posix() for p in (data_dir / split).rglob("*.png"))
            for split in ("train", "test")
        }
        return dict(top1=50.0 + recipe.seed)

    monkeypatch.setattr(_transfer, "train", measured)
    rows = bench.transfer("lenet_tiny", 2, {"digits": (10,)})
    assert [r["method"] for r in rows] == ["from scratch", "linear probe", "fine-tuned"]
    assert all(r["top1"] == [50.0, 51.0] for r in rows)
    for seed in (0, 1):
        scratch, probe, tuned = seen[seed, False, False], seen[seed, True, True], seen[seed, True, False]
        assert scratch == probe == tuned
        assert len(tuned["train"]) == 100 and len(tuned["test"]) == 700 and not set(tuned["train"]) & set(tuned["test"])
    assert seen[0, False, False]["train"] != seen[1, False, False]["train"]
    assert seen[0, False, False]["test"] == seen[1, False, False]["test"]
    (made,) = bench.TABLES["transfer"](dict(rows=rows))
    assert made.cells == [["digits", "10", *["50.5 ± 0.7"] * 3]]


def test_transfer_learns_digits(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(_transfer, "_UPDATES", 30)
    monkeypatch.setattr(_transfer, "METHODS", {"fine-tuned": _transfer.METHODS["fine-tuned"]})
    (row,) = bench.transfer("lenet_tiny", 1, {"digits": (10,)})
    assert row["top1"][0] > 30  # of ten classes
