"""The launcher: what counts as a running Snakemake, what it refuses, and what it shows at the end."""

import launch

from tokenbounds.config.load import load_config


def test_running_is_only_in_this_checkout(sleeper, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(launch, "ROOT", here)
    sleeper("snakemake", cwd=there)
    sleeper("something-else", cwd=here)
    assert launch.running() == []
    process = sleeper("snakemake", cwd=here)
    assert launch.running() == [process.pid]


def test_launcher_refuses_before_it_touches_a_lock(sleeper, root, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text((root / "config.yaml").read_text())
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("x\n")
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    process = sleeper("snakemake", cwd=tmp_path)
    assert launch.main(["--profile", "profiles/local"]) == 1
    busy = f"Snakemake is already running in {tmp_path} (process {process.pid})"
    assert capsys.readouterr().err == f"error: {busy}; wait for it or stop it\n"
    assert lock.exists()


def test_config_files_of_a_profile(root, monkeypatch):
    monkeypatch.chdir(root)
    assert [str(path) for path in launch.config_files("profiles/local")] == ["config.yaml"]
    assert [str(path) for path in launch.config_files("profiles/test")] == [
        "config.yaml",
        "profiles/test/config.yaml",
    ]


def test_tables_are_printed_and_results_listed(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    config = load_config(*launch.config_files("profiles/test"))
    monkeypatch.chdir(tmp_path)
    first, *others = config.every_table
    path = tmp_path / "results" / config.run / "tables" / f"{first}.md"
    path.parent.mkdir(parents=True)
    path.write_text("| model |\n")
    launch.show(config)
    shown = capsys.readouterr().out
    assert shown.startswith("\n| model |\n\nResults:\n") and others
    for name in config.every_table:
        assert f"results/{config.run}/tables/{name}.md  .csv  .tex\n" in shown
    for name in config.figures:
        assert f"results/{config.run}/figures/{name}.png  .pdf  .csv\n" in shown
