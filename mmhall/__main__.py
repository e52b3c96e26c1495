"""python -m mmhall."""

from mmhall.cli import main

main()
