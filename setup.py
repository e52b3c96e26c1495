"""What `pyproject.toml` cannot say: in the package's description, links of the README lead to the repository."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
REPOSITORY = re.search(r'^Repository = "(.+)"$', (HERE / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
README = (HERE / "README.md").read_text(encoding="utf-8")
README = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{REPOSITORY}/raw/main/", README)
README = re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1{REPOSITORY}/blob/main/", README)

setup(long_description=README, long_description_content_type="text/markdown")
