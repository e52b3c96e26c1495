"""What an answer looks like: records of its words, marks and maps, and their self-contained HTML.

Everything here stands on plain data, so that answers, traces, notebooks and the comparison page share it.
"""
