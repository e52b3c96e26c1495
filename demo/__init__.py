"""The comparison page, built with Gradio."""

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.demo, not demo: a second name would make a second copy of every class")
