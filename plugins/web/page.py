"""Writes the page of `speechkit serve` with the engine in WebAssembly in place of the server.

    make -C plugins/web page OUT=FOLDER    # python page.py MODULE FOLDER, after building the module

Any web server can serve the folder; its files need nothing from elsewhere.
"""

import json
import shutil
import sys
from pathlib import Path

from speechkit.card import bundled_folders
from speechkit.io.folders import PLAN
from speechkit.plans.plan import load_plan
from speechkit.serve.assets import FOLDER as PAGE
from speechkit.serve.models import Models

WEB = Path(__file__).parent


def write(module: Path, out: Path) -> None:
    """Writes the page, the package speechkit-web and the bundled plans, over older ones."""
    shutil.copytree(PAGE, out / "page", dirs_exist_ok=True)
    shutil.move(out / "page" / "index.html", out / "index.html")
    shutil.copy(WEB / "page" / "source.js", out / "page" / "source.js")
    shutil.copytree(WEB / "src", out / "web" / "src", dirs_exist_ok=True)
    shutil.copy(WEB / "index.js", out / "web" / "index.js")
    (out / "web" / "dist").mkdir(exist_ok=True)
    shutil.copy(module, out / "web" / "dist" / "speechkit.wasm")
    plans = {folder.name: folder / PLAN for folder in bundled_folders()}
    (out / "models").mkdir(exist_ok=True)
    for name, plan in plans.items():
        shutil.copy(plan, out / "models" / f"{name}.safetensors")
    rows = Models({name: load_plan(plan) for name, plan in plans.items()}).rows()
    (out / "models.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"{__doc__}\ngive MODULE FOLDER")
    write(*map(Path, sys.argv[1:]))
