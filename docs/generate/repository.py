"""Where things are: in the checkout, and on the repository's host."""

import posixpath
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
FIGURES = "assets/results"  # on the site, the figures that are kept under RESULTS
_BRANCH = "main"
_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def url_of(repository: str, path: str, line: int | None = None) -> str:
    """Returns where the repository's host shows a file or folder, named from the repository's root."""
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{repository.rstrip('/')}/{kind}/{_BRANCH}/{path}" + (f"#L{line}" if line else "")


def on_site(repository: str, path: str) -> str:
    """Returns where the site has a file of the repository, from the site's root, or else where its host shows it."""
    if path in _PAGES:
        return f"/{_PAGES[path]}"
    folder, name = posixpath.split(path)
    if folder == "docs" or folder.startswith("docs/"):
        return path.removeprefix("docs")
    if folder == "experiments/results" and name.endswith(".png"):
        return f"/{FIGURES}/{name}"
    return url_of(repository, path)
