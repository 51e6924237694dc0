"""What the pages tell the reader to do works, and what they point at exists."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, RUN, Reader, blocks, is_generated, prose

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
WITH_EXAMPLES = [
    page for page in PAGES if not is_generated(page) and any(b.language in RUN for b in blocks(page))
]
REDIS = "redis://localhost/0"


class Pages(BaseHTTPRequestHandler):
    """A small web site: each page takes a moment and is as long as its number says."""

    def do_GET(self):
        time.sleep(0.02)
        body = b"x" * int(self.path.rpartition("/")[2])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=[str(page.relative_to(ROOT)) for page in WITH_EXAMPLES])
def test_a_page_does_what_it_shows(page, site, tmp_path, monkeypatch, request):
    urls = "".join(f"{site}/{number}\n" for number in range(1, 41))
    (tmp_path / "urls.txt").write_text(urls, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    servers = {}
    if any(REDIS in block.text for block in blocks(page) if block.language in RUN):
        servers[REDIS] = request.getfixturevalue("redis_server").url
    Reader(page, tmp_path, servers).follow()


@pytest.mark.parametrize("page", [page for page in PAGES if not is_generated(page)], ids=str)
def test_every_command_and_session_that_a_page_shows_is_run(page):
    shown = [
        f"line {block.line}: {line}"
        for block in blocks(page)
        if block.language not in RUN
        for line in block.text.splitlines()
        if re.match(r"(\$ )?manyhands |>>> ", line)
    ]
    assert shown == [], f"expected in a block of one of {RUN}"


@each_page
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'src="([^"]+)"', prose(page))
    local = [target for target in targets if not re.match(r"https?://|mailto:", target)]
    assert [target for target in local if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    goal = (page.parent / path).resolve() if path else page
    if not goal.exists():
        return False
    return not anchor or anchor in anchors(goal)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@each_page
def test_the_make_targets_that_are_spoken_of_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    source = page.read_text(encoding="utf-8")
    spoken_of = set(re.findall(r"(?:`|^)(?:\w+=\S+ )*make ([a-z][a-z-]*)", source, re.MULTILINE))
    assert sorted(spoken_of - targets) == []


def test_no_page_is_an_orphan():
    linked = {ROOT / "README.md"}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s#]+)", prose(page)):
            linked.add((page.parent / target).resolve())
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in linked] == []


def test_the_page_of_the_crates_names_every_module():
    named = set(re.findall(r"`(\w+)`", (ROOT / "crates" / "README.md").read_text(encoding="utf-8")))
    files = [path for path in ROOT.glob("crates/*/src/*") if path.stem not in ("lib", "scratch")]
    without_a_line = sorted(str(path.relative_to(ROOT)) for path in files if path.stem not in named)
    assert without_a_line == [], "give each a line in crates/README.md"
