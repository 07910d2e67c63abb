"""What the site makes of findings and powers."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("sphinx")


@pytest.fixture(autouse=True)
def _extensions(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "extensions")


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("is 10^-738: float32", ["\N{MINUS SIGN}738"]),
        ("L^-0.4 to L^-0.5.", ["\N{MINUS SIGN}0.4", "\N{MINUS SIGN}0.5"]),
        ("exp(-x^2) cos 5x, 2^L - 1", ["2", "L"]),
        ("under L^-1/2, s^3/3", ["\N{MINUS SIGN}1/2", "3"]),
        ("a ^ b and prod^over", []),
    ],
)
def test_powers_are_raised(text, raised):
    import powers
    from docutils import nodes

    made = powers.with_powers(text)
    assert [node.astext() for node in made if isinstance(node, nodes.superscript)] == raised
    assert "".join(node.astext() for node in made).replace("\N{MINUS SIGN}", "-") == text.replace("^", "", len(raised))


def test_a_finding_is_said_without_the_marks_of_its_formulas():
    import studies

    assert studies.plain(r"$10^{-738}$ for $x + 1.5\,\sin 3x$") == "10^-738 for x + 1.5sin  3x"


def test_every_study_has_a_page_in_the_gallery_and_a_headline():
    import studies

    names = studies.study_names()
    assert len(names) >= 18
    index = (ROOT / "docs" / "gallery" / "index.md").read_text(encoding="utf-8")
    for name in names:
        page = (ROOT / "docs" / "gallery" / f"{name}.md").read_text(encoding="utf-8")
        assert f"```{{study}} {name}\n```" in page
        assert index.count(f"\n{name}\n") == 2, "a card, and a place in the table of contents"
        study = studies.Study(name)
        assert study.findings[name].strip()
        assert study.question.endswith(("?", ".")), name
        assert {"Question", "Method", "Reading"} <= {text.split(".")[0] for text in study.paragraphs}, name
        for picture in study.findings:
            for kind in ("png", "pdf"):
                assert (ROOT / "figures" / f"{picture}.{kind}").is_file()
