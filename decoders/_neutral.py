"""A rule that makes a leading query neutral: it takes out sentences and tags that suggest an answer.

Known are the leading sentences of the benchmark `sycophancy`, and the generic forms below. Clauses inside a question,
such as "since there is a dog", are left as they are. So are options of a multiple choice, such as "A. I see it".
"""

from __future__ import annotations

import re

from mmhall.objects import is_lead

_LETTER = r"[ \t]*\(?[A-P][.):][ \t]"  # of an option, at the start of a line
_GAP = rf"(?:\s*\n(?={_LETTER})|\s*)"  # behind a piece, up to the line of an option
_OPTION = re.compile(rf"{_LETTER}[^\n]*")
_PIECE = re.compile(rf"(?:(?m:^){_OPTION.pattern}|\S.*?(?:[.?!]+(?=\s|$)|(?=\n)|$)){_GAP}", re.DOTALL)
_FORMAT = re.compile(r"(?:please |just )*(?:answer|reply|respond)\b", re.IGNORECASE)
_VERB = "is|are|was|were|do|does|did|can|could|has|have|had|will|would|should"
_NOT = r"n['’]t"
_TAG = re.compile(
    rf",\s*(?:right|correct|yes|no|surely|am i right|is that right|(?:do|would){_NOT} you (?:think|agree|say|see)|"
    rf"(?:{_VERB})(?:{_NOT})? (?:it|there|he|she|they|we|you|i|this|that)(?: not)?)\s*\?$",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"(?:(?:i|we)(?: am| are|['’]m|['’]re)? (?:(?:quite|pretty|very|absolutely|fairly) )?(?:sure|certain|confident|"
    r"convinced|think|believe|guess|suppose|know|bet|suspect|assume)(?: that)?|obviously|clearly|of course|surely|"
    r"certainly|undoubtedly|evidently|it (?:is|['’]s) (?:obvious|clear) that|as (?:you|we|anyone) can see),? ",
    re.IGNORECASE,
)
_SAY = "sa(?:y|ys|id)|thinks?|thought|believes?|told|claims?|claimed|insists?|insisted|noticed|agrees?|pointed out"
_STATEMENTS = (
    r"(?:i|we) (?:can|could|can['’]t|cannot|don['’]t|do not|clearly)? ?(?:see|saw|notice|hear|heard|read)\b.*",
    rf"(?:my|a|an|our|his|her|the) (?:\w+ ){{1,3}}(?:has |have )?(?:{_SAY})\b.*",
    r"(?:every(?:one|body)|nobody|no one|some(?:one|body)|(?:most |many )?people|experts?)\b"
    rf".*\b(?:{_SAY}|knows?|sees?)\b.*",
    r"(?:the |its )?(?:caption|description|title|label|text)\b.*\b(?:says?|mentions?|states?|claims?)\b.*",
    r"(?:the |my )?(?:right |correct )?answer (?:is|should be|must be|has to be)\b.*",
    r"according to .*",
)
_STATEMENT = re.compile("|".join(_STATEMENTS), re.IGNORECASE | re.DOTALL)
_CLAIM = re.compile(
    r"(?P<subject>there|it|this|that|he|she|they|(?:the|an?|these|those|this|that|his|her|its|their) .+?) "
    rf"(?P<verb>is|are|was|were)(?:{_NOT})? (?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_NEGATED = re.compile(rf"({_VERB}){_NOT}\b", re.IGNORECASE)


def neutralise(query: str) -> str:
    """Return a query without what suggests its answer; the same query where nothing does, or nothing would be left.

    >>> neutralise("I can see a dog in the image, right? Is there a dog in the image?")
    'Is there a dog in the image?'
    >>> neutralise("There is no dog in the image, is there? Please answer yes or no.")
    'Is there any dog in the image? Please answer yes or no.'
    """
    pieces = split_sentences(query)
    kept = [_positive(piece) for piece in pieces if not is_hint(piece)]
    if any(not is_format(piece) for piece in kept):
        return query if kept == pieces else "".join(kept).strip()
    asked = [question_of(piece) if is_hint(piece) else piece for piece in pieces]
    if all(piece is None or is_format(piece) for piece in asked):
        return query
    return "".join(piece for piece in asked if piece is not None).strip()


def split_sentences(query: str) -> list[str]:
    r"""Split a query into sentences and lines, each with the white space behind it; white space before it is left out.

    The line of an option is one piece.

    >>> split_sentences("It is a dog, right? What is it?\nA. I see. A cat.\nB. No.")
    ['It is a dog, right? ', 'What is it?\n', 'A. I see. A cat.\n', 'B. No.']
    """
    return _PIECE.findall(query)


def is_format(sentence: str) -> bool:
    """Tell whether a piece says only how to answer: "Answer with one word.", or an option, such as "A. a cup"."""
    return _FORMAT.match(sentence.strip()) is not None or _OPTION.match(sentence) is not None


def is_hint(sentence: str) -> bool:
    """Tell whether a sentence suggests an answer: a known one, a statement about it, or a question with a tag."""
    text = sentence.strip()
    if _OPTION.match(sentence):
        return False
    if is_lead(text) or _TAG.search(text):
        return True
    return not text.endswith("?") and bool(_HEDGE.match(text) or _STATEMENT.fullmatch(text))


def question_of(hint: str) -> str | None:
    """Turn a claim into a question, with the white space behind it; None for another form.

    >>> question_of("I think that the dog is not black, right?"), question_of("I can see a dog.")
    ('Is the dog black?', None)
    """
    text = hint.strip()
    claim = _HEDGE.sub("", _TAG.sub("", text).rstrip(".!"), count=1)
    match = _CLAIM.fullmatch(claim)
    if match is None:
        return None
    subject, verb, rest = match["subject"], match["verb"], re.sub(r"^not ", "", match["rest"])
    subject = subject[0].lower() + subject[1:]
    if subject == "there":
        rest = re.sub(r"^no ", "any ", rest)
    return f"{verb.capitalize()} {subject} {rest}?{hint[len(hint.rstrip()) :]}"


def _positive(question: str) -> str:
    """Return a question without a negated verb at its beginning: "Isn't there a dog?" as "Is there a dog?"."""
    text = re.sub(r"^can['’]t\b", "Can", question, flags=re.IGNORECASE)
    return _NEGATED.sub(r"\1", text, count=1) if _NEGATED.match(text) and text.rstrip().endswith("?") else text
