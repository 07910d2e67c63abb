"""Pages as Chromium shows them without a window: what it measures, prints, says and draws."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

#: Runs beside the page, which has no script of its own, in a frame as wide as a phone.
MEASURE = """
const frame = document.getElementById("frame"), inside = frame.contentDocument, faults = [];
const visible = (e) => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
const walker = inside.createTreeWalker(inside.body, NodeFilter.SHOW_TEXT);
let texts = 0;
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  if (!node.data.trim() || node.parentElement.closest("style, script")) continue;
  const range = inside.createRange();
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect();
  texts += 1;
  if (!visible(node.parentElement) || box.width < 1 || box.height < 1) faults.push("hidden: " + node.data);
  if (box.left < -0.5 || box.right > frame.clientWidth + 0.5) faults.push("beside the page: " + node.data);
}
for (const svg of inside.querySelectorAll("svg")) {
  const whole = svg.getBoundingClientRect(), boxes = [];
  for (const text of svg.querySelectorAll("text")) {
    const box = text.getBoundingClientRect();
    const aside = Math.max(whole.left - box.left, box.right - whole.right);
    const out = Math.max(aside, whole.top - box.top, box.bottom - whole.bottom);
    if (out > 1) faults.push("outside of its figure: " + text.textContent);
    for (const [other, words] of boxes) {
      const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
      const along = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
      if (across > 1 && along > 3) faults.push("on one another: " + words + ", " + text.textContent);
    }
    boxes.push([box, text.textContent]);
  }
}
const scripts = inside.scripts.length, width = inside.documentElement.scrollWidth;
const figures = [...inside.querySelectorAll("figure")].map((one) => one.getBoundingClientRect().bottom);
document.body.textContent = JSON.stringify({width, figures, scripts, texts, faults});
"""
FRAME = (
    '<!DOCTYPE html><body style="margin: 0"><iframe id="frame" style="border: 0; width: {width}px; height: 800px" '
    'srcdoc="{page}"></iframe><script>window.onload = () => {{ {script} }}</script>'
)


def chromium():
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def started(address, folder, *options):
    """Run Chromium on an address, and return what it writes and the messages on its console."""
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    own = [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [chromium(), *fixed, *own, *options, address], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def measured(page, folder, width=380):
    """Return what a page is at some width: how wide, where figures end, how many texts and scripts, and its faults."""
    script = MEASURE.replace("</", "<\\/")
    framed = folder / "framed.html"
    framed.write_text(
        FRAME.format(width=width, page=html.escape(Path(page).read_text("utf-8")), script=script), "utf-8"
    )
    out, _ = started(framed.as_uri(), folder, "--dump-dom", "--window-size=1000,1000")
    return json.loads(html.unescape(re.search(r"<body[^>]*>(.*)</body>", out, re.DOTALL)[1]))


def printed(page, folder):
    """Return how many pages of A4 a page takes on paper, and the messages on the console."""
    copy, paper = folder / "paper.html", folder / "paper.pdf"
    copy.write_text(Path(page).read_text("utf-8").replace("</head>", "<style>@page{size:A4}</style></head>"), "utf-8")
    _, said = started(copy.as_uri(), folder, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    return len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())), said


def pictured(page, path, folder, width=760):
    """Write a picture of a page as far as its first figure."""
    height = round(measured(page, folder, width)["figures"][0]) + 10
    started(Path(page).as_uri(), folder, f"--screenshot={path}", f"--window-size={width},{height}")
