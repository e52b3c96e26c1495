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

    Its environment is made beside the one in use, where there is none yet: packages that it lacks are found there.
    """
    if version("transformers") == transformers:
        return sys.executable
    folder = ROOT / f".venv-transformers-{transformers}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"== making {folder.name} (about a minute)", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        own = Path(
            subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        (own / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        subprocess.run([python, "-m", "pip", "install", "-qq", f"transformers=={transformers}"], check=True)
        ready.touch()
    return str(python)
