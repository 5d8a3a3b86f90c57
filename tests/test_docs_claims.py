"""What README says in sentences, with numbers in them: held against checkpoints and measurements."""

import re

from test_docs import README, RECOMMENDED, SPOILED, fastest_forms, timed_rows

import cnnzoo
from cnnzoo import checkpoints, models
from cnnzoo.bench._tables import best_speed
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.exporting import _verify
from cnnzoo.registry import PHOTO_TAG, photo_weights


def test_what_is_recommended_is_the_best_at_it():
    rows = [r for r in cnnzoo.results() if r["tag"] == "fashion_mnist" and not r["model"].endswith("_d2l")]

    def best(within: int) -> str:
        return max((r for r in rows if r["params"] <= within), key=lambda r: r["top1_mean"])["checkpoint"]

    above = [r for r in cnnzoo.results() if r["tag"] == "fashion_mnist" and r["top1"] > 93]
    timed = fastest_forms()
    fastest = max((r for r in timed.values() if r["top1"] > 94), key=best_speed)
    untimed = [r for r in rows if r["top1"] > 94 and r["model"] not in timed]
    assert all(r["macs"] > 2 * fastest["macs"] for r in untimed), "time these too: cnnzoo bench infer"
    found = {
        "the fewest multiplications above 93 %": min(above, key=lambda r: r["macs"])["checkpoint"],
        "the fastest above 94 %": f"{fastest['model']}.fashion_mnist",
        "the best below 100,000 parameters": best(100_000),
        RECOMMENDED["resnext_small.fashion_mnist"]: best(300_000),
        "the most accurate": best(10**9),
    }
    assert {name: why for why, name in found.items()}.items() <= RECOMMENDED.items()
    equal, small = (next(r for r in rows if r["model"] == model) for model in ("mobilenet_small", "resnext_small"))
    assert abs(equal["top1"] - small["top1"]) < 0.6 and small["macs"] < 0.55 * equal["macs"]
    assert all(timed[name.partition(".")[0]]["form"] == "onnx int8" for name in RECOMMENDED)


def test_readme_gives_the_reasons_for_what_it_recommends():
    words = " ".join(README.read_text(encoding="utf-8").split())
    found = {name: checkpoints.metrics(name) for name in checkpoints.names()}
    first, tiny, base = (found[f"{m}.{FASHION_MNIST.name}"] for m in ("resnext_small", "mobilenet_tiny", "repvgg_base"))
    tops = [m["top1"] for m in (first, tiny, base)]
    assert max(tops) - min(tops) < 0.6 and tiny["macs"] < first["macs"] < base["macs"]
    ours, tinys, bases = (m["photos"] for m in (first, tiny, base))
    assert tinys == bases and max(m["photos"]["top1"] for m in found.values()) == ours["top1"]
    assert f"names {ours['top1']:.1f} % right, and the other two {tinys['top1']:.1f} %. These are six photos" in words
    assert round((ours["top1"] - tinys["top1"]) * ours["count"] / 100) == 6
    assert "temperature" not in base and f"([their error](#all-checkpoints) is {base['ece']:.1f} points)" in words
    worst = {n: min(m["robustness"][s] for s in SPOILED) for n, m in found.items() if n.endswith(PHOTO_TAG)}
    assert f"Take `{max(worst, key=worst.__getitem__)}` if your images are pale, noisy or blurred" in words


def test_readme_says_which_models_have_other_weights_for_photos():
    words = " ".join(README.read_text(encoding="utf-8").split())
    names = [name for name in cnnzoo.list_models() if photo_weights(name)]
    assert f"These are {' and '.join(f'`{name}`' for name in names)}." in words


def test_readme_says_whose_weights_are_newer_than_the_measurement_of_speed():
    words = " ".join(README.read_text(encoding="utf-8").split())
    timed = {r["model"]: r["top1"] for r in timed_rows() if r["form"] == "eager" and r["model"] in models.entrypoints()}
    cards = {r["model"]: r["top1"] for r in cnnzoo.results() if r["tag"] == "fashion_mnist"}
    newer = {(name, f"{top1:.2f}") for name, top1 in timed.items() if abs(top1 - cards[name]) > 0.02}
    assert set(re.findall(r"`(\w+)` has its former weights \(([\d.]+) %\)", words)) == newer


def test_readme_says_how_much_faster_the_inference_form_is():
    words = " ".join(README.read_text(encoding="utf-8").split())
    rows = [r for r in timed_rows() if r["model"] in models.entrypoints()]
    eager = {(r["model"], r["threads"]): r["images_per_s"] for r in rows if r["form"] == "eager"}
    forms = {(r["model"], r["threads"]): r["images_per_s"] for r in rows if r["form"] == "inference_form"}
    for batch, claim in (("64", "times as fast in it for batches of 64"), ("1024", "times for batches of 1,024")):
        times = [forms[key][batch] / speeds[batch] for key, speeds in eager.items()]
        assert f"{min(times):.1f} to {max(times):.1f} {claim}" in words


def test_readme_says_which_of_the_textbooks_networks_were_trained_in_bf16():
    words = " ".join(README.read_text(encoding="utf-8").split())
    book = [r for r in cnnzoo.results() if r["tag"] == f"textbook_{FASHION_MNIST.name}"]
    names = sorted(r["model"] for r in book if r["recipe"]["amp"] == "bf16")
    listed = f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
    assert len(names) == 6 and f"The six checkpoints of {listed} were trained by it with `--amp bf16`" in words


def test_readme_says_how_much_accuracy_a_small_file_may_lose():
    words = " ".join(README.read_text(encoding="utf-8").split())
    lost = {kind: f"more than {points} points in {kind}" for kind, points in _verify._POINTS.items()}
    assert f"a file that loses {lost['int8']}, or {lost['bf16']}, is not kept" in words
