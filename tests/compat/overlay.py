"""An environment that differs from this one in the version of transformers, and in what that version needs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def python_with(transformers: str) -> str:
    """Return a Python that has this version of transformers; all else is this one's.

    Its environment is made beside the one in use, where there is none yet or that one has changed; packages that it
    lacks are found there.
    """
    if version("transformers") == transformers:
        return sys.executable
    folder = ROOT / f".venv-transformers-{transformers}"
    python, ready, below = folder / "bin" / "python", folder / ".ready", sysconfig.get_path("purelib")
    made_from = f"{sys.version}\n{below}\n{(ROOT / 'constraints.txt').read_text()}"
    if not ready.exists() or ready.read_text() != made_from:
        print(f"== making {folder.name}, about a minute", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = Path(subprocess.check_output(asked, text=True).strip())
        (own / "base.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        done = subprocess.run([python, "-m", "pip", "install", "-qq", f"transformers=={transformers}"])
        if done.returncode:
            told = f"transformers {transformers} cannot be installed for Python {sys.version.split()[0]}"
            sys.exit(
                f"{told}; `make compat` needs a Python that runs the oldest and the newest version (3.11 or newer)"
            )
        ready.write_text(made_from)
    return str(python)
