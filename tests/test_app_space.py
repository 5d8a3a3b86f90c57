"""The page as a Space of the Hugging Face Hub."""

from types import SimpleNamespace

import pytest
import yaml
from test_app import MINE, run

import cnnzoo
from cnnzoo import app


def test_the_space_is_three_files_that_name_what_it_runs_on(tmp_path):
    gradio = pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
    folder = tmp_path / "new" / "space"
    assert run("--space", str(folder), "--model", "nin_tiny", code=0) == f"{folder}\n"
    assert {p.name for p in folder.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio" and header["sdk_version"] == gradio.__version__ and header["app_file"] == "app.py"
    assert header["license"] == "apache-2.0" and "cnnzoo/nin_tiny.fashion_mnist" in header["models"]
    assert len(header["short_description"]) <= 60  # what the Hub allows
    assert (folder / "requirements.txt").read_text() == f"cnnzoo[app]=={cnnzoo.__version__}\n"
    called = []
    code = (folder / "app.py").read_text()
    exec(code.replace("from cnnzoo import app", ""), dict(app=SimpleNamespace(launch=lambda *a, **k: called.append((a, k)))))
    assert called == [(("nin_tiny",), dict(host="0.0.0.0", port=7860))]
    assert "already exists" in run("--space", str(folder))
    assert "Push it first: cnnzoo push" in run("--space", str(tmp_path / "other"), "--model", f"local-dir:{MINE}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    app.write_space(tmp_path / "link", "hf-hub:me/mine@main")
    assert "models:\n- me/mine\n" in (tmp_path / "empty" / "README.md").read_text(encoding="utf-8")
