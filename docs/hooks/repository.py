"""Pages of the site that lie elsewhere in the repository, and links to them.

Files outside `docs/` keep their place and their links, which work where the repository is read.
The site gets copies of the experiments, the contributing guide and the change log; a link is
rewritten where the copy has another path than its original.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-reports.md",
}
"""Path in the repository: path in the site."""
FOLDERS = ("experiments",)
"""Copied whole, to the same path."""
SUFFIXES = {".csv", ".json", ".md", ".png", ".yaml"}
LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\()(?P<target>[^)\s]+)(?P<after>\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the experiments in the navigation, in the order of their overview; MkDocs calls it."""
    root = Path(config.docs_dir).parent
    overview = (root / "experiments/README.md").read_text(encoding="utf-8")
    pages = [path.relative_to(root).as_posix() for path in root.glob("experiments/*/README.md")]
    (section,) = (item["Experiments"] for item in config.nav or [] if "Experiments" in item)
    section += sorted(pages, key=lambda page: overview.find(page.removeprefix("experiments/")))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the copies; MkDocs calls it."""
    root = Path(config.docs_dir).parent
    copies = dict(PAGES)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                name = path.relative_to(root).as_posix()
                copies[name] = name
    for original, uri in copies.items():
        files.append(File.generated(config, uri, abs_src_path=str(root / original)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Point relative links at the copies; MkDocs calls it."""
    return rewrite_links(markdown, page.file.src_uri, set(files.src_uris))


def rewrite_links(markdown: str, uri: str, known: set[str]) -> str:
    """Rewrite the links of a page.

    Args:
        markdown: the text of the page.
        uri: its path in the site.
        known: all paths in the site.

    Returns:
        The text, in which links to files of the site are relative to `uri`. Others stay as they
        are, so that MkDocs can complain about them.

    """

    def rewrite(match: re.Match[str]) -> str:
        parts = urlsplit(match["target"])
        if parts.scheme or parts.netloc or not parts.path:
            return match[0]
        folder = posixpath.dirname(repository_path(uri))
        target = site_path(posixpath.normpath(posixpath.join(folder, parts.path)))
        if target not in known:
            return match[0]
        path = posixpath.relpath(target, posixpath.dirname(uri) or ".")
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return f"{match['before']}{path}{fragment}{match['after']}"

    return LINK.sub(rewrite, markdown)


def repository_path(uri: str) -> str:
    """Where a file of the site lies in the repository."""
    originals = {copy: original for original, copy in PAGES.items()}
    if uri in originals or uri.split("/")[0] in FOLDERS:
        return originals.get(uri, uri)
    return f"docs/{uri}"


def site_path(path: str) -> str:
    """Where a file of the repository lies in the site, if it is there; inverse of the above."""
    return PAGES.get(path, path.removeprefix("docs/"))
