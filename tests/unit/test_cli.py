"""`tokenbounds verify | bound | show`: what is printed and the exit status."""

import importlib.metadata
import json
import re
import subprocess
import sys

import pytest
import torch
from support.runs import SCHEMES, certificate_path, write_run

from tokenbounds import __version__, bounds
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.cli import main
from tokenbounds.config.load import load_config
from tokenbounds.planning.parameter_counts import models_frame


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run") / "run", {"token": SCHEMES["token"]})


def test_verify(run, capsys):
    path = certificate_path(run, "token")
    assert main(["verify", "--rescore", "5", str(path)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{path}: all checks held"
    stated = lines.index("taken as stated:")
    assert stated == 11 and all(re.match(r"ok   [a-z0-9 ]+: ", line) for line in lines[:stated])
    assert {line.split()[0] for line in lines[stated + 1 :]} >= {
        "delta",
        "n",
        "beacon",
        "candidates",
        "device",
    }


def test_verify_says_what_failed(run, capsys, tmp_path):
    """One certificate that does not hold makes the status 1, whatever comes after it."""
    good = certificate_path(run, "token")
    content = json.loads(good.read_text())
    content["m"] += 1
    bad = good.with_name("bad.json")
    bad.write_text(json.dumps(content))
    try:
        assert main(["verify", str(bad), str(good)]) == 1
    finally:
        bad.unlink()
    lines = capsys.readouterr().out.splitlines()
    assert f"{bad}: NOT verified" in lines and f"{good}: all checks held" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("FAIL")] == ["FAIL corpus", "FAIL bounds"]


@pytest.mark.parametrize("command", ["verify", "show"])
def test_one_line_for_a_file_that_is_no_certificate(command, capsys, tmp_path):
    path = tmp_path / "absent.json"
    assert main([command, str(path)]) == 1
    assert capsys.readouterr() == ("", f"error: {path}: no such file\n")
    path.write_text("{}")
    assert main([command, str(path)]) == 1
    assert capsys.readouterr() == ("", f"error: {path}: not a tokenbounds certificate of version 3\n")


def test_show(run, capsys):
    path = certificate_path(run, "token")
    assert main(["show", str(path), str(path)]) == 0
    assert capsys.readouterr().out == 2 * (describe_certificate(read_certificate(path)) + "\n")


def bound_arguments(**options):
    return [
        "bound",
        *(f"--{key.replace('_', '-')}={value}" for key, value in options.items() if value is not None),
    ]


def printed(capsys):
    """Numbers that `bound` printed, by the name at the start of the line."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:13].strip(): float(line[13:].split()[0]) for line in lines}


def vector_rows(root):
    """Reference rows (published implementation) with messages so long that rounding to whole bytes changes no
    printed digit."""
    rows = json.loads((root / "tests/vectors/azuma.json").read_text())["rows"]
    return [row for row in rows if row["m"] > row["n"] and row["message_bits"] >= 1e6]


def test_bound_is_the_reference(root, capsys):
    """Rounding the reference's fractional message to whole bytes moves these bounds by less than the digits
    that are printed."""
    rows = vector_rows(root)
    assert len(rows) > 20
    for row in rows:
        message_bytes = round(row["message_bits"] / 8)
        options = {
            "tokens": row["m"],
            "risk": row["empirical_risk"],
            "vocab_size": row["vocab_size"],
            "alpha": row["alpha"],
        }
        options |= {
            "draws": row["n"],
            "delta": row["delta"],
            "extra_bits": row["extra_bits"],
            "message_bytes": message_bytes,
        }
        assert main(bound_arguments(**options)) == 0
        found = printed(capsys)
        assert found["bound"] == pytest.approx(row["bound"], abs=6e-5, rel=1e-5)
        assert found["bound"] == pytest.approx(
            found["risk"] + found["+ complexity"] + found["+ draws"], abs=2e-4
        )
        assert ("random guess" in found) == (row["alpha"] is not None)


def test_bound_is_azuma(capsys):
    options = {
        "message_bytes": 12_345,
        "tokens": "1.2e9",
        "risk": 0.25,
        "vocab_size": 50_257,
        "draws": 500,
        "delta": 0.01,
        "extra_bits": 3,
    }
    assert main(bound_arguments(**options)) == 0
    complexity = bounds.complexity_nats(8 * 12_345, 3)
    expected = bounds.azuma(0.25, 1.0, complexity, 1_200_000_000, 500, 0.01)
    output = capsys.readouterr().out
    assert output.startswith(
        f"bound         {expected:.4f} top-k error, with probability 0.99 (the paper's formula)\n"
    )
    assert main(bound_arguments(**options, alpha=0.1)) == 0
    low, high = bounds.bpd_interval(0.1, 50_257)
    assert printed(capsys)["bound"] == round(
        bounds.azuma(0.25, high - low, complexity, 1_200_000_000, 500, 0.01), 4
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("tokens", "1.5", "--tokens 1.5: expected a whole number"),
        ("tokens", "inf", "--tokens inf: expected a whole number"),
        ("tokens", "nan", "--tokens nan: expected a whole number"),
        ("tokens", "10", "m is 10"),
        ("tokens", "-5", "m is -5"),
        ("risk", "nan", "empirical_risk is nan"),
        ("message_bytes", "0", "message_bits is 0"),
        ("message_bytes", "-3", "message_bits is -24"),
        ("extra_bits", "-1", "choices_bits is -1.0"),
        ("alpha", "0", "alpha is 0.0"),
        ("alpha", "2", "alpha is 2.0"),
        ("delta", "1", "delta is 1.0"),
        ("draws", "0", "n is 0"),
        ("vocab_size", "1", "vocab_size is 1"),
    ],
)
def test_bound_of_a_number_that_cannot_be(key, value, expected, capsys):
    options = {"message_bytes": 1000, "tokens": 100_000, "risk": 3.0, "vocab_size": 50, "alpha": 0.1} | {
        key: value
    }
    assert main(bound_arguments(**options)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and expected in err and err.count("\n") == 1


def test_unknown_option_and_version(capsys):
    for arguments, status in ((["bound", "--mesage-bytes", "3"], 2), ([], 2), (["--version"], 0)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == status
    assert capsys.readouterr().out == f"tokenbounds {__version__}\n"


def test_installed_command(root):
    """The entry point that pyproject.toml declares is this `main`."""
    points = importlib.metadata.entry_points(group="console_scripts", name="tokenbounds")
    assert [point.load() for point in points] == [main]
    done = subprocess.run(
        [sys.executable, "-m", "tokenbounds.cli", "show", "absent.json"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: absent.json: no such file\n")


def test_show_a_configuration(root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run has tokens
    files = [str(root / "config.yaml"), str(root / "profiles/test/config.yaml")]
    assert main(["show", *files]) == 0
    lines = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    counts = {line[0].split()[0]: line[1:] for line in lines[1:]}
    # 300 tokens padded to 320, rank 1, width 16: queries, keys, values, output, two layers of the MLP, head;
    # three norms
    assert counts["lora-1"][0] == str(4 * 32 + 2 * 80 + 320 + 16 + 3 * 16)
    assert counts["sublora"][:2] == ["100", "928"]
    assert counts["small"] == ["7,920"] * 3
    assert main(["show", files[0]]) == 0
    shown = capsys.readouterr()
    assert "--vocab-size (GPT-2: 50257)" in shown.err and shown.out.splitlines()[1].split()[-3:] == ["-"] * 3
    assert main(["show", files[0], "certificate.json"]) == 1
    assert "expected only one kind" in capsys.readouterr().err


def test_gpt2_small_has_the_papers_counts(root):
    frame = models_frame(load_config(root / "config.yaml"), 50257).set_index("model")
    assert (frame.loc["gpt2-monarch-4", "dense"], frame.loc["gpt2-124m", "structure"]) == (
        123_653_376,
        "as published (openai-community/gpt2)",
    )
    # min(a, b) (a + b) / 4 of each a x b matrix: four of attention, two of the MLP, the head; norms have
    # biases only
    monarch = 12 * (4 * 2 * 768**2 // 4 + 2 * 768 * (768 + 3072) // 4) + 768 * (768 + 50304) // 4
    biases = 12 * (3 * 768 + 768 + 3072 + 768 + 2 * 768) + 768
    assert frame.loc["gpt2-monarch-4", "trainable"] == monarch + biases
    lora = 16 * (12 * (4 * 2 * 768 + 2 * (768 + 3072)) + 768 + 50304)
    assert frame.loc["gpt2-lora-16", "trainable"] == lora + biases + 25 * 768
    assert frame.loc["gpt2-enhanced-sublora-128-15000000", "trainable"] == 15_000_000
    assert (frame["trainable"] <= frame["spanned"]).fillna(True).all()
