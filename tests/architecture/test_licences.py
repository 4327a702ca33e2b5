"""The package brings the licences of what it derives from."""

import tomllib
from pathlib import Path

from cora.detector.presets import EMBEDDED

ROOT = Path(__file__).resolve().parents[2]


def test_licence_files_exist_and_are_built() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = settings["project"]["license-files"]
    assert "src/cora/assets/NOTICE.md" in files
    for file in files:
        assert (ROOT / file).is_file(), file
    # Hatch builds every tracked file below the packages, so the notice lies beside the weights, too.
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/cora"]}


def test_the_notice_names_every_embedded_model() -> None:
    notice = (ROOT / "src/cora/assets/NOTICE.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in notice for name in EMBEDDED)
    for owner in ("Google", "RangiLyu", "OpenAI", "all-MiniLM-L6-v2", "WordNet"):
        assert owner in notice
    # The images that the page offers, with who made them, as examples/ has it.
    credits = (ROOT / "examples/CREDITS.md").read_text(encoding="utf-8")
    for image in (ROOT / "src/cora/assets/page").glob("*.jpg"):
        (line,) = (line for line in notice.splitlines() if f"`{image.name}`" in line)
        _, _, subject, photographer, terms, _ = line.split("|")
        for told in (subject, photographer, terms):
            assert told in credits
