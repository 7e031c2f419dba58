"""The package of docs/extending.md, copied from the page, installed, and used."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

_BLOCK = re.compile(r"^```(?:toml|python|yaml)\n# ([\w./-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Run in a fresh process, because entry points are read when tokenbounds is imported.
_DRIVER = """
import json, sys
from pathlib import Path

import yaml
from support.extension_run import write_run

from tokenbounds.bounds.methods import METHODS
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs import read_message
from tokenbounds.config.load import parse_config
from tokenbounds.planning import models_frame

folder = Path(sys.argv[1])
config = parse_config(yaml.safe_load((folder / "config.yaml").read_text()))
certificate = write_run(folder / "run", config, "recurrent", "short4")
message = read_message(folder / "run/messages/recurrent.short4.bin")
print(json.dumps({
    "methods": list(METHODS),
    "implementations": config.implementations("recurrent", "short4"),
    "codec": message.codec,
    "family": message.config["hypothesis"]["family"],
    "bytes": sum(message.section_bytes.values()),
    "metrics": read_certificate(certificate)["metrics"],
    "checks": {check.name: check.held for check in verify_certificate(certificate, rescored=5)},
    "description": describe_certificate(read_certificate(certificate)),
    "parameters": int(models_frame(config, 50)["trainable"].iloc[0]),
}))
"""


@pytest.fixture(scope="module")
def blocks(root):
    """Files that the page shows, by path."""
    return dict(_BLOCK.findall((root / "docs/extending.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def site(blocks, root, tmp_path_factory):
    """A folder of installed packages with the page's package in it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for path, text in blocks.items():
        if path.startswith(("my_bounds/", "pyproject.toml")):
            (source / path).parent.mkdir(exist_ok=True)
            (source / path).write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)], check=True
    )
    return target


@pytest.fixture(scope="module")
def run_python(root):
    """Function that runs Python code with the packages of a folder installed, and returns what it printed."""

    def run(site, code, *arguments):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(site), str(root), str(root / "tests")]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def configuration(blocks):
    """The page's overlay on what it needs of the quickstart: a corpus and a run."""
    overlay = yaml.safe_load(blocks["profiles/mine/config.yaml"])
    base = {
        "run": "mine",
        "sampling": {"mode": "token", "n": 40, "context_length": 16},
        "corpora": {"python": {"source": {"files": ["*.txt"]}, "tokenizer": {"train": {"vocab_size": 300}}}},
    }
    small = {"steps": 6, "batch_size": 2, "warmup": 2, "eval_every": 3, "dtype": "float32", "threads": 1}
    overlay["models"]["recurrent"] |= {"width": 8, "context_length": 16}
    overlay["models"]["recurrent"]["training"] |= small
    return base | overlay


def test_files_of_the_page(blocks):
    """The list on the page is complete, and its examples are as short as it says they can be."""
    package = {path for path in blocks if path.startswith(("my_bounds/", "pyproject.toml"))}
    assert len(package) == 7 and "profiles/mine/config.yaml" in blocks

    def code_lines(path):
        lines = blocks[path].splitlines()
        return sum(1 for line in lines if line.strip() and not line.strip().startswith(("#", '"""')))

    assert code_lines("my_bounds/bernstein.py") <= 20
    assert code_lines("my_bounds/short_section.py") + code_lines("my_bounds/short.py") <= 45


def test_a_model_of_another_package(site, run_python, configuration, tmp_path):
    """Train, code, decode, score and certify a model of the new family, with the new codec and method."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration))
    result = json.loads(run_python(site, _DRIVER, tmp_path).splitlines()[-1])
    assert result["methods"][-1] == "bernstein" and len(result["methods"]) > 1
    assert result["implementations"] == ["my_bounds.gru:GRU", "my_bounds.short:ShortCodec"]
    assert result["codec"] == {"kind": "short", "bits": 4} and result["family"] == "gru"
    assert result["bytes"] == (tmp_path / "run/messages/recurrent.short4.bin").stat().st_size
    assert all(result["checks"].values()) and len(result["checks"]) > 5
    for metric in ("bpd", "top1"):
        bound = result["metrics"][metric]["bounds"]["bernstein"]
        assert bound["assumes"].startswith("m fixed beforehand")
        assert bound["empirical_risk"] <= bound["value"]
        assert bound["n_pilot"] == 0 and bound["choices"]
    assert "empirical Bernstein" in result["description"]
    width, vocab_size = 8, 300  # the tokenizer's, which is not trained here
    assert result["parameters"] == vocab_size * width + 6 * width * width + 6 * width


def test_the_bernstein_bound_holds(site, run_python):
    """Of 1,000 samples of skewed losses, few have a bound below the mean; the median is not far above."""
    code = """
import numpy as np
from my_bounds.bernstein import Bernstein
from tokenbounds.bounds import Bounded, Claim
rng, claim = np.random.default_rng(7), Claim(message_bits=2, m=10**9, delta=0.2)
values = [Bernstein().bound(Bounded(rng.beta(1, 9, 200), 0, 1), claim).value for _ in range(1000)]
print(np.mean(np.array(values) < 0.1), np.median(values))
"""
    violated, value = map(float, run_python(site, code).split())
    assert violated <= 0.2
    hoeffding = 0.1 + (0.5 * 1.6 / 200) ** 0.5  # sqrt(ln(1 / 0.2) / 2n)
    assert 0.1 < value < 1.5 * hoeffding


@pytest.mark.parametrize(
    "module", ["bernstein", "short_section", "short", "gru_section", "gru"], ids=lambda name: name
)
def test_its_modules_can_be_imported_first(site, run_python, module):
    run_python(site, f"import my_bounds.{module}")


def test_editing_the_package_changes_fingerprints(site, run_python, tmp_path):
    """Code counts; comments and docstrings do not."""
    code = """
from tokenbounds.io.fingerprint import fingerprint
from tokenbounds.plugins import modules
print(fingerprint("training.loop", "my_bounds.gru:GRU"), fingerprint("my_bounds.short:ShortCodec"),
      fingerprint("certificates.make", *modules("tokenbounds.methods")), fingerprint("certificates.make"))
"""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)

    def edited(module, old, new):
        path = copy / "my_bounds" / f"{module}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        prints = run_python(copy, code).split()
        path.write_text(text)
        return [now != before for now, before in zip(prints, run_python(site, code).split(), strict=True)]

    assert edited("gru", '"""List (name, shape)', '"""Give (name, shape)') == [False] * 4
    assert edited("gru", "** 0.5", "** 0.25") == [True, False, False, False]
    assert edited("short", "bits[~bits", "bits[bits") == [False, True, False, False]
    assert edited("bernstein", "7 * sample", "8 * sample") == [False, False, True, False]


def test_a_broken_package_is_named(site, run_python, tmp_path):
    """An entry point that cannot be loaded is one line with the package's name."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (copy / "my_bounds/gru_section.py").write_text("import no_such_module\n")
    code = """
from tokenbounds.errors import InputError
try:
    import tokenbounds.config.schema
except InputError as error:
    print(error)
"""
    line = run_python(copy, code).strip()
    assert line.startswith("entry point 'gru' of tokenbounds.families: my-bounds fails (ModuleNotFoundError")
